"""Triton kernels of `norm_pool`: each pass reads a convolution's output once."""

# Importing this file needs Triton; its decorators and functions carry no types.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
# mypy: disable-error-code="import-untyped, import-not-found"

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

ROWS = 32  # pooled rows of a tile, each of four rows of the convolution's output
PROGRAMS = 512  # of a reduction; each sums over many tiles
OPTIONS = {"num_warps": 4, "enable_fp_fusion": True}


def batch_statistics(z: Tensor, bias: Tensor, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Mean and 1 / standard deviation of each channel, `(C,)`; updates the running statistics.

    Args:
        z: Convolution output without bias, `(B, C, H, W)`, channels last.
        bias: Bias of the convolution, `(C,)`, added to the running mean alone.
        norm: Batch norm whose running statistics are updated.
    """
    channels, num_rows = z.shape[1], z.numel() // z.shape[1]
    num_tiles = triton.cdiv(num_rows, 4 * ROWS)
    programs = min(num_tiles, PROGRAMS)
    partial = torch.empty(2, programs, channels, device=z.device)
    counts = torch.empty(programs, device=z.device)
    _moments[(programs,)](
        z, partial, counts, num_rows, num_tiles, channels=channels, rows=4 * ROWS, **OPTIONS
    )
    mean, scale = torch.empty(2, channels, device=z.device)
    _finish[(channels // 16,)](
        partial, counts, bias, norm.running_mean, norm.running_var, norm.num_batches_tracked,
        mean, scale, num_rows, programs, norm.eps, norm.momentum, channels=channels, **OPTIONS,
    )  # fmt: skip
    return mean, scale


def pool(z: Tensor, mean: Tensor, scale: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """Apply batch norm, 2 x 2 max-pooling, ReLU: `(B, C, H // 2, W // 2)`, channels last."""
    batch, channels, height, width = z.shape
    y = torch.empty(
        (batch, channels, height // 2, width // 2),
        dtype=z.dtype, device=z.device, memory_format=torch.channels_last,
    )  # fmt: skip
    num_rows = y.numel() // channels
    _pool[(triton.cdiv(num_rows, ROWS),)](
        z, mean, scale, gamma, beta, y, num_rows, width, channels=channels, rows=ROWS, **OPTIONS
    )
    return y


def unpool(
    gradient: Tensor, z: Tensor, mean: Tensor, scale: Tensor, gamma: Tensor, beta: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `z`, `gamma` and `beta` from the gradient of `pool`'s result."""
    _, channels, _, width = z.shape
    num_rows = gradient.numel() // channels
    num_tiles = triton.cdiv(num_rows, ROWS)
    programs = min(num_tiles, PROGRAMS)
    partial = torch.empty(programs, 2, channels, device=z.device)
    shared = (gradient, z, mean, scale, gamma, beta)
    _sum_gradient[(programs,)](
        *shared, partial, num_rows, num_tiles, width, channels=channels, rows=ROWS, **OPTIONS
    )
    # Summed in a fixed order, so that runs are reproducible bit for bit.
    sums = partial.sum(0)  # (2, C): of beta, of gamma
    of_z = torch.empty_like(z)
    _spread_gradient[(num_tiles,)](
        *shared, sums, of_z, num_rows, width, channels=channels, rows=ROWS, **OPTIONS
    )
    return of_z, sums[1], sums[0]


@triton.jit
def _moments(
    z, partial, counts, num_rows, num_tiles, channels: tl.constexpr, rows: tl.constexpr
):  # fmt: skip
    """Compute mean and sum of squared deviations of a program's tiles (Chan et al.'s update)."""
    channel = tl.arange(0, channels)
    mean = tl.zeros((channels,), tl.float32)
    deviations = tl.zeros((channels,), tl.float32)
    count = 0.0
    for tile in range(tl.program_id(0), num_tiles, tl.num_programs(0)):
        row = tl.arange(0, rows).to(tl.int64) + tile * rows
        is_inside = (row < num_rows)[:, None]
        x = tl.load(z + row[:, None] * channels + channel[None, :], mask=is_inside, other=0.0)
        x = x.to(tl.float32)
        own_count = tl.sum(tl.where(row < num_rows, 1.0, 0.0), axis=0)
        own_mean = tl.sum(x, axis=0) / own_count
        away = tl.where(is_inside, x - own_mean[None, :], 0.0)
        both = count + own_count
        step = own_mean - mean
        deviations += tl.sum(away * away, axis=0) + step * step * (count * own_count / both)
        mean += step * (own_count / both)
        count = both
    place = tl.program_id(0) * channels + channel
    tl.store(partial + place, mean)
    tl.store(partial + tl.num_programs(0) * channels + place, deviations)
    tl.store(counts + tl.program_id(0), count)


@triton.jit
def _finish(
    partial, counts, bias, running_mean, running_var, num_batches, mean_out, scale_out,
    num_rows, programs, eps, momentum, channels: tl.constexpr,
):  # fmt: skip
    """Combine the partial moments of 16 channels, in a fixed order."""
    channel = tl.program_id(0) * 16 + tl.arange(0, 16)
    mean = tl.zeros((16,), tl.float32)
    for first in range(0, programs, 64):
        program = first + tl.arange(0, 64)
        is_inside = program < programs
        weight = tl.load(counts + program, mask=is_inside, other=0.0) / num_rows
        place = program[:, None] * channels + channel[None, :]
        means = tl.load(partial + place, mask=is_inside[:, None], other=0.0)
        mean += tl.sum(means * weight[:, None], axis=0)
    deviations = tl.zeros((16,), tl.float32)
    for first in range(0, programs, 64):
        program = first + tl.arange(0, 64)
        is_inside = program < programs
        count = tl.load(counts + program, mask=is_inside, other=0.0)
        place = program[:, None] * channels + channel[None, :]
        means = tl.load(partial + place, mask=is_inside[:, None], other=0.0)
        own = tl.load(partial + programs * channels + place, mask=is_inside[:, None], other=0.0)
        away = means - mean[None, :]
        deviations += tl.sum(own + away * away * count[:, None], axis=0)
    variance = deviations / num_rows
    tl.store(mean_out + channel, mean)
    tl.store(scale_out + channel, 1 / tl.sqrt_rn(variance + eps))
    before = tl.load(running_mean + channel)
    now = mean + tl.load(bias + channel)
    tl.store(running_mean + channel, before + momentum * (now - before))
    before = tl.load(running_var + channel)
    now = deviations / (num_rows - 1)
    tl.store(running_var + channel, before + momentum * (now - before))
    if tl.program_id(0) == 0:
        tl.store(num_batches, tl.load(num_batches) + 1)


@triton.jit
def _pool(
    z, mean, scale, gamma, beta, y, num_rows, width, channels: tl.constexpr, rows: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows)
    is_inside = (row < num_rows)[:, None]
    channel = tl.arange(0, channels)
    slope, offset = _affine(mean, scale, gamma, beta, channel)
    x_0, x_1, x_2, x_3 = _window(z, row, channel, is_inside, width, channels)
    upper = _larger(_line(x_0, slope, offset), _line(x_1, slope, offset))
    lower = _larger(_line(x_2, slope, offset), _line(x_3, slope, offset))
    best = _larger(upper, lower)
    # NaN must propagate, so that the step is skipped.
    best = _larger(best, tl.zeros_like(best))
    tl.store(y + row[:, None] * channels + channel[None, :], best, mask=is_inside)


@triton.jit
def _sum_gradient(
    gradient, z, mean, scale, gamma, beta, partial, num_rows, num_tiles, width,
    channels: tl.constexpr, rows: tl.constexpr,
):  # fmt: skip
    """Sum, over a program's tiles, the gradient that reaches batch norm, and that times x^."""
    channel = tl.arange(0, channels)
    slope, offset = _affine(mean, scale, gamma, beta, channel)
    of_beta = tl.zeros((channels,), tl.float32)
    of_gamma = tl.zeros((channels,), tl.float32)
    for tile in range(tl.program_id(0), num_tiles, tl.num_programs(0)):
        row = tl.arange(0, rows).to(tl.int64) + tile * rows
        is_inside = (row < num_rows)[:, None]
        x_0, x_1, x_2, x_3 = _window(z, row, channel, is_inside, width, channels)
        to_0, to_1, to_2, to_3 = _shares(
            gradient, row, channel, is_inside, channels, slope, offset, x_0, x_1, x_2, x_3
        )
        of_beta += tl.sum(to_0 + to_1 + to_2 + to_3, axis=0)
        of_gamma += tl.sum(x_0 * to_0 + x_1 * to_1 + x_2 * to_2 + x_3 * to_3, axis=0)
    own_mean, own_scale = tl.load(mean + channel), tl.load(scale + channel)
    own = partial + tl.program_id(0) * 2 * channels + channel
    tl.store(own, of_beta)
    tl.store(own + channels, (of_gamma - own_mean * of_beta) * own_scale)


@triton.jit
def _spread_gradient(
    gradient, z, mean, scale, gamma, beta, sums, of_z, num_rows, width,
    channels: tl.constexpr, rows: tl.constexpr,
):  # fmt: skip
    """Subtract batch norm's mean and x^ components from the gradient of each element."""
    row = tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows)
    is_inside = (row < num_rows)[:, None]
    channel = tl.arange(0, channels)
    slope, offset = _affine(mean, scale, gamma, beta, channel)
    x_0, x_1, x_2, x_3 = _window(z, row, channel, is_inside, width, channels)
    to_0, to_1, to_2, to_3 = _shares(
        gradient, row, channel, is_inside, channels, slope, offset, x_0, x_1, x_2, x_3
    )
    count = num_rows * 4.0
    own_mean, own_scale = tl.load(mean + channel), tl.load(scale + channel)
    along = tl.load(sums + channels + channel) * own_scale / count  # times (x - mean)
    level = tl.load(sums + channel) / count - along * own_mean
    place = of_z + _first_of(row, width)[:, None] * channels + channel[None, :]
    below = place + width * channels
    tl.store(place, _less_batch(to_0, x_0, slope, level, along), mask=is_inside)
    tl.store(place + channels, _less_batch(to_1, x_1, slope, level, along), mask=is_inside)
    tl.store(below, _less_batch(to_2, x_2, slope, level, along), mask=is_inside)
    tl.store(below + channels, _less_batch(to_3, x_3, slope, level, along), mask=is_inside)


