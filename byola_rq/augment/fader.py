"""Random linear fader: a slope of loudness over time."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from byola_rq.augment.base import Augmentation, compute_dtype
from byola_rq.runtime.rng import uniform


@dataclass(frozen=True)
class FaderGains:
    """Gains added to the first and the last frame, float32 `(B,)` each."""

    first: Tensor
    last: Tensor


class RandomLinearFader(Augmentation[FaderGains]):
    """Add a straight line over time, both ends uniform in [-`gain`, `gain`).

    Args:
        gain: Largest gain, in units of the input (standardized log-mel), above 0.

    Raises:
        ValueError: If `gain` is not finite and above 0.

    Source: Niizumi et al., BYOL for Audio: Exploring Pre-trained General-purpose Audio
    Representations (arXiv:2204.07402).
    """

    step = "fader"

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        if not 0 < gain < math.inf:
            raise ValueError(f"gain must be finite and above 0; got {gain}")
        self.gain = gain

    def draw(self, x: Tensor, key: Tensor) -> FaderGains:  # noqa: ARG002
        """Draw both ends for each sample of `x`, `(B, ..., F, T)`."""
        ends = (uniform(key, 2) * 2 - 1) * self.gain
        return FaderGains(first=ends[:, 0], last=ends[:, 1])

    def apply_parameters(self, x: Tensor, parameters: FaderGains) -> Tensor:
        """Add the line between both ends to every band."""
        dtype = compute_dtype(x)
        num_frames = x.shape[-1]
        fraction = torch.arange(num_frames, device=x.device, dtype=dtype)
        # Divide by a tensor: dividing by a number, a GPU would multiply by its reciprocal.
        fraction /= torch.full_like(fraction, max(num_frames - 1, 1))
        first, last = parameters.first[:, None].to(dtype), parameters.last[:, None].to(dtype)
        slope = first * (1 - fraction) + last * fraction  # (B, T)
        return (x.to(dtype) + slope.reshape(len(x), *[1] * (x.ndim - 2), -1)).to(x.dtype)

    def constants(self) -> tuple[Any, ...]:
        """Compile-time constants of the kernel's step: the gain."""
        return (self.gain,)
