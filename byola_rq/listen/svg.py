"""Pictures of the listening page: inline SVG that follows the page's colors and width."""

import base64
import io
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from markupsafe import Markup
from torch import Tensor

from byola_rq.audio.frontend import LogMelSpectrogram
from byola_rq.errors import package_needed
from byola_rq.listen.augmented import BandDrawn, CropDrawn
from byola_rq.listen.similarity import Similarity
from byola_rq.plots.spectrograms import hertz_ticks
from byola_rq.plots.style import COLOR_MAP

_WIDTH = 360
_LEFT, _RIGHT, _TOP = 34, 350, 6  # of a plot within a picture
_MANY_EDGES = 64  # with more they would merge into a gray bar


def color_png(pixels: Tensor, limits: tuple[float, float]) -> str:
    """Encode an array `(rows, columns)`, first row at the bottom, as a picture in a data URI.

    Raises:
        MissingPackageError: If matplotlib is not installed.
    """
    with package_needed("a picture", "matplotlib", extra="plots"):
        from matplotlib import colormaps
        from matplotlib.image import imsave
    low, high = limits
    data = io.BytesIO()
    values = (pixels.cpu().numpy() - low) / (high - low)
    imsave(data, colormaps[COLOR_MAP](values, bytes=True), format="png", origin="lower")
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()


def spectrogram_svg(
    log_mel: Tensor,
    frontend: LogMelSpectrogram,
    limits: tuple[float, float],
    *,
    label: str,
    crop: CropDrawn | None = None,
) -> Markup:
    """Draw a spectrogram with axes in Hz and seconds.

    Args:
        log_mel: Log-mel spectrogram `(F, T)`, in nat.
        frontend: Frontend, for the units of the axes.
        limits: Ends of the color scale.
        label: Accessible description.
        crop: Crop whose canvas and box to draw instead; time 0 is the start of the segment.
    """
    pixels = log_mel if crop is None else crop.canvas
    num_bands, num_frames = pixels.shape
    seconds = frontend.hop_length / frontend.sample_rate
    first_band, first_frame = (
        (whole - part) // 2 for whole, part in zip(pixels.shape, log_mel.shape, strict=True)
    )
    height = 168
    across, down = (_RIGHT - _LEFT) / num_frames, (height - _TOP) / num_bands

    def x_of(frame: float) -> float:
        return _LEFT + (frame + first_frame) * across

    def y_of(band: float) -> float:
        return height - (band + first_band) * down

    parts = [_image(pixels, limits, _LEFT, _TOP, width=_RIGHT - _LEFT, height=height - _TOP)]
    for band, text in hertz_ticks(frontend):
        parts.append(_tick_left(y_of(band + 0.5), text))
    begin, end = -first_frame * seconds, (num_frames - first_frame) * seconds
    for time in _round_steps(begin, end):
        parts.append(_tick_below(x_of(time / seconds), height, f"{time:g}"))
    if crop is not None:
        left, right = x_of(0), x_of(log_mel.shape[1])
        parts += [_path("segment", f"M{x:.1f} {_TOP}V{height}") for x in (left, right)]
        x, y = _LEFT + crop.left * across, height - (crop.top + crop.height) * down
        box = Markup('<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>')
        size = crop.width * across, crop.height * down
        parts += [box.format(name, x, y, *size) for name in ("halo", "box")]
    else:
        playhead = Markup('<path class="playhead" d="{}" data-across="{}" visibility="hidden"/>')
        parts.append(playhead.format(f"M{_LEFT} {_TOP}V{height}", _RIGHT - _LEFT))
    parts.append(_text(_RIGHT, height + 26, "seconds", "end"))
    parts.append(_text(2, height + 26, "Hz", "start"))
    return _svg(parts, height + 30, label)


def bins_svg(drawn: BandDrawn, *, label: str) -> Markup:
    """Draw one band's quantizer: its step curve, and the band over time before and after."""
    low, high = float(drawn.before.min()), float(drawn.before.max())
    span = max(high - low, 1e-6)
    height, bottom = 124, 112
    middle = 160

    def y_of(value: float) -> float:
        return bottom - (value - low) / span * (bottom - _TOP)

    def x_of(value: float) -> float:
        return _LEFT + (value - low) / span * (middle - _LEFT)

    corners = [low, *drawn.edges.tolist(), high]
    steps = [
        f"{'M' if place == 0 else 'L'}{x_of(corners[place]):.1f} {y_of(value):.1f}"
        f"H{x_of(corners[place + 1]):.1f}"
        for place, value in enumerate(drawn.values.tolist())
    ]
    edges = drawn.edges.tolist() if len(drawn.edges) <= _MANY_EDGES else []
    time_left = middle + 22
    across = (_RIGHT - time_left) / len(drawn.before)
    parts = [
        _path("frame", f"M{_LEFT} {_TOP}V{bottom}H{middle}M{time_left} {_TOP}V{bottom}H{_RIGHT}"),
        _path("edges", "".join(f"M{x_of(edge):.1f} {_TOP}V{bottom}" for edge in edges)),
        _path("edges", "".join(f"M{time_left} {y_of(edge):.1f}H{_RIGHT}" for edge in edges)),
        _path("identity", f"M{_LEFT} {bottom}L{middle} {_TOP}"),
        _path("after", "".join(steps)),
        _path("before", _curve(drawn.before, time_left, across, y_of)),
        _path("after", _curve(drawn.after, time_left, across, y_of, is_step=True)),
        *(_tick_left(y_of(value), f"{value:.0f}") for value in _round_steps(low, high, 3)),
        _text((_LEFT + middle) / 2, height - 1, "value in, value out (nat)", "middle"),
        _text((time_left + _RIGHT) / 2, height - 1, "over time", "middle"),
    ]
    return _svg(parts, height + 2, label)


