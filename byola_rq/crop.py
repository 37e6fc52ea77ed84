"""Random resized crop: a random box of the spectrogram, resized back to its full size."""

from dataclasses import dataclass

import torch
from torch import Tensor

from byola_rq.augmentation import Augmentation, compute_dtype
from byola_rq.randomness import uniform

_CUBIC_A = -0.75  # the cubic kernel's free parameter; torch's and OpenCV's choice


@dataclass(frozen=True)
class CropBoxes:
    """Boxes on the canvas, in bands and frames; int64 `(B,)` each.

    `canvas` is the canvas' size (bands, frames); the segment lies in its middle.
    """

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor
    canvas: tuple[int, int]


class RandomResizedCrop(Augmentation[CropBoxes]):
    """Cut a random box from a canvas wider than the segment, and resize it to the segment's size.

    The segment is laid in the middle of a zero canvas, so that a box may reach beyond its ends.

    Args:
        canvas: Canvas size in units of the segment: (bands, frames), each at least 1.
        freq_scale: Range of the box height, in units of the segment's bands.
        time_scale: Range of the box width, in units of the segment's frames.

    Raises:
        ValueError: If an argument breaks a rule above.

    Source: Niizumi et al., BYOL for Audio (arXiv:2103.06695).
    """

    def __init__(
        self,
        canvas: tuple[float, float] = (1.0, 1.5),
        freq_scale: tuple[float, float] = (0.6, 1.5),
        time_scale: tuple[float, float] = (0.6, 1.5),
    ) -> None:
        super().__init__()
        if min(canvas) < 1:
            raise ValueError(f"canvas must be at least 1 in both directions; got {tuple(canvas)}")
        for name, scale in (("freq_scale", freq_scale), ("time_scale", time_scale)):
            if not 0 < scale[0] <= scale[1]:
                raise ValueError(f"{name} must be (low, high), 0 < low <= high; got {tuple(scale)}")
        self.canvas = canvas
        self.freq_scale = freq_scale
        self.time_scale = time_scale

    def draw(self, x: Tensor, key: Tensor) -> CropBoxes:
        """Draw one box per sample of `x`, `(B, ..., F, T)`."""
        num_bands, num_frames = x.shape[-2:]
        canvas = (int(self.canvas[0] * num_bands), int(self.canvas[1] * num_frames))
        fractions = uniform(key, 4)  # (B, 4)
        height = _draw_size(fractions[:, 0], self.freq_scale, num_bands, canvas[0])
        width = _draw_size(fractions[:, 1], self.time_scale, num_frames, canvas[1])
        return CropBoxes(
            top=_draw_place(fractions[:, 2], canvas[0] - height),
            left=_draw_place(fractions[:, 3], canvas[1] - width),
            height=height,
            width=width,
            canvas=canvas,
        )

    def apply_parameters(self, x: Tensor, parameters: CropBoxes) -> Tensor:
        """Cut and resize, bicubically, corner to corner, the box's border repeated outside it."""
        boxes = parameters
        num_bands, num_frames = x.shape[-2:]
        margins = ((boxes.canvas[0] - num_bands) // 2, (boxes.canvas[1] - num_frames) // 2)
        resized = x.to(compute_dtype(x)).reshape(len(x), -1, num_bands, num_frames)  # (B, C, F, T)
        resized = _resize(resized, boxes.top - margins[0], boxes.height, dim=-2)
        resized = _resize(resized, boxes.left - margins[1], boxes.width, dim=-1)
        return resized.reshape(x.shape).to(x.dtype)


def _draw_size(fraction: Tensor, scale: tuple[float, float], size: int, most: int) -> Tensor:
    factor = scale[0] + fraction * (scale[1] - scale[0])
    return (factor * size).floor().long().clamp(1, most)


def _draw_place(fraction: Tensor, room: Tensor) -> Tensor:
    """Uniform among the integers 0 to `room`."""
    # float32 rounding may lift a fraction just below 1 to room + 1.
    return (fraction * (room + 1)).floor().long().minimum(room)


def _resize(x: Tensor, start: Tensor, size: Tensor, dim: int) -> Tensor:
    """Resize the stretch `start` to `start + size` along `dim` to the whole of `dim`.

    The resize is separable and each output needs four taps, so it is four gathers along each
    dimension: no loop over samples, no canvas in memory, and, unlike a matrix product, the same
    order of additions in whatever batch a sample stands.
    """
    length = x.shape[dim]
    # Corner to corner: output 0 sits on the first element of the stretch, the last on its last.
    step = (size - 1).to(x.dtype) / max(length - 1, 1)
    position = torch.arange(length, device=x.device) * step[:, None]  # (B, length)
    below = position.floor()
    weights = _cubic_weights(position - below)
    shape = (len(x), 1, -1, 1) if dim == -2 else (len(x), 1, 1, -1)
    result = torch.zeros_like(x)
    for tap, weight in zip(range(-1, 3), weights, strict=True):
        # Beyond the box its border repeats; beyond the segment the canvas is zero.
        place = (below.long() + tap).clamp(min=0).minimum(size[:, None] - 1) + start[:, None]
        is_inside = (place >= 0) & (place < length)
        index = place.clamp(0, length - 1).reshape(shape).expand_as(x)
        result += x.gather(dim, index) * (weight * is_inside).reshape(shape)
    return result


def _cubic_weights(t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weights of the elements at -1, 0, 1, 2 for a point `t` in [0, 1) after element 0.

    Source: Keys, "Cubic convolution interpolation for digital image processing", 1981, eq. 4,
    with the free parameter a instead of -1/2.
    """

    def near(d: Tensor) -> Tensor:
        return ((_CUBIC_A + 2) * d - (_CUBIC_A + 3)) * d * d + 1

    def far(d: Tensor) -> Tensor:
        return ((_CUBIC_A * d - 5 * _CUBIC_A) * d + 8 * _CUBIC_A) * d - 4 * _CUBIC_A

    return far(t + 1), near(t), near(1 - t), far(2 - t)
