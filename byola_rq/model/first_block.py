"""The first convolution block, equal to torch's modules in less time and memory.

The first block's input has one channel; its output before pooling has 64 and is by far the largest
tensor of a step. Here only parts of it exist at a time, in the processor's caches:

- A convolution's output is linear in the 3 x 3 patches of its input, so its mean and variance
  follow from theirs: `w . mean` and `w . cov w`. Batch norm is therefore known before anything is
  convolved, and is folded into weight and bias.
- The four outputs that max-pooling compares see one 4 x 4 patch: one matrix product gives all four.
- The backward pass recomputes them instead of reading them. The gradient of batch norm is that of
  the pooled elements minus terms that are again linear in the patches' mean and covariance.
"""

from collections.abc import Sequence
from typing import Any, TypeGuard, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from byola_rq.model.norm_pool import convolve_norm_pool
from byola_rq.model.pooled_patches import KERNELS, pooled, products
from byola_rq.model.sync_batch_norm import track
from byola_rq.runtime.device import uncompiled


def convolution_block(block: Sequence[nn.Module], x: Tensor) -> Tensor:
    """Run convolution, batch norm, max-pooling, ReLU: `(B, C, H, W)` -> `(B, C', H // 2, W // 2)`.

    Fused for one input channel, torch's own batch norm (`SyncBatchNorm` needs other ranks) and an
    input that needs no gradient; in training only for even height and width.
    """
    convolution, norm, *_ = block
    assert isinstance(convolution, nn.Conv2d)
    if _is_fusible(norm, convolution, x):
        return _first_block(convolution, norm, x)
    if convolution.in_channels == 1 and norm.training and KERNELS.serve(x.device):
        height, width = x.shape[2:]
        if height % 2 or width % 2:
            KERNELS.decline(f"bands and frames must be even; got {height} x {width}")
    if isinstance(norm, nn.BatchNorm2d):
        y = convolve_norm_pool(convolution, norm, x)
        if y is not None:
            return y
    for module in block:
        x = cast(Tensor, module(x))
    return x


def _is_fusible(norm: nn.Module, convolution: nn.Conv2d, x: Tensor) -> TypeGuard[nn.BatchNorm2d]:
    if norm.training:
        is_fitting = x.shape[2] % 2 == x.shape[3] % 2 == 0 and not x.requires_grad
    else:
        is_fitting = not torch.is_grad_enabled() and min(x.shape[2:]) > 1
    return (
        is_fitting
        and type(norm) is nn.BatchNorm2d
        and norm.momentum is not None
        and norm.running_mean is not None
        and convolution.in_channels == 1
        and x.dtype in (torch.float32, torch.float64)
        and x.numel() > 0
    )


