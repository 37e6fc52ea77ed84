"""Four convolution outputs of each 4 x 4 patch, pooled, with a recomputing backward pass.

With Triton on a GPU each pass is one kernel; otherwise matrix products of parts that stay in a
CPU's cache. A kernel that fails to compile is reported once and replaced by the latter.
"""

from typing import Any, cast

import torch
from torch import Tensor

from byola_rq.model.linear import linear
from byola_rq.runtime.triton import Kernels

KERNELS = Kernels("of the first convolution block")

_ROWS = 2048  # patches at a time on a CPU: 2 MB of convolution outputs fit its cache


def pooled(patches: Tensor, kernels: Tensor, offsets: Tensor, dtype: torch.dtype) -> Tensor:
    """ReLU of the largest of four outputs: `(M, 16)`, `(4 C, 16)`, `(4 C,)` -> `(M, C)`."""
    y = patches.new_empty(len(patches), len(kernels) // 4, dtype=dtype)
    if _run_kernel("pooled", patches, kernels, offsets, y) is not None:
        return y
    zero = patches.new_zeros(())
    rows = _rows_at_a_time(patches)
    for patch, out in zip(torch.split(patches, rows), torch.split(y, rows), strict=True):
        z = linear(patch, kernels, offsets).view(len(patch), 4, -1)
        upper, lower = torch.maximum(z[:, 0], z[:, 1]), torch.maximum(z[:, 2], z[:, 3])
        torch.maximum(torch.maximum(upper, lower, out=upper), zero, out=out)
    return y


def products(
    patches: Tensor, kernels: Tensor, offsets: Tensor, y: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor]:
    """Sums over M of gradient times patch, `(4 C, 16)`, and of the gradient alone, `(C,)`.

    The gradient is that of `pooled`'s `y` before ReLU and pooling.
    """
    if (found := _run_kernel("products", patches, kernels, offsets, y, gradient)) is not None:
        return cast(tuple[Tensor, Tensor], found)
    sums = patches.new_zeros(16, len(kernels))
    total = patches.new_zeros(len(kernels) // 4)
    rows = _rows_at_a_time(patches)
    for patch, out, of_out in zip(
        torch.split(patches, rows), torch.split(y, rows), torch.split(gradient, rows), strict=True
    ):
        z = linear(patch, kernels, offsets).view(len(patch), 4, -1)
        kept = _keep_where_positive(of_out, out, 0).to(z.dtype)
        total += kept.sum(0)
        sums += patch.T @ _unpooled(kept, z).flatten(1)
    return sums.T.contiguous(), total


def _rows_at_a_time(patches: Tensor) -> int:
    return _ROWS if patches.device.type == "cpu" else max(len(patches), 1)


# (gradient, x, 0): the gradient where x is positive, and zero elsewhere.
_keep_where_positive = torch.ops.aten.threshold_backward


def _unpooled(gradient: Tensor, z: Tensor) -> Tensor:
    """Route `(M, C)` to the first largest of `z`, `(M, 4, C)`, as torch does."""
    # Differences and thresholds: on a CPU, `where` with a mask takes five times as long.
    upper, lower = torch.maximum(z[:, 0], z[:, 1]), torch.maximum(z[:, 2], z[:, 3])
    to_lower = _keep_where_positive(gradient, lower - upper, 0)
    to_upper = gradient - to_lower
    unpooled = torch.empty_like(z)
    for first, share in ((0, to_upper), (2, to_lower)):
        to_second = _keep_where_positive(share, z[:, first + 1] - z[:, first], 0)
        unpooled[:, first + 1] = to_second
        torch.sub(share, to_second, out=unpooled[:, first])
    return unpooled


def _run_kernel(name: str, patches: Tensor, kernels: Tensor, *arguments: Tensor) -> Any:
    """Run a kernel; return None if it cannot be used for these tensors."""
    if not KERNELS.serve(patches.device) or len(patches) == 0:
        return None
    if reason := _unsupported_reason(patches, len(kernels) // 4):
        KERNELS.decline(reason)
        return None

    def launch() -> Any:
        # Import only where a kernel is launched: Triton may be missing on a CPU.
        from byola_rq.model import block_kernel

        return getattr(block_kernel, name)(patches, kernels, *arguments)

    return KERNELS.run(patches.device, launch)


def _unsupported_reason(patches: Tensor, channels: int) -> str | None:
    """Return why the kernels cannot take an input; None if they can."""
    if patches.dtype is not torch.float32:
        return f"input must be float32; got {str(patches.dtype).removeprefix('torch.')}"
    if channels < 16 or channels & (channels - 1):
        return f"channels must be a power of two, at least 16; got {channels}"
    return None
