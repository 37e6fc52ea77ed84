"""Waveforms as callers have them -> checked float32 rows."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from byola_rq.audio.io import LOUD, MAX_AMPLITUDE
from byola_rq.errors import AudioError

Waveforms = Tensor | npt.ArrayLike | Sequence[Tensor] | Sequence[npt.ArrayLike]

# Of integer samples, as WAV files hold them: (zero, full scale).
_SCALES = {torch.uint8: (128, 2**7), torch.int16: (0, 2**15), torch.int32: (0, 2**31)}


def as_rows(
    waveform: Waveforms, lengths: Sequence[int] | Tensor | None = None
) -> Tensor | list[Tensor]:
    """Check waveforms and convert them to float32.

    Args:
        waveform: `(S,)`, `(B, S)`, or a list or tuple of B one-dimensional ones. Floating point in
            [-1, 1], or uint8, int16 or int32, which are divided by their full scale as those of a
            WAV file are (uint8 after subtracting 128).
        lengths: Of `(B, S)`, how many samples of each row are sound; what follows is dropped.

    Returns:
        `(B, S)` where all have one length, else a list of `(S,)`.

    Raises:
        AudioError: If they are empty, not of this form, of another type, not finite, or more than
            16 times full scale.
    """
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
    if batch.ndim != 2 or batch.numel() == 0:
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
    """Whether it is a waveform of its own, not a sample."""
    return np.ndim(value) > 0 if not isinstance(value, Tensor) else value.ndim > 0


def _as_row(value: Any, name: str) -> Tensor:
    row = _as_tensor(value, name)
    if row.ndim != 1 or row.numel() == 0:
        raise _wrong_shape(name, "(S,)", row)
    return _checked(row, name)


def _wrong_shape(name: str, rule: str, samples: Tensor) -> AudioError:
    shape, is_empty = tuple(samples.shape), samples.numel() == 0
    what = ", which has no sample" if is_empty else ""
    return AudioError(
        f"{name}: must be {rule}; got shape {shape}{what}",
        code="empty" if is_empty else "value",
        key=name,
        value=shape,
    )


def _as_tensor(value: Any, name: str) -> Tensor:
    if isinstance(value, np.ndarray) and not (value.dtype.isnative and value.flags.writeable):
        value = value.astype(value.dtype.newbyteorder("="))  # torch takes no other
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise AudioError(
            f"{name}: must be an array of samples ({reason})", code="malformed", key=name
        ) from error


def _checked(samples: Tensor, name: str) -> Tensor:
    """Finite float32 samples."""
    if samples.dtype in _SCALES:
        zero, full_scale = _SCALES[samples.dtype]
        # By a power of two, so that 16 bits convert without rounding, as soundfile does it.
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
    highest = float(samples.abs().max())  # NaN, where one is
    if not math.isfinite(highest):
        raise AudioError(
            f"{name}: samples must be finite; got NaN or infinity", code="not-finite", key=name
        )
    if highest > MAX_AMPLITUDE:  # the same rule as for files
        raise AudioError(f"{name}: {LOUD}; got {highest:g}", code="too-large", key=name)
    return samples


def _check_lengths(lengths: Sequence[int] | Tensor, batch: Tensor) -> list[int]:
    counts = torch.as_tensor(lengths)
    if counts.is_floating_point() or counts.shape != batch.shape[:1]:
        raise AudioError(
            f"lengths: must be {len(batch)} whole numbers, one for each row; "
            f"got {counts.dtype} of shape {tuple(counts.shape)}",
            code="value",
            key="lengths",
            value=(counts.dtype, tuple(counts.shape)),
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
