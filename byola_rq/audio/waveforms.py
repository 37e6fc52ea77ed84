"""Checks and conversion of callers' waveforms to float32 rows."""

import contextlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from byola_rq.audio.decoder import SAMPLE_RATES
from byola_rq.audio.io import LOUD, MAX_AMPLITUDE
from byola_rq.errors import AudioError
from byola_rq.text.shown import one_line, shown

_FEWEST_SAMPLES = SAMPLE_RATES.start // 10  # 0.1 s at the lowest rate; no waveform is shorter

SampleRate = int | float | Tensor | npt.ArrayLike
Waveforms = Tensor | npt.ArrayLike | Sequence[Tensor] | Sequence[npt.ArrayLike]

# (zero, full scale) of integer samples, as in WAV files.
_SCALES = {torch.uint8: (128, 2**7), torch.int16: (0, 2**15), torch.int32: (0, 2**31)}


def as_rows(
    waveform: Waveforms, lengths: Sequence[int] | Tensor | None = None
) -> Tensor | list[Tensor]:
    """Check waveforms and convert them to float32.

    Args:
        waveform: `(S,)`, `(B, S)`, or a list, tuple or array of B one-dimensional ones. Floating
            point in [-1, 1], or uint8, int16 or int32, which are divided by their full scale as in
            a WAV file (uint8 after subtracting 128).
        lengths: Number of valid samples in each row of `(B, S)`; the rest is dropped.

    Returns:
        `(B, S)` if all have one length, else a list of `(S,)`.

    Raises:
        AudioError: If they are empty, of another shape or type, not finite, or above 16 times full
            scale.
    """
    if getattr(getattr(waveform, "dtype", None), "kind", "") == "O":  # an array of arrays
        waveform = list(waveform)  # type: ignore[arg-type]
    if isinstance(waveform, (list, tuple)) and any(_is_row(each) for each in waveform):
        if lengths is not None:
            raise AudioError(
                "lengths: must be left out for a list of waveforms, which has its own",
                code="usage",
                key="lengths",
            )
        rows = [_as_row(each, f"waveform {place}") for place, each in enumerate(waveform)]
        return torch.stack(rows) if len({len(row) for row in rows}) == 1 else rows
    batch = _as_tensor(waveform, "waveform")
    batch = batch[None] if batch.ndim == 1 else batch
    num_rows, num_samples = batch.shape if batch.ndim == 2 else (0, 0)
    is_transposed = num_samples < min(num_rows, _FEWEST_SAMPLES)
    if batch.ndim != 2 or batch.numel() == 0 or is_transposed:
        raise _wrong_shape("waveform", "(S,) or (B, S)", batch)
    if lengths is None:
        return _checked(batch, "waveform")
    counts = _check_lengths(lengths, batch)
    rows = [
        _checked(row[:count], f"waveform {place}")
        for place, (row, count) in enumerate(zip(batch, counts, strict=True))
    ]
    return torch.stack(rows) if len(set(counts)) == 1 else rows


def _is_row(value: Any) -> bool:
    """Return whether a list element is a waveform rather than a sample."""
    return np.ndim(value) > 0 if not isinstance(value, Tensor) else value.ndim > 0


def _as_row(value: Any, name: str) -> Tensor:
    row = _as_tensor(value, name)
    if row.ndim != 1 or row.numel() == 0:
        raise _wrong_shape(name, "(S,)", row)
    return _checked(row, name)


def _wrong_shape(name: str, rule: str, samples: Tensor) -> AudioError:
    shape, is_empty = tuple(samples.shape), samples.numel() == 0
    what = ""
    if is_empty:
        what = ", which has no sample"
    elif samples.ndim > 1:
        what = "; of several channels, give one or their mean"
        if samples.ndim == 2:
            axis = int(shape[1] < shape[0])
            what = f"; of {shape[axis]} channels, give one or their mean: waveform.mean({axis})"
    return AudioError(
        f"{name}: must be {rule}; got shape {shape}{what}",
        code="empty" if is_empty else "value",
        key=name,
        value=shape,
    )


