"""Base class of the augmentations: draw parameters per sample, then apply them."""

import math
from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from byola_rq.augment.fused import launch, unsupported_reason
from byola_rq.runtime.rng import draw_keys
from byola_rq.runtime.triton import Kernels

Parameters = TypeVar("Parameters")


class Augmentation(nn.Module, ABC, Generic[Parameters]):
    """Random transform of a batch, split into drawn parameters and a deterministic `apply`.

    Dimension 0 indexes samples. Each sample has its own key, and its result depends on nothing else
    in the batch, except for augmentations that mix samples. A two-dimensional input is one sample.
    In `eval()` the transform is the identity.

    Attributes:
        kernels: Decides whether one kernel draws and applies.
        step: Name in `fused.STEPS`; None if the kernel does not implement this augmentation.
        needs_all_bands: True if the kernel must see all bands to compute one of them.
    """

    step: str | None = None
    needs_all_bands = False

    def __init__(self) -> None:
        super().__init__()
        self.kernels = Kernels("of a single augmentation")

    def forward(
        self, x: Tensor, key: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw parameters and apply them.

        Args:
            x: Floating-point batch `(B, ..., F, T)` or sample `(F, T)`; dtype and device are kept.
            key: Randomness key of each sample, int64 `(B,)`; the same key gives the same result on
                every device. Drawn from `generator` if None.
            generator: Torch generator; the global one by default.

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
        # Start the reduction now, read it at the end: the GPU works while the host queues.
        extremes = _find_extremes(x.detach())
        batch = x if x.ndim > 2 else x[None]
        if key is None:
            key = draw_keys(len(batch), x.device, generator)
        _check_key(key, len(batch))
        augmented = self.augment(batch, key)
        _check_finite(x, extremes)
        self.remember(batch)
        return augmented.reshape(x.shape)

    def augment(self, x: Tensor, key: Tensor) -> Tensor:
        """Draw and apply, in one kernel on a GPU with Triton.

        Like `forward` without its checks, so the host never waits for the device. Float64 inputs,
        large planes and inputs that need a gradient take the plain path, which gives the same
        result.

        Args:
            x: Finite batch, `(B, ..., F, T)`.
            key: Randomness keys, int64 `(B,)`, on the device of `x`.
        """
        is_served = self.step is not None and self.kernels.serve(x.device)
        planes = self.planes(x) if is_served and key.device == x.device else None
        if planes is not None and unsupported_reason([self], planes) is None:
            keys = key[:, None].expand(-1, len(planes) // len(x)).flatten()
            state = self.prepare(x)
            made = self.kernels.run(x.device, lambda: launch([self], planes, keys, state=state))
            if made is not None:
                return self.from_planes(made[0], x)
        return self.apply_parameters(x, self.draw(x, key))

    @abstractmethod
    def draw(self, x: Tensor, key: Tensor) -> Parameters:
        """Draw the parameters of each sample of `x`, `(B, ..., F, T)`, from `key`, `(B,)`."""

    @abstractmethod
    def apply_parameters(self, x: Tensor, parameters: Parameters) -> Tensor:
        """Apply drawn parameters; deterministic."""

    def apply(self, x: Any, parameters: Parameters | None = None) -> Any:
        """Apply drawn parameters to `x`; deterministic, `(B, ..., F, T)` -> `(B, ..., F, T)`.

        With a single argument this is `torch.nn.Module.apply(function)`, so
        `network.apply(initialize)` still reaches submodules.
        """
        if parameters is None:
            return super().apply(x)
        return self.apply_parameters(x, parameters)

    def constants(self) -> tuple[Any, ...]:
        """Compile-time constants of the kernel's step."""
        return ()

    def prepare(self, x: Tensor) -> dict[str, Any]:  # noqa: ARG002
        """Return the step's further kernel inputs, fitted to `x`, by argument name."""
        return {}

    def planes(self, x: Tensor) -> Tensor:
        """Reshape `x` to the kernel's input, `(N, F, T)`; the planes of a sample are adjacent."""
        return x.reshape(-1, *x.shape[-2:])

    def from_planes(self, planes: Tensor, x: Tensor) -> Tensor:
        """Reshape planes, `(N, F, T)`, to the shape of `x`."""
        return planes.reshape(x.shape)

    def remember(self, x: Tensor) -> None:
        """Store the untouched inputs, for augmentations that mix later samples with them."""


def compute_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype to compute in: float64 for float64, float32 for anything narrower."""
    return torch.promote_types(x.dtype, torch.float32)


def _check_input(x: Tensor) -> None:
    if not x.is_floating_point():
        raise TypeError(f"input must be floating point; got {x.dtype}")
    if x.ndim < 2 or x.numel() == 0:
        raise ValueError(f"input must be (..., F, T) with elements; got shape {tuple(x.shape)}")


def _find_extremes(x: Tensor) -> tuple[Tensor, ...]:
    """Reduce `x` to scalars that are finite exactly if all of `x` is."""
    # The norm is one launch on a GPU; on a CPU, amin and amax take a twelfth of its time.
    return (torch.linalg.vector_norm(x, math.inf),) if x.is_cuda else (x.amin(), x.amax())


def _check_finite(x: Tensor, extremes: tuple[Tensor, ...]) -> None:
    # Values cannot be read while a CUDA graph is being captured.
    if x.is_cuda and torch.cuda.is_current_stream_capturing():
        return
    if not all(math.isfinite(float(each)) for each in extremes):
        count = int((~torch.isfinite(x)).sum())
        raise ValueError(f"input must be finite; {count} of its {x.numel()} values are not")


def _check_key(key: Tensor, num_samples: int) -> None:
    if key.dtype != torch.int64:
        raise TypeError(f"key must be int64; got {key.dtype}")
    if key.shape != (num_samples,):
        raise ValueError(f"key must have shape ({num_samples},); got {tuple(key.shape)}")
