"""The kernel of `fused_views`: crop and quantization of a block of bands, all in registers."""

# Importing this file needs Triton; its decorators and functions carry no types.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, import-untyped"

import triton
import triton.language as tl

from byola_rq.augment.crop import CUBIC_A
from byola_rq.runtime.rng import INCREMENT, MULTIPLIER_1, MULTIPLIER_2

_INCREMENT = tl.constexpr(INCREMENT)
_MULTIPLIER_1 = tl.constexpr(MULTIPLIER_1)
_MULTIPLIER_2 = tl.constexpr(MULTIPLIER_2)
_A = tl.constexpr(CUBIC_A)


@triton.jit
def crop_and_quantize(
    log_mel,  # (B, F, T), of any strides
    keys,  # int64 (B,)
    views,  # (2, B, F, T), contiguous
    stride_sample,
    stride_key,
    stride_band,
    stride_frame,
    num_samples,
    num_bands: tl.constexpr,
    num_frames: tl.constexpr,
    words: tl.constexpr,  # of the keys: both views, crop, quantization, edges, values, applied
    canvas: tl.constexpr,
    freq_scale: tl.constexpr,  # lowest, span
    time_scale: tl.constexpr,
    num_bins: tl.constexpr,
    is_uniform: tl.constexpr,  # the edges
    is_midpoint: tl.constexpr,  # the values
    is_instance: tl.constexpr,
    p: tl.constexpr,
    block_bands: tl.constexpr,
    block_frames: tl.constexpr,
    block_bins: tl.constexpr,
):
    """Make one view of a block of bands of one sample; program (sample, view, block)."""
    sample = tl.program_id(0).to(tl.int64)
    view = tl.program_id(1)
    bands = tl.program_id(2) * block_bands + tl.arange(0, block_bands)
    frames = tl.arange(0, block_frames)
    key = tl.load(keys + sample * stride_key).to(tl.uint64, bitcast=True)
    view_key = _fold_in(key, words[0])
    if view == 1:
        view_key = _fold_in(key, words[1])
    x = _crop(
        log_mel + sample * stride_sample, stride_band, stride_frame, _fold_in(view_key, words[2]),
        bands, frames, num_bands, num_frames, canvas, freq_scale, time_scale,
    )  # fmt: skip
    is_inside = (bands < num_bands)[:, None] & (frames < num_frames)[None, :]
    if p > 0:
        x = _quantize(
            x, is_inside, bands, _fold_in(view_key, words[3]), words,
            num_bins, is_uniform, is_midpoint, is_instance, p, block_bins,
        )  # fmt: skip
    place = (view.to(tl.int64) * num_samples + sample) * (num_bands * num_frames)
    place += bands[:, None] * num_frames + frames[None, :]
    tl.store(views + place, x, mask=is_inside)


@triton.jit
def _crop(
    sample, stride_band, stride_frame, key,
    bands, frames, num_bands: tl.constexpr, num_frames: tl.constexpr,
    canvas: tl.constexpr, freq_scale: tl.constexpr, time_scale: tl.constexpr,
):  # fmt: skip
    """Sixteen taps for each element, `(block_bands, block_frames)`; see `RandomResizedCrop`."""
    height = _draw_size(_uniform(key, 1), freq_scale, num_bands, canvas[0])
    width = _draw_size(_uniform(key, 2), time_scale, num_frames, canvas[1])
    top = _draw_place(_uniform(key, 3), canvas[0] - height) - (canvas[0] - num_bands) // 2
    left = _draw_place(_uniform(key, 4), canvas[1] - width) - (canvas[1] - num_frames) // 2
    below_band, t_band = _position(bands, height, num_bands)
    below_frame, t_frame = _position(frames, width, num_frames)
    result = tl.zeros((bands.shape[0], frames.shape[0]), tl.float32)
    for i in tl.static_range(4):
        band, weight_band = _tap(i, below_band, t_band, top, height, num_bands)
        row = tl.zeros((bands.shape[0], frames.shape[0]), tl.float32)
        for j in tl.static_range(4):
            frame, weight_frame = _tap(j, below_frame, t_frame, left, width, num_frames)
            x = tl.load(sample + band[:, None] * stride_band + frame[None, :] * stride_frame)
            # Along the frames first, each sum as one chain of fused steps: what an embedding bag
            # does, so that an element near an edge falls into the same bin.
            row = tl.fma(x, tl.broadcast_to(weight_frame[None, :], row.shape), row)
        result = tl.fma(row, tl.broadcast_to(weight_band[:, None], row.shape), result)
    return result


@triton.jit
def _draw_size(fraction, scale: tl.constexpr, size: tl.constexpr, most: tl.constexpr):
    drawn = tl.floor((scale[0] + fraction * scale[1]) * size).to(tl.int32)
    return tl.minimum(tl.maximum(drawn, 1), most)


@triton.jit
def _draw_place(fraction, room):
    return tl.minimum(tl.floor(fraction * (room + 1).to(tl.float32)).to(tl.int32), room)


