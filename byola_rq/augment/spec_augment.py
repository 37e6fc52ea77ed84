"""SpecAugment: mask whole bands and whole frames."""

from dataclasses import dataclass

import torch
from torch import Tensor

from byola_rq.augment.base import Augmentation
from byola_rq.runtime.rng import fold_in, integers


@dataclass(frozen=True)
class Masks:
    """Masks: first band or frame and number covered, int64 `(B, M)` each."""

    band: Tensor
    num_bands: Tensor
    frame: Tensor
    num_frames: Tensor


class SpecAugment(Augmentation[Masks]):
    """Set ranges of bands and of frames to the mean of the sample.

    A mask covers f bands from band f0 on, f uniform in 0 to `freq_width`, f0 uniform in 0 to F - f;
    masks of frames likewise. Masks may overlap. The paper's time warping is left out: it adds
    little by its own account.

    Args:
        num_freq_masks: Number of band masks.
        freq_width: Largest number of bands in a mask.
        num_time_masks: Number of frame masks.
        time_width: Largest number of frames in a mask.

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
        """Fill the masks with the mean of each unmasked sample."""
        bands = _covered(parameters.band, parameters.num_bands, x.shape[-2])  # (B, F)
        frames = _covered(parameters.frame, parameters.num_frames, x.shape[-1])  # (B, T)
        is_masked = bands[:, :, None] | frames[:, None, :]
        is_masked = is_masked.view(len(x), *[1] * (x.ndim - 3), *x.shape[-2:])
        mean = x.mean(dim=tuple(range(1, x.ndim)), keepdim=True)
        return torch.where(is_masked, mean, x)


def _draw_ranges(key: Tensor, num: int, width: int, size: int) -> tuple[Tensor, Tensor]:
    """Draw start and length of `num` ranges of at most `width` within `size`, `(B, num)` each."""
    keys = (
        torch.stack([fold_in(key, number) for number in range(num)], 1)
        if num
        else key[:, None][:, :0]
    )
    length = integers(fold_in(keys, "length"), torch.full_like(keys, min(width, size) + 1))
    return integers(fold_in(keys, "start"), size - length + 1), length


def _covered(first: Tensor, length: Tensor, size: int) -> Tensor:
    """Mark the places that lie in a range: starts and lengths `(B, M)` -> bool `(B, size)`."""
    place = torch.arange(size, device=first.device)
    first, length = first[:, :, None], length[:, :, None]
    return ((place >= first) & (place < first + length)).any(1)
