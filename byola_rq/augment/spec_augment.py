"""Masks of SpecAugment: whole bands and whole frames withheld."""

from dataclasses import dataclass

import torch
from torch import Tensor

from byola_rq.augment.base import Augmentation
from byola_rq.runtime.rng import fold_in, integers


@dataclass(frozen=True)
class Masks:
    """First band or frame of each mask and how many it covers, int64 `(B, M)` each."""

    band: Tensor
    num_bands: Tensor
    frame: Tensor
    num_frames: Tensor


class SpecAugment(Augmentation[Masks]):
    """Set ranges of bands and of frames to the mean of the sample.

    A mask covers f bands, f uniform in 0 to `freq_width`, from band f0 on, f0 uniform in 0 to
    F - f; masks of frames alike. Masks may overlap. The paper's time warping is left out, which by
    its own account adds little.

    Args:
        num_freq_masks: Masks of bands.
        freq_width: Most bands of one.
        num_time_masks: Masks of frames.
        time_width: Most frames of one.

    Raises:
        ValueError: If an argument is below 0.

    Source: Park et al., SpecAugment (Interspeech 2019, arXiv:1904.08779), section 2; there f0 stays
    below F - f, so that a mask never reaches the last band.
    """

    def __init__(
        self,
        num_freq_masks: int = 2,
        freq_width: int = 16,
        num_time_masks: int = 2,
        time_width: int = 24,
    ) -> None:
        super().__init__()
        options = {
            "num_freq_masks": num_freq_masks,
            "freq_width": freq_width,
            "num_time_masks": num_time_masks,
            "time_width": time_width,
        }
        for name, value in options.items():
            if value < 0:
                raise ValueError(f"{name} must be at least 0; got {value}")
        self.num_freq_masks, self.freq_width = num_freq_masks, freq_width
        self.num_time_masks, self.time_width = num_time_masks, time_width

    def draw(self, x: Tensor, key: Tensor) -> Masks:
        """Draw the masks of each sample of `x`, `(B, ..., F, T)`."""
        num_bands, num_frames = x.shape[-2:]
        of_bands, of_frames = fold_in(key, "frequency"), fold_in(key, "time")
        return Masks(
            *_draw_ranges(of_bands, self.num_freq_masks, self.freq_width, num_bands),
            *_draw_ranges(of_frames, self.num_time_masks, self.time_width, num_frames),
        )

    def apply_parameters(self, x: Tensor, parameters: Masks) -> Tensor:
        """Fill the masks with each sample's mean before them."""
        bands = _covered(parameters.band, parameters.num_bands, x.shape[-2])  # (B, F)
        frames = _covered(parameters.frame, parameters.num_frames, x.shape[-1])  # (B, T)
        is_masked = bands[:, :, None] | frames[:, None, :]
        is_masked = is_masked.view(len(x), *[1] * (x.ndim - 3), *x.shape[-2:])
        mean = x.mean(dim=tuple(range(1, x.ndim)), keepdim=True)
        return torch.where(is_masked, mean, x)


def _draw_ranges(key: Tensor, num: int, width: int, size: int) -> tuple[Tensor, Tensor]:
    """Where `num` ranges of at most `width` begin within `size`, and their lengths: `(B, num)`."""
    keys = (
        torch.stack([fold_in(key, number) for number in range(num)], 1)
        if num
        else key[:, None][:, :0]
    )
    length = integers(fold_in(keys, "length"), torch.full_like(keys, min(width, size) + 1))
    return integers(fold_in(keys, "start"), size - length + 1), length


def _covered(first: Tensor, length: Tensor, size: int) -> Tensor:
    """Which places of `size` lie in one of the ranges, `(B, M)` each: bool `(B, size)`."""
    place = torch.arange(size, device=first.device)
    first, length = first[:, :, None], length[:, :, None]
    return ((place >= first) & (place < first + length)).any(1)
