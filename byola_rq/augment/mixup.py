"""Mixup of log-mel spectrograms: add the power of an earlier input as background."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from byola_rq.augment.base import Augmentation, compute_dtype
from byola_rq.runtime.rng import fold_in, integers, uniform, word_bits


@dataclass(frozen=True)
class MixupParameters:
    """Weight of the earlier input, float32 `(B,)`, and its place in the ring, int64 `(B,)`."""

    share: Tensor
    index: Tensor


class Mixup(Augmentation[MixupParameters]):
    """Mix each sample with a recent input: `log((1 - a) exp(x) + a exp(z))`.

    Earlier inputs are kept in a ring buffer on the device and in the state dict. While the ring is
    empty, nothing is mixed. Unlike for other augmentations, results depend on earlier inputs and
    not only on the key.

    Args:
        ratio: Largest weight of the earlier input; weights are uniform in [0, `ratio`).
        memory: Number of inputs kept.

    Raises:
        ValueError: If `ratio` is not in (0, 1] or `memory` is below 1.

    Source: Niizumi et al., BYOL for Audio (arXiv:2103.06695).
    """

    step = "mixup"
    ring: Tensor
    num_seen: Tensor

    def __init__(self, ratio: float = 0.4, *, memory: int = 2048) -> None:
        super().__init__()
        if not 0 < ratio <= 1:
            raise ValueError(f"ratio must be above 0 and at most 1; got {ratio}")
        if memory < 1:
            raise ValueError(f"memory must be at least 1; got {memory}")
        self.ratio = ratio
        self.memory = memory
        # Sized by the first input. The count lives on the device so that no step waits for the
        # host.
        self.register_buffer("ring", torch.empty(0))
        self.register_buffer("num_seen", torch.zeros((), dtype=torch.int64))

    def draw(self, x: Tensor, key: Tensor) -> MixupParameters:
        """Draw a weight and an earlier input for each sample of `x`, `(B, ..., F, T)`."""
        self.prepare(x)
        num_filled = self.num_seen.clamp(max=self.memory)
        share = uniform(fold_in(key, "share")) * self.ratio
        index = integers(fold_in(key, "index"), num_filled.clamp(min=1))
        return MixupParameters(share=torch.where(num_filled > 0, share, 0.0), index=index)

    def apply_parameters(self, x: Tensor, parameters: MixupParameters) -> Tensor:
        """Mix `x`, `(B, ..., F, T)`, with the drawn inputs of the ring, in power."""
        dtype = compute_dtype(x)
        share = parameters.share.to(dtype).reshape(-1, *[1] * (x.ndim - 1))
        earlier = self.ring[parameters.index].to(dtype)
        # A weight of 0 makes the right operand log 0 = -inf, which leaves x unchanged.
        return torch.logaddexp(x.to(dtype) + (-share).log1p(), earlier + share.log()).to(x.dtype)

    def remember(self, x: Tensor) -> None:
        """Overwrite the oldest inputs of the ring with `x`."""
        self.prepare(x)
        latest = x.detach()[-self.memory :]
        skipped = len(x) - len(latest)
        places = torch.arange(skipped, len(x), device=x.device) + self.num_seen
        self.ring.index_copy_(0, places % self.memory, latest.to(self.ring.dtype))
        self.num_seen += len(x)

    def constants(self) -> tuple[Any, ...]:
        """Words of the keys of weight and place, the largest weight, and the ring's length."""
        return word_bits("share"), word_bits("index"), self.ratio, self.memory

    def prepare(self, x: Tensor) -> dict[str, Any]:
        """Return ring and count, allocated for the first input, `(B, ..., F, T)`.

        Raises:
            ValueError: If earlier inputs had another shape.
        """
        shape = (self.memory, *x.shape[1:])
        if self.ring.numel() == 0:
            self.ring = torch.zeros(shape, dtype=compute_dtype(x), device=x.device)
            self.num_seen = self.num_seen.to(x.device)
        elif self.ring.shape != shape:
            raise ValueError(
                f"mixup's inputs must keep one shape; got {tuple(x.shape[1:])} "
                f"after {tuple(self.ring.shape[1:])}"
            )
        return {"ring": self.ring, "num_seen": self.num_seen}

    def planes(self, x: Tensor) -> Tensor:
        """Flatten each sample to one band, `(B, 1, F * T)`, as the ring stores it."""
        return x.reshape(len(x), 1, -1)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        saved = state_dict.get(f"{prefix}ring")
        if saved is not None and saved.shape != self.ring.shape:
            self.ring = torch.zeros_like(saved, device=self.ring.device)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
