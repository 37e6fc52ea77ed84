"""What every augmentation shares: keys, identity in eval, first draw, then apply."""

from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from byola_rq.runtime.rng import draw_keys

Parameters = TypeVar("Parameters")


class Augmentation(nn.Module, ABC, Generic[Parameters]):
    """A random transform of a batch, split into random parameters and a deterministic `apply`.

    Dimension 0 counts samples; each has a key of its own, and its result depends on nothing else
    in the batch. A two-dimensional input is one sample. In `eval()` the transform is the identity.
    """

    def forward(
        self, x: Tensor, key: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw parameters and apply them.

        Args:
            x: Floating point `(B, ..., F, T)` or `(F, T)`; its type and device are kept.
            key: int64 `(B,)`; the same key gives the same result on every device. Drawn from
                `generator` when absent.
            generator: torch generator; the global one by default.

        Returns:
            The augmented batch, of the shape of `x`.

        Raises:
            ValueError: If `x` has no element, fewer than two dimensions or a value that is not
                finite, or if `key` does not fit the batch.
            TypeError: If `x` is not floating point, or `key` not int64.
        """
        if not self.training:
            return x
        _check_input(x)
        batch = x if x.ndim > 2 else x[None]
        if key is None:
            key = draw_keys(len(batch), x.device, generator)
        _check_key(key, len(batch))
        augmented = self.apply_parameters(batch, self.draw(batch, key))
        self.remember(batch)
        return augmented.reshape(x.shape)

    @abstractmethod
    def draw(self, x: Tensor, key: Tensor) -> Parameters:
        """Draw the parameters of each sample of `x`, `(B, ..., F, T)`, from `key`, `(B,)`."""

    @abstractmethod
    def apply_parameters(self, x: Tensor, parameters: Parameters) -> Tensor:
        """Apply drawn parameters; deterministic."""

    def apply(self, x: Any, parameters: Parameters | None = None) -> Any:
        """Apply drawn parameters to `x`; deterministic, `(B, ..., F, T)` in and out.

        With a single argument it is `torch.nn.Module.apply(function)`, so that
        `network.apply(initialize)` still reaches through an augmentation.
        """
        if parameters is None:
            return super().apply(x)
        return self.apply_parameters(x, parameters)

    def remember(self, x: Tensor) -> None:
        """Keep the untouched inputs, for augmentations that mix later samples with them."""


def compute_dtype(x: Tensor) -> torch.dtype:
    """The type to compute in: float64 stays, everything narrower is widened to float32."""
    return torch.promote_types(x.dtype, torch.float32)


def _check_input(x: Tensor) -> None:
    if not x.is_floating_point():
        raise TypeError(f"input must be floating point; got {x.dtype}")
    if x.ndim < 2 or x.numel() == 0:
        raise ValueError(f"input must be (..., F, T) with elements; got shape {tuple(x.shape)}")
    # The hot path calls draw and apply directly and never waits for this answer.
    if not torch.isfinite(x).all():
        count = int((~torch.isfinite(x)).sum())
        raise ValueError(f"input must be finite; {count} of its {x.numel()} values are not")


def _check_key(key: Tensor, num_samples: int) -> None:
    if key.dtype != torch.int64:
        raise TypeError(f"key must be int64; got {key.dtype}")
    if key.shape != (num_samples,):
        raise ValueError(f"key must have shape ({num_samples},); got {tuple(key.shape)}")
