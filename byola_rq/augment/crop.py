"""Random resized crop: a random box of the spectrogram, resized back to its full size."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from byola_rq.augment.base import Augmentation, compute_dtype
from byola_rq.runtime.rng import uniform

CUBIC_A = -0.75  # free parameter of the cubic kernel, as in torch and OpenCV


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

    The segment lies in the middle of a canvas of zeros, so that a box may extend beyond it.

    Args:
        canvas: Canvas size in units of the segment: (bands, frames), each at least 1.
        freq_scale: Range of the box height, in units of the segment's bands.
        time_scale: Range of the box width, in units of the segment's frames.

    Raises:
        ValueError: If an argument breaks a rule above.

    Source: Niizumi et al., BYOL for Audio (arXiv:2103.06695).
    """

    step = "crop"

    def __init__(
        self,
        canvas: tuple[float, float] = (1.0, 1.5),
        *,
        freq_scale: tuple[float, float] = (0.6, 1.5),
        time_scale: tuple[float, float] = (0.6, 1.5),
    ) -> None:
        super().__init__()
        if not min(canvas) >= 1:
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
        canvas = self._canvas_of(num_bands, num_frames)
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
        """Cut and resize bicubically with aligned corners; the box's border extends beyond it."""
        boxes = parameters
        num_bands, num_frames = x.shape[-2:]
        # The segment lies in the middle of the canvas.
        top = boxes.top - (boxes.canvas[0] - num_bands) // 2
        left = boxes.left - (boxes.canvas[1] - num_frames) // 2
        planes = x.to(compute_dtype(x)).reshape(len(x), -1, num_bands, num_frames)  # (B, C, F, T)
        planes = _resize(planes.transpose(-1, -2), left, boxes.width)  # (B, C, T, F)
        planes = _resize(planes.transpose(-1, -2), top, boxes.height)
        return planes.reshape(x.shape).to(x.dtype)

    def constants(self) -> tuple[Any, ...]:
        """Minimum and range of the height's scale, then of the width's."""
        (f_low, f_high), (t_low, t_high) = self.freq_scale, self.time_scale
        return f_low, f_high - f_low, t_low, t_high - t_low

    def prepare(self, x: Tensor) -> dict[str, Any]:
        """Return the canvas size in bands (`tall`) and frames (`wide`)."""
        tall, wide = self._canvas_of(*x.shape[-2:])
        return {"tall": tall, "wide": wide}

    def _canvas_of(self, num_bands: int, num_frames: int) -> tuple[int, int]:
        return int(self.canvas[0] * num_bands), int(self.canvas[1] * num_frames)


def _draw_size(fraction: Tensor, scale: tuple[float, float], size: int, most: int) -> Tensor:
    factor = scale[0] + fraction * (scale[1] - scale[0])
    return (factor * size).floor().long().clamp(1, most)


def _draw_place(fraction: Tensor, room: Tensor) -> Tensor:
    """Scale a fraction in [0, 1) to an integer, uniform in 0 to `room` inclusive."""
    # 24-bit fractions below 1: no product with an integer below 2^24 rounds up to it.
    return (fraction * (room + 1)).floor().long()


def _resize(x: Tensor, start: Tensor, size: Tensor) -> Tensor:
    """Resize the rows `start` to `start + size` of each plane of `(B, C, R, N)` to all `R` rows.

    The resize is separable and each output row is a weighted sum of four rows, which is what an
    embedding bag computes: no loop over samples, no canvas in memory, whole rows at a time, and,
    unlike a matrix product, the same order of additions in every batch.
    """
    num_samples, num_channels, num_rows, _ = x.shape
    # Divide by a tensor: dividing by a number, a GPU would multiply by its reciprocal.
    last = torch.full_like(size, max(num_rows - 1, 1))
    position = torch.arange(num_rows, device=x.device) * ((size - 1).to(x.dtype) / last)[:, None]
    below = position.floor()
    weights = torch.stack(_cubic_weights(position - below), dim=-1)  # (B, R, 4)
    taps = torch.arange(-1, 3, device=x.device)
    # Outside the box its border repeats; outside the segment the canvas is zero.
    place = (below.long()[..., None] + taps).clamp_(min=0).minimum(size[:, None, None] - 1)
    place += start[:, None, None]
    weights *= (place >= 0) & (place < num_rows)
    planes = torch.arange(num_samples * num_channels, device=x.device) * num_rows
    index = place.clamp_(0, num_rows - 1)[:, None] + planes.reshape(num_samples, -1, 1, 1)
    resized = F.embedding_bag(
        index.reshape(-1, 4),
        # Copied even where a view would do: other strides give other rounding.
        x.reshape(-1, x.shape[-1]).contiguous(),
        per_sample_weights=weights[:, None].expand_as(index).reshape(-1, 4),
        mode="sum",
    )
    return resized.reshape(x.shape)


def _cubic_weights(t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weights of the elements at -1, 0, 1, 2 for a point `t` in [0, 1) after element 0.

    Source: Keys, "Cubic convolution interpolation for digital image processing", 1981, eq. 4,
    with the free parameter a instead of -1/2.
    """

    def near(d: Tensor) -> Tensor:
        return ((CUBIC_A + 2) * d - (CUBIC_A + 3)) * d * d + 1

    def far(d: Tensor) -> Tensor:
        return ((CUBIC_A * d - 5 * CUBIC_A) * d + 8 * CUBIC_A) * d - 4 * CUBIC_A

    return far(t + 1), near(t), near(1 - t), far(2 - t)
