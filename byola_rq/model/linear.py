"""Linear layers with the fastest matrix product of a CPU."""

import platform
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class Linear(nn.Linear):
    """`nn.Linear`, which on x86 CPUs in float32 uses oneDNN's matrix products instead of MKL's.

    MKL leaves AVX-512 unused on AMD processors: 60-85 GFLOP/s a core against 180-210 (Zen 5).
    """

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer: `(..., in_features)` -> `(..., out_features)`."""
        if not _suits_onednn(x) or torch.is_autocast_enabled("cpu"):
            return super().forward(x)
        y = _OneDNNLinear.apply(x.flatten(0, -2), self.weight, self.bias)  # type: ignore[no-untyped-call]
        return cast(Tensor, y).view(*x.shape[:-1], self.out_features)


class _OneDNNLinear(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        context.save_for_backward(x, weight)
        return linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = context.saved_tensors
        of_x = linear(gradient, weight.T) if context.needs_input_grad[0] else None
        return of_x, linear(gradient.T, x.T), gradient.sum(0)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute `x weight^T + bias`: `(M, I)`, `(O, I)`, `(O,)` -> `(M, O)`; no gradient."""
    if _suits_onednn(x):
        y = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return cast(Tensor, y)
    return F.linear(x, weight, bias)


def _suits_onednn(x: Tensor) -> bool:
    return (
        _HAS_ONEDNN
        and x.device.type == "cpu"
        and x.dtype is torch.float32
        and x.numel() > 0
        and not torch.compiler.is_compiling()
    )


# The operator that torch.compile uses for frozen weights; elsewhere plain products are used.
_HAS_ONEDNN = (
    platform.machine() in ("x86_64", "AMD64")
    and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
)
