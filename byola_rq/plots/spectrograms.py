"""Pictures of spectrograms, views and quantizers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from byola_rq.audio.frontend import LogMelSpectrogram
from byola_rq.audio.mel import mel_centers
from byola_rq.plots.style import COLOR_MAP, COLORS, QUIET, make_figure, save_figure, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LARGEST_RANGE = 16.0  # nat, 69 dB: anything below is inaudible beside the loudest

_HERTZ = (63, 125, 250, 500, 1000, 2000, 4000, 8000, 16000)


def color_limits(log_mels: Sequence[Tensor]) -> tuple[float, float]:
    """Color limits for spectrograms in nat: from their maximum down, at most 69 dB."""
    high = max(float(log_mel.max()) for log_mel in log_mels)
    low = min(float(log_mel.min()) for log_mel in log_mels)
    return min(max(low, high - LARGEST_RANGE), high - 1), high


def hertz_ticks(frontend: LogMelSpectrogram) -> list[tuple[float, str]]:
    """Ticks at octaves on the axis of mel bands, highest first: (position in bands, label)."""
    centers = mel_centers(frontend.n_mels, frontend.f_min, frontend.f_max)
    places = np.interp(_HERTZ, centers, np.arange(len(centers)), left=np.nan, right=np.nan)
    ticks: list[tuple[float, str]] = []
    # From the top, since below 1 kHz bands are equally wide and octaves crowd.
    for place, hertz in reversed(list(zip(places.tolist(), _HERTZ, strict=True))):
        is_clear = not ticks or ticks[-1][0] - place > 0.08 * len(centers)
        if np.isfinite(place) and is_clear:
            ticks.append((place, f"{hertz / 1000:g}k" if hertz >= 1000 else str(hertz)))
    return ticks


def draw_log_mel(
    axes: "Axes",
    log_mel: Tensor,
    frontend: LogMelSpectrogram,
    *,
    title: str,
    limits: tuple[float, float] | None = None,
) -> Any:
    """Draw a spectrogram `(F, T)` with axes in Hz and seconds; return the image."""
    num_bands, num_frames = log_mel.shape
    seconds = num_frames * frontend.hop_length / frontend.sample_rate
    low, high = limits or (float(log_mel.min()), float(log_mel.max()))
    image = axes.imshow(
        log_mel.cpu().numpy(),
        origin="lower",
        aspect="auto",
        interpolation="nearest",
        extent=(0, seconds, -0.5, num_bands - 0.5),
        cmap=COLOR_MAP,
        vmin=low,
        vmax=high,
    )
    places, labels = zip(*hertz_ticks(frontend), strict=True)
    axes.set_yticks(places, labels)
    axes.set_xlabel("time (s)")
    axes.set_ylabel("frequency (Hz)")
    axes.set_title(title, fontsize=10)
    return image


def draw_views(
    log_mels: Mapping[str, Tensor],
    frontend: LogMelSpectrogram,
    *,
    limits: tuple[float, float] | None = None,
    label: str = "log-mel (nat)",
    columns: int = 3,
) -> Any:
    """Plot spectrograms, `(F, T)` each by title, in one color scale.

    Raises:
        MissingPackageError: If matplotlib is not installed.
    """
    limits = limits or color_limits(list(log_mels.values()))
    columns = min(columns, len(log_mels))
    rows = -(-len(log_mels) // columns)
    figure = make_figure(4 * columns, 2.9 * rows)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    image = None
    for place, axes in enumerate(grid.flat):
        if place >= len(log_mels):
            axes.set_visible(False)
            continue
        title = list(log_mels)[place]
        image = draw_log_mel(axes, log_mels[title], frontend, title=title, limits=limits)
        axes.label_outer()
    figure.colorbar(image, ax=grid, label=label)
    return figure


def draw_bins(
    axes: "Axes", edges: Tensor, values: Tensor, before: Tensor, *, title: str = ""
) -> None:
    """Draw one band's quantizer as a step curve over the band's values.

    Args:
        axes: Axes to draw on.
        edges: Inner edges, `(K - 1,)`.
        values: Reproduction values, `(K,)`.
        before: Values of the band before quantization, `(T,)`.
        title: Title of the panel.
    """
    low, high = float(before.min()), float(before.max())
    axes.stairs(
        values.numpy(), [low, *edges.tolist(), high], baseline=None, color=COLORS[0], linewidth=1.8
    )
    axes.plot([low, high], [low, high], color=QUIET, linewidth=0.8, linestyle=":")
    axes.plot(before, np.full(len(before), low), "|", color=COLORS[1], markersize=7)
    axes.set_xlabel("value (nat)")
    axes.set_ylabel("becomes (nat)")
    axes.set_title(title, fontsize=10)
    tidy(axes)


def save_views_picture(
    path: Path,
    log_mel: Tensor,
    views: tuple[Tensor, Tensor],
    frontend: LogMelSpectrogram,
    *,
    title: str,
) -> None:
    """Draw a standardized segment and its two views, `(F, T)` each, side by side.

    The views share one color scale; the segment, which is standardized differently, has its own.

    Raises:
        ConfigError: If the picture cannot be written.
        MissingPackageError: If matplotlib is not installed.
    """
    figure = make_figure(12, 3.8)
    axes = figure.subplots(1, 3, sharey=True)
    draw_log_mel(axes[0], log_mel, frontend, title="segment")
    both = (min(view.min().item() for view in views), max(view.max().item() for view in views))
    for number, view in enumerate(views, start=1):
        image = draw_log_mel(axes[number], view, frontend, title=f"view {number}", limits=both)
    for right in axes[1:]:
        right.set_ylabel("")
    figure.colorbar(image, ax=axes, label="standardized log-mel")
    figure.suptitle(title, fontsize=11)
    save_figure(figure, path)
