"""Triton kernel of `fused`: mixup, crop, fader and quantization of a block of bands."""

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


# Specialize on num_frames alone, which places rows, so one compilation serves many sizes.
@triton.jit(do_not_specialize=["num_planes", "num_bands", "tall", "wide"])
def augment(
    planes,  # (N, F, T), of any strides
    keys,  # int64 (N,)
    made,  # (V, N, F, T), contiguous
    ring,  # mixup's, (memory, F, T), contiguous
    num_seen,  # mixup's, int64
    stride_plane,
    stride_key,
    stride_band,
    stride_frame,
    num_planes,
    num_bands,
    num_frames,
    tall,  # the crop's canvas
    wide,
    views: tl.constexpr,  # words that derive the views' keys; None: one view, by the given keys
    # Constants of each step as `fused.constants` returns them, the word of its key first, or None.
    mixup: tl.constexpr,
    crop: tl.constexpr,
    fader: tl.constexpr,
    quantization: tl.constexpr,
    block_bands: tl.constexpr,
    block_frames: tl.constexpr,
):
    """Make one view of a block of bands of one plane; program (plane, view, block)."""
    plane = tl.program_id(0).to(tl.int64)
    view = tl.program_id(1)
    bands = tl.program_id(2) * block_bands + tl.arange(0, block_bands)
    frames = tl.arange(0, block_frames)
    key = tl.load(keys + plane * stride_key).to(tl.uint64, bitcast=True)
    if views is not None:
        first = _fold_in(key, views[0])
        key = tl.where(view == 0, first, _fold_in(key, views[1]))
    x = planes + plane * stride_plane
    partner, share = ring, 0.0
    if mixup is not None:
        place, share = _draw_partner(_fold_in(key, mixup[0]), num_seen, mixup)
        partner = ring + place * (num_bands * num_frames)
    if crop is not None:
        result = _crop(
            x, partner, share, stride_band, stride_frame, _fold_in(key, crop[0]),
            bands, frames, num_bands, num_frames, tall, wide, mixup, crop,
        )  # fmt: skip
    else:
        band, frame = tl.minimum(bands, num_bands - 1), tl.minimum(frames, num_frames - 1)
        result = _load(x, partner, share, stride_band, stride_frame, band, frame, num_frames, mixup)
    if fader is not None:
        result += _fader_line(frames, _fold_in(key, fader[0]), num_frames, fader)[None, :]
    is_inside = (bands < num_bands)[:, None] & (frames < num_frames)[None, :]
    if quantization is not None:
        result = _quantize(result, is_inside, bands, _fold_in(key, quantization[0]), quantization)
    to = (view.to(tl.int64) * num_planes + plane) * (num_bands * num_frames)
    tl.store(made + to + bands[:, None] * num_frames + frames[None, :], result, mask=is_inside)


@triton.jit
def _draw_partner(key, num_seen, mixup: tl.constexpr):
    """Draw a place in the ring and its weight; see `Mixup`."""
    num_filled = tl.minimum(tl.load(num_seen), mixup[4]).to(tl.uint64)
    bits = _mix(_fold_in(key, mixup[2]) + _INCREMENT) >> 1
    place = bits % tl.maximum(num_filled, 1)
    share = _uniform(_fold_in(key, mixup[1]), 1) * mixup[3]
    return place.to(tl.int64), tl.where(num_filled > 0, share, 0.0)


@triton.jit
def _load(
    x, partner, share, stride_band, stride_frame, band, frame,
    num_frames, mixup: tl.constexpr,
):  # fmt: skip
    """Load the elements at `band` and `frame`, mixed with their partner's."""
    place = band[:, None] * stride_band + frame[None, :] * stride_frame
    result = tl.load(x + place).to(tl.float32)
    if mixup is not None:
        other = tl.load(partner + band[:, None] * num_frames + frame[None, :]).to(tl.float32)
        kept = result + tl.log(1.0 - share)
        mixed = other + tl.log(tl.where(share > 0, share, 1.0))
        larger, smaller = tl.maximum(kept, mixed), tl.minimum(kept, mixed)
        mixed = larger + tl.log(1.0 + tl.exp(smaller - larger))
        result = tl.where(share > 0, mixed, result)
    return result


@triton.jit
def _crop(
    x, partner, share, stride_band, stride_frame, key,
    bands, frames, num_bands, num_frames, tall, wide,
    mixup: tl.constexpr, crop: tl.constexpr,
):  # fmt: skip
    """Sum sixteen taps per element, `(block_bands, block_frames)`; see `RandomResizedCrop`."""
    height = _draw_size(_uniform(key, 1), crop[1], crop[2], num_bands, tall)
    width = _draw_size(_uniform(key, 2), crop[3], crop[4], num_frames, wide)
    top = _draw_place(_uniform(key, 3), tall - height) - (tall - num_bands) // 2
    left = _draw_place(_uniform(key, 4), wide - width) - (wide - num_frames) // 2
    below_band, t_band = _position(bands, height, num_bands)
    below_frame, t_frame = _position(frames, width, num_frames)
    result = tl.zeros((bands.shape[0], frames.shape[0]), tl.float32)
    # With mixup, unrolling all taps would spill registers.
    unrolled: tl.constexpr = 4 if mixup is None else 1
    for i in tl.range(4, num_stages=1, loop_unroll_factor=unrolled):
        band, weight_band = _tap(i, below_band, t_band, top, height, num_bands)
        row = tl.zeros((bands.shape[0], frames.shape[0]), tl.float32)
        for j in tl.static_range(4):
            frame, weight_frame = _tap(j, below_frame, t_frame, left, width, num_frames)
            tap = _load(
                x, partner, share, stride_band, stride_frame, band, frame, num_frames, mixup
            )
            # Sum along frames first, as one chain of fused multiply-adds, like an embedding bag, so
            # that an element near an edge falls into the same bin.
            row = tl.fma(tap, tl.broadcast_to(weight_frame[None, :], row.shape), row)
        result = tl.fma(row, tl.broadcast_to(weight_band[:, None], row.shape), result)
    return result