def as_sample_rate(value: SampleRate) -> int:
    """Convert a sample rate in Hz: a number, or an array or tensor of equal numbers.

    Raises:
        AudioError: If it is not a whole number, or not the same for all waveforms.
    """
    rates = np.unique(_numbers(value, "iufO"))
    if len(rates) != 1 or not math.isfinite(rates[0]) or rates[0] % 1:
        got = one_line(value)
        if len(rates) > 1:
            got += ", which are several; call it once for each, or resample"
        raise AudioError(
            f"sample rate: must be a whole number of Hz; got {got}",
            code="value",
            key="sample rate",
            value=value,
        )
    return int(rates[0])


def _numbers(value: Any, kinds: str) -> npt.NDArray[np.float64]:
    """Convert numbers to an array; empty if their numpy kind is none of `kinds`."""
    with contextlib.suppress(TypeError, ValueError, RuntimeError, OverflowError):
        numbers = np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value)
        if numbers.dtype.kind in kinds:
            return np.asarray(numbers, np.float64)
    return np.empty(0)


def _as_tensor(value: Any, name: str) -> Tensor:
    is_masked = isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value)
    if not isinstance(value, Tensor) and hasattr(value, "__array__"):
        value = np.asarray(value)
        is_plain = value.dtype.isnative and value.flags.writeable and value.flags.aligned
        if not is_plain or any(stride < 0 for stride in value.strides):
            # Copied: torch supports neither foreign byte orders nor negative strides.
            value = np.array(value, value.dtype.newbyteorder("="), order="C")
    try:
        if is_masked:
            raise ValueError("some are masked")
        # On the CPU, whatever torch's default device is.
        samples = value if isinstance(value, Tensor) else torch.as_tensor(value, device="cpu")
        if samples.is_nested or samples.is_meta or samples.layout != torch.strided:
            raise ValueError("this tensor is nested, sparse or without content")
        return samples
    except (TypeError, ValueError, RuntimeError) as error:
        reason = one_line(error)
        raise AudioError(
            f"{name}: must be an array of samples ({reason})", code="malformed", key=name
        ) from error


def _checked(samples: Tensor, name: str) -> Tensor:
    """Convert to float32 and check that the samples are finite and in range."""
    if samples.dtype in _SCALES:
        zero, full_scale = _SCALES[samples.dtype]
        # Full scale is a power of two: 16 bits convert without rounding, as in soundfile.
        return (samples.float() - zero) / full_scale
    if not samples.is_floating_point():
        raise AudioError(
            f"{name}: must be floating point in [-1, 1], or uint8, int16 or int32 at full scale; "
            f"got {samples.dtype}",
            code="value",
            key=name,
            value=samples.dtype,
        )
    samples = samples.float()
    low, high = (float(each) for each in samples.aminmax())  # NaN if any is NaN
    if not math.isfinite(high - low):
        raise AudioError(
            f"{name}: samples must be finite; got NaN or infinity", code="not-finite", key=name
        )
    if (peak := max(-low, high)) > MAX_AMPLITUDE:
        raise AudioError(
            f"{name}: {LOUD}; got {peak:g}. Divide by the full scale (of 16 bits 32768), or give "
            "integers as integers",
            code="too-large",
            key=name,
            value=peak,
        )
    return samples


def _check_lengths(lengths: Sequence[int] | Tensor, batch: Tensor) -> list[int]:
    counts = _numbers(lengths, "iu")
    if counts.shape != batch.shape[:1]:
        raise AudioError(
            f"lengths: must be {len(batch)} whole numbers, one for each row; "
            f"got {shown(one_line(lengths), 200)}",
            code="value",
            key="lengths",
            value=lengths,
        )
    least, most = int(counts.min()), int(counts.max())
    if least < 1 or most > batch.shape[1]:
        raise AudioError(
            f"lengths: must be 1 to {batch.shape[1]}; got {least} to {most}",
            code="value",
            key="lengths",
            value=(least, most),
        )
    return [int(count) for count in counts]