# Disabled: the compiler has nothing to gain from a loop over parts or a kernel launch.
@uncompiled
def _first_block(convolution: nn.Conv2d, norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """Run the fused block: `(B, 1, H, W)` -> `(B, C, H // 2, W // 2)`, in autocast's dtype."""
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    # Batch statistics need full precision.
    with torch.autocast(device, enabled=False):
        y = (_trained if norm.training else _evaluated)(convolution, norm, x, dtype)
    return y.view(len(x), x.shape[2] // 2, x.shape[3] // 2, -1).permute(0, 3, 1, 2)


def _trained(convolution: nn.Conv2d, norm: nn.BatchNorm2d, x: Tensor, dtype: torch.dtype) -> Tensor:
    """Normalize by batch statistics and update the running ones: `(B H/2 W/2, C)`."""
    with torch.no_grad():
        # Batch norm cancels a constant offset; sums of values near zero lose fewer digits.
        level = x.mean()
        patches = _patches(x - level, -level)
        mean, covariance = _moments(patches.view(len(x), -1, 16))
        weight = convolution.weight.flatten(1)
        variance = ((weight @ covariance) * weight).sum(1)
        bias = cast(Tensor, convolution.bias)
        track(norm, weight @ (mean + level) + bias, variance, x.numel())
    y = _FirstBlock.apply(  # type: ignore[no-untyped-call]
        convolution.weight,
        convolution.bias,
        norm.weight,
        norm.bias,
        (patches, mean, covariance),
        norm.eps,
        dtype,
    )
    return cast(Tensor, y)


def _evaluated(
    convolution: nn.Conv2d, norm: nn.BatchNorm2d, x: Tensor, dtype: torch.dtype
) -> Tensor:
    """Normalize by the running statistics: `(B (H // 2) (W // 2), C)`."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    kernels = _four_kernels(convolution.weight.flatten(1) * scale[:, None])
    offsets = norm.bias + scale * (cast(Tensor, convolution.bias) - norm.running_mean)
    return pooled(_patches(x, x.new_zeros(())), kernels, offsets.repeat(4), dtype)


def _patches(x: Tensor, border: Tensor) -> Tensor:
    """Extract the input of the four outputs in each pooling window: `(B, 1, H, W)` -> `(M, 16)`."""
    batch, _, height, width = x.shape
    padded = border.expand(batch, height + 2, width + 2).contiguous()
    padded[:, 1:-1, 1:-1] = x[:, 0]
    return padded.unfold(1, 4, 2).unfold(2, 4, 2).reshape(-1, 16)


def _windows(of_patches: Tensor) -> Tensor:
    """Split the last axis into 3 x 3 windows in raster order, `(..., 16)` -> `(..., 4, 9)`."""
    square = of_patches.view(*of_patches.shape[:-1], 4, 4)
    return square.unfold(-2, 3, 1).unfold(-2, 3, 1).flatten(-2).flatten(-3, -2)


def _moments(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Mean, `(9,)`, and covariance, `(9, 9)`, of the 3 x 3 windows of `(B, M / B, 16)`.

    Their mean must be near zero: the covariance is a difference of two moments.
    """
    # One product per clip: GPUs have no good kernel for a single product over so many rows.
    second = torch.bmm(patches.transpose(1, 2), patches).sum(0) / patches[..., 0].numel()
    mean = _windows(patches.mean((0, 1))).mean(0)
    # Axes: row window, then column window; the diagonal pairs each window with itself.
    squares = _windows(_windows(second).permute(1, 2, 0)).diagonal(dim1=0, dim2=2)  # (9, 9, 4)
    return mean, squares.mean(-1) - torch.outer(mean, mean)


class _FirstBlock(torch.autograd.Function):
    """Convolution, batch norm, max-pooling, ReLU: patches `(M, 16)` -> `(M, C)`."""

    @staticmethod
    def forward(
        context: Any,
        weight: Tensor,  # (C, 1, 3, 3)
        bias: Tensor,  # canceled by batch norm, so its gradient is zero
        gamma: Tensor,
        beta: Tensor,
        inputs: tuple[Tensor, Tensor, Tensor],  # patches, and their windows' mean and covariance
        eps: float,
        dtype: torch.dtype,
    ) -> Tensor:
        patches, mean, covariance = inputs
        kernel = weight.flatten(1)  # (C, 9)
        scale = (((kernel @ covariance) * kernel).sum(1) + eps).rsqrt()
        kernels = _four_kernels(kernel * (gamma * scale)[:, None])
        offsets = (beta - gamma * scale * (kernel @ mean)).repeat(4)
        y = pooled(patches, kernels, offsets, dtype)
        context.save_for_backward(
            weight, bias, gamma, patches, mean, covariance, scale, kernels, offsets, y
        )
        return y

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        saved = context.saved_tensors
        weight, bias, gamma, patches, mean, covariance, scale, kernels, offsets, y = saved
        sums, total = products(patches, kernels, offsets, y, gradient.contiguous())
        of_place = sums.view(4, -1, 16)  # (4, C, 16)
        product = _windows(of_place).diagonal(dim1=0, dim2=2).sum(-1)  # (C, 9)
        # Batch norm: x^ is its output before gamma and beta, g the gradient of its output.
        kernel = weight.flatten(1)
        centered = product - torch.outer(total, mean)  # sum of g (patch - mean)
        of_gamma = (kernel * centered).sum(1) * scale  # sum of g x^
        along = (of_gamma * scale)[:, None] * (kernel @ covariance)  # component along x^
        of_kernel = (gamma * scale)[:, None] * (centered - along)
        of_bias = torch.zeros_like(bias)
        return of_kernel.view_as(weight), of_bias, of_gamma, total, None, None, None


def _four_kernels(kernel: Tensor) -> Tensor:
    """Place the kernel at the four positions of a 4 x 4 patch: `(C, 9)` -> `(4 C, 16)`."""
    kernels = kernel.new_zeros(2, 2, len(kernel), 4, 4)
    down, right, channel, *taps = kernels.stride()
    # One position further down or right begins one row or one element later in its patch.
    windows = kernels.as_strided(
        (2, 2, len(kernel), 3, 3), (down + taps[0], right + taps[1], channel, *taps)
    )
    windows.copy_(kernel.view(-1, 3, 3))
    return kernels.view(-1, 16)