@triton.jit
def _less_batch(to, x, slope, level, along):
    return slope[None, :] * (to - level[None, :] - along[None, :] * x)


@triton.jit
def _affine(mean, scale, gamma, beta, channel):
    """Return batch norm as `slope x + offset`."""
    slope = tl.load(gamma + channel) * tl.load(scale + channel)
    return slope, tl.load(beta + channel) - slope * tl.load(mean + channel)


@triton.jit
def _first_of(row, width):
    """Return the first of the four input rows that a pooled row covers."""
    return row // (width // 2) * (2 * width) + row % (width // 2) * 2


@triton.jit
def _window(z, row, channel, is_inside, width, channels: tl.constexpr):
    place = _first_of(row, width)[:, None] * channels + channel[None, :]
    x_0 = tl.load(z + place, mask=is_inside, other=0.0).to(tl.float32)
    x_1 = tl.load(z + place + channels, mask=is_inside, other=0.0).to(tl.float32)
    below = place + width * channels
    x_2 = tl.load(z + below, mask=is_inside, other=0.0).to(tl.float32)
    x_3 = tl.load(z + below + channels, mask=is_inside, other=0.0).to(tl.float32)
    return x_0, x_1, x_2, x_3


@triton.jit
def _shares(
    gradient, row, channel, is_inside, channels: tl.constexpr, slope, offset, x_0, x_1, x_2, x_3
):  # fmt: skip
    """Route the gradient of a pooled element to the (first) largest of its four."""
    y_0, y_1 = _line(x_0, slope, offset), _line(x_1, slope, offset)
    y_2, y_3 = _line(x_2, slope, offset), _line(x_3, slope, offset)
    upper, lower = tl.maximum(y_0, y_1), tl.maximum(y_2, y_3)
    place = row[:, None] * channels + channel[None, :]
    whole = tl.load(gradient + place, mask=is_inside, other=0.0).to(tl.float32)
    whole = tl.where(tl.maximum(upper, lower) > 0, whole, 0.0)
    is_lower = lower > upper
    to_upper, to_lower = tl.where(is_lower, 0.0, whole), tl.where(is_lower, whole, 0.0)
    to_1 = tl.where(y_1 > y_0, to_upper, 0.0)
    to_3 = tl.where(y_3 > y_2, to_lower, 0.0)
    return to_upper - to_1, to_1, to_lower - to_3, to_3


@triton.jit
def _line(x, slope, offset):
    return slope[None, :] * x + offset[None, :]


@triton.jit
def _larger(a, b):
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)
