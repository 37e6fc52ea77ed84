"""What every augmentation shares: keys, identity in eval, first draw, then apply."""

import math
from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from byola_rq.augment.fused import launch, refusal
from byola_rq.runtime.rng import draw_keys
from byola_rq.runtime.triton import Kernels

Parameters = TypeVar("Parameters")


class Augmentation(nn.Module, ABC, Generic[Parameters]):
    """A random transform of a batch, split into random parameters and a deterministic `apply`.

    Dimension 0 counts samples; each has a key of its own, and its result depends on nothing else
    in the batch, but for those that mix samples. A two-dimensional input is one sample. In `eval()`
    the transform is the identity.

    Attributes:
        kernels: Where and whether drawing and applying are one kernel.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kernels = Kernels("of a single augmentation")

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
        # Asked for first and read last, so that a GPU has work while the host waits for the answer.
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
        """Draw and apply, by one kernel on a GPU that has Triton.

        `forward` without its checks: the host never waits for the device. Float64, large planes
        and inputs that want a gradient take the plain path, which gives the same.

        Args:
            x: Finite, `(B, ..., F, T)`.
            key: int64 `(B,)`, on the device of `x`.
        """
        is_served = self.step is not None and self.kernels.serve(x.device)
        planes = self.planes(x) if is_served and key.device == x.device else None
        if planes is not None and refusal([self], planes) is None:
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
        """Apply drawn parameters to `x`; deterministic, `(B, ..., F, T)` in and out.

        With a single argument it is `torch.nn.Module.apply(function)`, so that
        `network.apply(initialize)` still reaches through an augmentation.
        """
        if parameters is None:
            return super().apply(x)
        return self.apply_parameters(x, parameters)

    @property
    def step(self) -> str | None:
        """Its name in `fused.STEPS`; None where the kernel cannot do it."""
        return None

    @property
    def needs_all_bands(self) -> bool:
        """Whether what becomes of a band depends on the others, to the kernel."""
        return False

    def constants(self) -> tuple[Any, ...]:
        """What its step of the kernel is compiled for."""
        return ()

    def prepare(self, x: Tensor) -> dict[str, Any]:  # noqa: ARG002
        """What its step reads besides `x`, made to fit it; by the kernel's names."""
        return {}

    def planes(self, x: Tensor) -> Tensor:
        """`x` as the kernel takes it, `(N, F, T)`: those of a sample, side by side."""
        return x.reshape(-1, *x.shape[-2:])

    def from_planes(self, planes: Tensor, x: Tensor) -> Tensor:
        """Planes as a batch of the shape of `x`."""
        return planes.reshape(x.shape)

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


def _find_extremes(x: Tensor) -> tuple[Tensor, ...]:
    """Numbers that are finite where all of `x` are."""
    # On a GPU one launch; on a CPU a twelfth of its time, and of isfinite's a twentieth.
    return (torch.linalg.vector_norm(x, math.inf),) if x.is_cuda else (x.amin(), x.amax())


def _check_finite(x: Tensor, extremes: tuple[Tensor, ...]) -> None:
    # What a CUDA graph records cannot be read.
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
