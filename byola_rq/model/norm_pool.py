"""Batch norm, max-pooling and ReLU after a convolution in few passes over memory, on a GPU.

torch's modules each read and write a tensor of the convolution's size, and keep one for the
backward pass. Here the convolution's output is read once for its statistics, once for pooling, and
twice in the backward pass, which recomputes what it needs; only its gradient is written at that
size. A bias before batch norm affects only the running mean, so it is added there, and its gradient
is zero.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from byola_rq.runtime.triton import Kernels

KERNELS = Kernels("of batch norm and pooling")


def convolve_norm_pool(convolution: nn.Conv2d, norm: nn.BatchNorm2d, x: Tensor) -> Tensor | None:
    """Run convolution, batch norm, 2 x 2 max-pooling, ReLU: `(B, C, H, W)` -> `(B, C', H/2, W/2)`.

    Returns:
        The pooled features, channels last; None if the kernels cannot be used: off a GPU, without
        Triton, in evaluation, or for unsupported sizes and dtypes.
    """
    if not KERNELS.serve(x.device) or not _is_fitting(convolution, norm, x):
        return None
    z = F.conv2d(x, convolution.weight, None, convolution.stride, convolution.padding)
    if z.dtype not in (torch.bfloat16, torch.float32) or z.shape[2] % 2 or z.shape[3] % 2:
        return None
    z = z.contiguous(memory_format=torch.channels_last)
    parameters = (cast(Tensor, convolution.bias), norm.weight, norm.bias)

    def launch() -> Tensor:
        return cast(Tensor, _NormPool.apply(z, norm, *parameters))  # type: ignore[no-untyped-call]

    return KERNELS.run(x.device, launch)


def _is_fitting(convolution: nn.Conv2d, norm: nn.BatchNorm2d, x: Tensor) -> bool:
    channels = convolution.out_channels
    return (
        norm.training
        and not convolution._forward_pre_hooks  # they would not be called
        and type(norm) is nn.BatchNorm2d  # `SyncBatchNorm` needs other ranks
        and norm.momentum is not None
        and norm.running_mean is not None
        and convolution.bias is not None
        and channels >= 16
        and channels & (channels - 1) == 0
        and x.numel() > 0
    )


class _NormPool(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, z: Tensor, norm: nn.BatchNorm2d, *parameters: Tensor) -> Tensor:
        # Import only where a kernel is launched: Triton may be missing on a CPU.
        from byola_rq.model.norm_pool_kernel import batch_statistics, pool

        bias, gamma, beta = parameters
        mean, scale = batch_statistics(z, bias, norm)
        context.save_for_backward(z, bias, mean, scale, gamma, beta)
        return pool(z, mean, scale, gamma, beta)

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        from byola_rq.model.norm_pool_kernel import unpool

        z, bias, *affine = context.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        of_z, of_gamma, of_beta = unpool(gradient, z, *affine)
        return of_z, None, torch.zeros_like(bias), of_gamma, of_beta