def similarity_svg(
    similarity: Similarity, beside: Sequence[str], low: float, *, label: str
) -> Markup:
    """Draw cosines on one line: between the two views, and between view 1 and other sounds."""

    def x_of(cosine: float) -> float:
        return 12 + (cosine - low) / (1 - low) * (_WIDTH - 24)

    parts = [_path("frame", f"M12 30H{_WIDTH - 12}")]
    for value in _round_steps(low, 1.0, 4):
        parts.append(_tick_below(x_of(value), 30, f"{value:g}"))
    for name, cosine in similarity.to_others.items():
        kind = "beside" if name in beside else "synthesized"
        dot = Markup('<circle class="{}" cx="{:.1f}" cy="18" r="4.5">{}</circle>')
        parts.append(dot.format(kind, x_of(cosine), _title(f"{name}: {cosine:.3f}")))
    diamond = Markup('<path class="views" d="M{:.1f} 9l7 9l-7 9l-7 -9z">{}</path>')
    title = _title(f"the two views: {similarity.views:.3f}")
    parts.append(diamond.format(x_of(similarity.views), title))
    return _svg(parts, 48, label)


def color_scale_svg(limits: tuple[float, float]) -> Markup:
    """Draw the color scale, with its values in nat."""
    import torch

    low, high = limits
    ramp = torch.linspace(low, high, 128)[None]
    parts = [_image(ramp, limits, 8, 4, width=_WIDTH - 16, height=12)]
    for value in _round_steps(low, high, 6):
        x = 8 + (value - low) / (high - low) * (_WIDTH - 16)
        parts.append(_tick_below(x, 16, f"{value:g}"))
    return _svg(parts, 34, f"color scale from {low:.1f} to {high:.1f} nat")


def _svg(parts: Iterable[Markup], height: float, label: str) -> Markup:
    svg = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>')
    return svg.format(_WIDTH, height, label, Markup("").join(parts))


def _image(
    pixels: Tensor, limits: tuple[float, float], x: float, y: float, *, width: int, height: int
) -> Markup:
    return Markup(
        '<image x="{}" y="{}" width="{}" height="{}" preserveAspectRatio="none" href="{}"/>'
    ).format(x, y, width, height, color_png(pixels, limits))


def _path(kind: str, data: str) -> Markup:
    return Markup('<path class="{}" d="{}"/>').format(kind, data)


def _title(text: str) -> Markup:
    return Markup("<title>{}</title>").format(text)


def _curve(
    values: Tensor,
    left: float,
    across: float,
    y_of: Callable[[float], float],
    *,
    is_step: bool = False,
) -> str:
    """Return the path of a curve through equally spaced values; steps are one frame wide."""
    points = []
    for frame, value in enumerate(values.tolist()):
        x, y = left + frame * across, y_of(value)
        start = "M" if frame == 0 else "L"
        tail = f"H{x + across:.1f}" if is_step else ""
        points.append(f"{start}{x if is_step else x + across / 2:.1f} {y:.1f}{tail}")
    return "".join(points)


def _round_steps(low: float, high: float, most: int = 6) -> list[float]:
    """Return at most `most` evenly spaced round numbers between two ends."""
    for power in range(-4, 5):
        for step in (10.0**power, 2 * 10.0**power, 5 * 10.0**power):
            first, last = np.ceil(low / step - 1e-9), np.floor(high / step + 1e-9)
            if last - first + 1 <= most:
                return [round(number * step, 9) + 0.0 for number in np.arange(first, last + 1)]
    return []


def _tick_left(y: float, text: str) -> Markup:
    return _path("frame", f"M{_LEFT - 4} {y:.1f}H{_LEFT}") + _text(_LEFT - 6, y + 3.5, text, "end")


def _tick_below(x: float, y: float, text: str) -> Markup:
    return _path("frame", f"M{x:.1f} {y}V{y + 4}") + _text(x, y + 14, text, "middle")


def _text(x: float, y: float, text: str, anchor: str) -> Markup:
    element = Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>')
    return element.format(x, y, anchor, text)
