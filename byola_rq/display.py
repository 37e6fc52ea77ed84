"""Pictures of spectrograms and views, in one style."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from byola_rq.errors import ConfigError, MissingPackageError
from byola_rq.frontend import LogMelSpectrogram
from byola_rq.mel import mel_centres

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOUR_MAP = "magma"  # perceptually uniform, dark for silence


def draw_log_mel(
    axes: "Axes",
    log_mel: Tensor,
    frontend: LogMelSpectrogram,
    *,
    title: str,
    limits: tuple[float, float] | None = None,
) -> Any:
    """Draw a spectrogram `(F, T)` with its axes in Hz and seconds; returns the image."""
    num_bands, num_frames = log_mel.shape
    seconds = num_frames * frontend.hop_length / frontend.sample_rate
    low, high = limits or (float(log_mel.min()), float(log_mel.max()))
    image = axes.imshow(
        log_mel.cpu().numpy(),
        origin="lower",
        aspect="auto",
        interpolation="nearest",
        extent=(0, seconds, -0.5, num_bands - 0.5),
        cmap=COLOUR_MAP,
        vmin=low,
        vmax=high,
    )
    centres = mel_centres(frontend.n_mels, frontend.f_min, frontend.f_max)
    bands = range(0, num_bands, max(num_bands // 6, 1))
    axes.set_yticks(list(bands), [f"{centres[band]:.0f}" for band in bands])
    axes.set_xlabel("time (s)")
    axes.set_ylabel("frequency (Hz)")
    axes.set_title(title, fontsize=10)
    return image


def save_views_picture(
    path: Path,
    log_mel: Tensor,
    views: tuple[Tensor, Tensor],
    frontend: LogMelSpectrogram,
    *,
    title: str,
) -> None:
    """Draw a standardized segment and its two views, `(F, T)` each, side by side.

    The views share one colour scale; the segment, standardized otherwise, has its own.

    Raises:
        ConfigError: If the picture cannot be written there.
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


def make_figure(width: float, height: float) -> Any:
    """An empty matplotlib figure of so many inches; needs no display, as pyplot would.

    Raises:
        MissingPackageError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingPackageError(
            "pictures need matplotlib, which is not installed; `pip install 'byola_rq[plots]'`"
        ) from error
    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure in the format that the path's ending names.

    Raises:
        ConfigError: If it cannot be written there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: the picture cannot be written ({error})") from error