@triton.jit
def _position(outputs, size, length: tl.constexpr):
    """The element below each output's place in the box, and the way from it to the next."""
    last: tl.constexpr = max(length - 1, 1)
    step = tl.div_rn((size - 1).to(tl.float32), tl.full((), last, tl.float32))
    position = outputs.to(tl.float32) * step
    below = tl.floor(position)
    return below.to(tl.int32), position - below


@triton.jit
def _tap(number: tl.constexpr, below, t, start, size, length: tl.constexpr):
    """Place and weight of tap `number` of each output."""
    if number == 0:
        weight = _far(t + 1)
    elif number == 1:
        weight = _near(t)
    elif number == 2:
        weight = _near(1 - t)
    else:
        weight = _far(2 - t)
    place = tl.minimum(tl.maximum(below + (number - 1), 0), size - 1) + start
    weight = tl.where((place >= 0) & (place < length), weight, 0.0)
    return tl.minimum(tl.maximum(place, 0), length - 1), weight


@triton.jit
def _near(d):
    return ((_A + 2) * d - (_A + 3)) * d * d + 1


@triton.jit
def _far(d):
    return ((_A * d - 5 * _A) * d + 8 * _A) * d - 4 * _A


@triton.jit
def _quantize(
    x, is_inside, bands, key, words: tl.constexpr, num_bins: tl.constexpr,
    is_uniform: tl.constexpr, is_midpoint: tl.constexpr, is_instance: tl.constexpr,
    p: tl.constexpr, block_bins: tl.constexpr,
):  # fmt: skip
    """See `RandomizedQuantization`; a value that is drawn belongs to (row, place in the row)."""
    low = tl.min(tl.where(is_inside, x, float("inf")), axis=1)
    high = tl.max(tl.where(is_inside, x, float("-inf")), axis=1)
    rows = bands
    if is_instance:
        low = tl.zeros_like(low) + tl.min(low, axis=0)
        high = tl.zeros_like(high) + tl.max(high, axis=0)
        rows = tl.zeros_like(bands)
    # Padding rows of the block would hold infinities.
    low = tl.where(low <= high, low, 0.0)
    high = tl.where(low <= high, high, 0.0)
    ends, fractions = _draw_fractions(
        rows[:, None], key, words, num_bins, is_uniform, is_midpoint, block_bins
    )
    places = tl.arange(0, block_bins)[None, :]
    quantized = tl.zeros_like(x)
    start = low
    for k in tl.range(num_bins):
        end = _between(low, high, tl.sum(tl.where(places == k, ends, 0.0), axis=1))
        end = tl.where(k == num_bins - 1, high, end)
        value = _between(start, end, tl.sum(tl.where(places == k, fractions, 0.0), axis=1))
        # The first bin reaches down to all that is there.
        quantized = tl.where((x >= start[:, None]) | (k == 0), value[:, None], quantized)
        start = end
    if p < 1:
        quantized = tl.where(_uniform(_fold_in(key, words[6]), 1) < p, quantized, x)
    return quantized


@triton.jit
def _draw_fractions(
    rows, key, words: tl.constexpr,
    num_bins: tl.constexpr, is_uniform: tl.constexpr, is_midpoint: tl.constexpr,
    block_bins: tl.constexpr,
):  # fmt: skip
    """Where in the range each bin ends, ascending, and where in the bin its value lies.

    `(block_bands, block_bins)` each; of the last bin and beyond, the ends mean nothing.
    """
    places = tl.arange(0, block_bins)[None, :] + tl.zeros_like(rows)
    if is_uniform:
        divisor = tl.full(places.shape, num_bins, tl.float32)
        ends = tl.div_rn((places + 1).to(tl.float32), divisor)
    else:
        # Sorted before they meet the range: an edge never falls as its fraction grows.
        counter = rows * (num_bins - 1) + places + 1
        drawn = _uniform(_fold_in(key, words[4]), counter)
        ends = tl.sort(tl.where(places < num_bins - 1, drawn, 2.0), dim=1)
    fractions = tl.full(places.shape, 0.5, tl.float32)
    if not is_midpoint:
        fractions = _uniform(_fold_in(key, words[5]), rows * num_bins + places + 1)
    return ends, fractions


@triton.jit
def _between(low, high, fraction):
    return tl.minimum(tl.maximum(low + fraction * (high - low), low), high)


@triton.jit
def _uniform(key, counter):
    """Number `counter`, from 1, of a key; see `rng.uniform`."""
    bits = _mix(key + tl.cast(counter, tl.uint64) * _INCREMENT)
    return (bits >> 40).to(tl.float32) * 5.9604644775390625e-08  # 2^-24


@triton.jit
def _fold_in(key, word: tl.constexpr):
    """See `rng.fold_in` and `rng.word_bits`."""
    return _mix(key * 3 + tl.full((), word, tl.uint64))


@triton.jit
def _mix(bits):
    bits = (bits ^ (bits >> 30)) * _MULTIPLIER_1
    bits = (bits ^ (bits >> 27)) * _MULTIPLIER_2
    return bits ^ (bits >> 31)