@triton.jit
def _draw_size(fraction, low: tl.constexpr, span: tl.constexpr, size, most):
    drawn = tl.floor((low + fraction * span) * size).to(tl.int32)
    return tl.minimum(tl.maximum(drawn, 1), most)


@triton.jit
def _draw_place(fraction, room):
    return tl.minimum(tl.floor(fraction * (room + 1).to(tl.float32)).to(tl.int32), room)


@triton.jit
def _position(outputs, size, length):
    """Return the element below each output's position in the box, and the fraction beyond it."""
    step = tl.div_rn((size - 1).to(tl.float32), tl.maximum(length - 1, 1).to(tl.float32))
    position = outputs.to(tl.float32) * step
    below = tl.floor(position)
    return below.to(tl.int32), position - below


@triton.jit
def _tap(number, below, t, start, size, length):
    """Return position and weight of tap `number`, 0 to 3, of each output."""
    weight = tl.where(number < 2, _near(t), _near(1 - t))
    weight = tl.where(number == 0, _far(t + 1), weight)
    weight = tl.where(number == 3, _far(2 - t), weight)
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
def _fader_line(frames, key, num_frames, fader: tl.constexpr):
    """Return the line added to every band; see `RandomLinearFader`."""
    first = (_uniform(key, 1) * 2 - 1) * fader[1]
    last = (_uniform(key, 2) * 2 - 1) * fader[1]
    last_frame = tl.maximum(num_frames - 1, 1).to(tl.float32)
    way = tl.div_rn(frames.to(tl.float32), tl.broadcast_to(last_frame, frames.shape))
    return first * (1 - way) + last * way


@triton.jit
def _quantize(x, is_inside, bands, key, quantization: tl.constexpr):
    """Quantize each row; draws are indexed by (row, place in the row)."""
    num_bins: tl.constexpr = quantization[4]
    p: tl.constexpr = quantization[8]
    low = tl.min(tl.where(is_inside, x, float("inf")), axis=1)
    high = tl.max(tl.where(is_inside, x, float("-inf")), axis=1)
    rows = bands
    if quantization[7]:  # one quantizer for all
        low = tl.zeros_like(low) + tl.min(low, axis=0)
        high = tl.zeros_like(high) + tl.max(high, axis=0)
        rows = tl.zeros_like(bands)
    # Padding rows would contain infinities.
    low = tl.where(low <= high, low, 0.0)
    high = tl.where(low <= high, high, 0.0)
    ends, fractions = _draw_fractions(rows[:, None], key, quantization)
    places = tl.arange(0, quantization[9])[None, :]
    quantized = tl.zeros_like(x)
    start = low
    for k in tl.range(num_bins):
        end = _between(low, high, tl.sum(tl.where(places == k, ends, 0.0), axis=1))
        end = tl.where(k == num_bins - 1, high, end)
        value = _between(start, end, tl.sum(tl.where(places == k, fractions, 0.0), axis=1))
        # The first bin also takes everything below its start.
        quantized = tl.where((x >= start[:, None]) | (k == 0), value[:, None], quantized)
        start = end
    if p < 1:
        quantized = tl.where(_uniform(_fold_in(key, quantization[3]), 1) < p, quantized, x)
    return quantized


@triton.jit
def _draw_fractions(rows, key, quantization: tl.constexpr):
    """Draw the relative end of each bin, ascending, and the relative place of its value.

    `(block_bands, block_bins)` each; the ends of the last bin and of padding are not used.
    """
    num_bins: tl.constexpr = quantization[4]
    places = tl.arange(0, quantization[9])[None, :] + tl.zeros_like(rows)
    if quantization[5]:  # uniform
        divisor = tl.full(places.shape, num_bins, tl.float32)
        ends = tl.div_rn((places + 1).to(tl.float32), divisor)
    else:
        # Sorted as fractions: edges do not fall as fractions grow.
        counter = rows * (num_bins - 1) + places + 1
        drawn = _uniform(_fold_in(key, quantization[1]), counter)
        ends = tl.sort(tl.where(places < num_bins - 1, drawn, 2.0), dim=1)
    fractions = tl.full(places.shape, 0.5, tl.float32)
    if not quantization[6]:  # midpoints
        counter = rows * num_bins + places + 1
        fractions = _uniform(_fold_in(key, quantization[2]), counter)
    return ends, fractions


@triton.jit
def _between(low, high, fraction):
    return tl.minimum(tl.maximum(low + fraction * (high - low), low), high)


@triton.jit
def _uniform(key, counter):
    """Draw number `counter`, from 1, of a key; see `rng.uniform`."""
    bits = _mix(key + tl.cast(counter, tl.uint64) * _INCREMENT)
    return (bits >> 40).to(tl.float32) * 5.9604644775390625e-08  # 2^-24


@triton.jit
def _fold_in(key, word: tl.constexpr):
    """Fold a word into the key, see `rng.fold_in`; the key itself if `word` is None."""
    if word is not None:
        key = _mix(key * 3 + tl.full((), word, tl.uint64))
    return key


@triton.jit
def _mix(bits):
    bits = (bits ^ (bits >> 30)) * _MULTIPLIER_1
    bits = (bits ^ (bits >> 27)) * _MULTIPLIER_2
    return bits ^ (bits >> 31)
