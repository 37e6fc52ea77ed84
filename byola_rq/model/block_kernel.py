"""Triton kernels of the first block: matrix products, pooling and ReLU of a tile in registers."""

# Importing this file needs Triton; its decorators and functions carry no types.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
# mypy: disable-error-code="import-untyped, import-not-found"

import torch
import triton
import triton.language as tl
from torch import Tensor

# Patches per tile: more of them, or fewer warps, spill registers in float32.
_FORWARD_ROWS, _BACKWARD_ROWS = 64, 16
# Set explicitly, since Triton's default for fusion changes with its version.
OPTIONS = {"num_warps": 8, "enable_fp_fusion": True}
_PROGRAMS = 512  # of a backward pass; each sums over many tiles


def pooled(patches: Tensor, kernels: Tensor, offsets: Tensor, y: Tensor) -> Tensor:
    """Compute `byola_rq.model.pooled_patches.pooled` into `y` and return it."""
    channels = y.shape[1]
    grid = (triton.cdiv(len(patches), _FORWARD_ROWS),)
    _pooled[grid](
        patches, kernels, offsets, y, len(patches),
        channels, _FORWARD_ROWS, _precision(y), **OPTIONS,
    )  # fmt: skip
    return y


def products(
    patches: Tensor, kernels: Tensor, offsets: Tensor, y: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute `byola_rq.model.pooled_patches.products`."""
    channels = y.shape[1]
    num_tiles = triton.cdiv(len(patches), _BACKWARD_ROWS)
    programs = min(num_tiles, _PROGRAMS)
    sums = torch.empty(programs, 4, 16, channels, device=patches.device)
    totals = torch.empty(programs, channels, device=patches.device)
    _products[(programs,)](
        patches, kernels, offsets, y, gradient, sums, totals, len(patches), num_tiles,
        channels, _BACKWARD_ROWS, _precision(y), **OPTIONS,
    )  # fmt: skip
    # Summed in a fixed order, so that runs are reproducible bit for bit.
    return sums.sum(0).transpose(1, 2).reshape(-1, 16), totals.sum(0)


def _precision(y: Tensor) -> str:
    # Same as torch's convolution; TF32 has three bits more than the bfloat16 it would use.
    is_tf32 = y.dtype is torch.bfloat16 or torch.backends.cudnn.allow_tf32
    return "tf32" if is_tf32 else "ieee"


@triton.jit
def _pooled(
    patches, kernels, offsets, y, num_rows,
    channels: tl.constexpr, rows: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows)
    is_inside = (row < num_rows)[:, None]
    tap, channel = tl.arange(0, 16), tl.arange(0, channels)
    patch = tl.load(patches + row[:, None] * 16 + tap[None, :], mask=is_inside, other=0.0)
    upper = _largest(patch, kernels, offsets, 0, tap, channel, channels, precision)
    lower = _largest(patch, kernels, offsets, 2, tap, channel, channels, precision)
    # NaN must propagate, so that the step is skipped.
    best = tl.maximum(upper, lower, propagate_nan=tl.PropagateNan.ALL)
    best = tl.maximum(best, tl.zeros_like(best), propagate_nan=tl.PropagateNan.ALL)
    tl.store(y + row[:, None] * channels + channel[None, :], best, mask=is_inside)


@triton.jit
def _largest(
    patch, kernels, offsets, place: tl.constexpr, tap, channel,
    channels: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    first = _convolved(patch, kernels, offsets, place, tap, channel, channels, precision)
    second = _convolved(patch, kernels, offsets, place + 1, tap, channel, channels, precision)
    return tl.maximum(first, second, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _convolved(
    patch, kernels, offsets, place: tl.constexpr, tap, channel,
    channels: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """Compute the output at one place of the pooling window, `(rows, channels)`."""
    kernel = tl.load(kernels + (place * channels + channel)[None, :] * 16 + tap[:, None])
    offset = tl.load(offsets + place * channels + channel)
    return tl.dot(patch, kernel, input_precision=precision) + offset[None, :]


@triton.jit
def _products(
    patches, kernels, offsets, y, gradient, sums, totals, num_rows, num_tiles,
    channels: tl.constexpr, rows: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    tap, channel = tl.arange(0, 16), tl.arange(0, channels)
    sum_0 = tl.zeros((16, channels), tl.float32)
    sum_1 = tl.zeros((16, channels), tl.float32)
    sum_2 = tl.zeros((16, channels), tl.float32)
    sum_3 = tl.zeros((16, channels), tl.float32)
    total = tl.zeros((channels,), tl.float32)
    for tile in range(tl.program_id(0), num_tiles, tl.num_programs(0)):
        row = tl.arange(0, rows).to(tl.int64) + tile * rows
        is_inside = (row < num_rows)[:, None]
        patch = tl.load(patches + row[:, None] * 16 + tap[None, :], mask=is_inside, other=0.0)
        z_0 = _convolved(patch, kernels, offsets, 0, tap, channel, channels, precision)
        z_1 = _convolved(patch, kernels, offsets, 1, tap, channel, channels, precision)
        z_2 = _convolved(patch, kernels, offsets, 2, tap, channel, channels, precision)
        z_3 = _convolved(patch, kernels, offsets, 3, tap, channel, channels, precision)
        place = row[:, None] * channels + channel[None, :]
        out = tl.load(y + place, mask=is_inside, other=0.0).to(tl.float32)
        kept = tl.load(gradient + place, mask=is_inside, other=0.0).to(tl.float32)
        kept = tl.where(out > 0, kept, 0.0)
        total += tl.sum(kept, axis=0)
        # Of equal values the first gets the gradient, as in torch.
        is_lower = tl.maximum(z_2, z_3) > tl.maximum(z_0, z_1)
        to_upper, to_lower = tl.where(is_lower, 0.0, kept), tl.where(is_lower, kept, 0.0)
        taps = tl.trans(patch)
        sum_0 += tl.dot(taps, tl.where(z_1 > z_0, 0.0, to_upper), input_precision=precision)
        sum_1 += tl.dot(taps, tl.where(z_1 > z_0, to_upper, 0.0), input_precision=precision)
        sum_2 += tl.dot(taps, tl.where(z_3 > z_2, 0.0, to_lower), input_precision=precision)
        sum_3 += tl.dot(taps, tl.where(z_3 > z_2, to_lower, 0.0), input_precision=precision)
    place = tap[:, None] * channels + channel[None, :]
    own = sums + tl.program_id(0).to(tl.int64) * (4 * 16 * channels) + place
    tl.store(own, sum_0)
    tl.store(own + 16 * channels, sum_1)
    tl.store(own + 2 * 16 * channels, sum_2)
    tl.store(own + 3 * 16 * channels, sum_3)
    tl.store(totals + tl.program_id(0) * channels + channel, total)
