"""Audio files as mono waveforms at one sample rate: reading, resampling, cropping, padding."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from byola_rq.audio import multimedia
from byola_rq.audio.decoder import SAMPLE_RATES, TOLERATED_SECONDS, OpenAudio, rate_limits
from byola_rq.audio.encoded import EncodedAudio, audio_error
from byola_rq.audio.opening import open_audio
from byola_rq.errors import AudioError

# torch is imported where a tensor is made: processes that only decode save its 190 MB.
if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["EncodedAudio", "audio_error", "open_audio"]  # re-exported

# Suffixes of audio files; `open_audio` identifies the format from the bytes.
AUDIO_SUFFIXES = frozenset(
    {".wav", ".wave", ".bwf", ".w64", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff"}
    | {".aifc", ".au", ".snd", ".caf", ".sph", ".nist"}
    | (multimedia.SUFFIXES if multimedia.HAS_DECODER else frozenset())
)

SAMPLE_RATE = 16_000  # Hz, of packed corpora and by default
# Times full scale. Float files may exceed full scale, but not by 24 dB: such samples were never
# divided by the full scale of their integers.
MAX_AMPLITUDE = 16.0
LOUD = f"samples must be about in [-1, 1], at most {MAX_AMPLITUDE:g} times full scale"

_BLOCK_FRAMES = 2**17
_RUN_UP_SECONDS = 0.1  # decoded before a part, for the resampler's filter to settle


@dataclass(frozen=True)
class AudioInfo:
    """Format of a file; `num_samples` counts one channel at the file's own rate."""

    num_samples: int
    sample_rate: int
    num_channels: int

    def num_samples_at(self, sample_rate: int) -> int:
        """Length in samples after resampling to `sample_rate`, in Hz."""
        return -(-self.num_samples * sample_rate // self.sample_rate)


def inspect_audio(source: Path | EncodedAudio) -> AudioInfo:
    """Read a file's format and length, decoding it only if its length is not stated reliably.

    Raises:
        AudioError: As `open_audio`.
    """
    with open_audio(source) as file:
        return AudioInfo(file.frames, file.samplerate, file.channels)


def read_audio(
    source: Path | EncodedAudio, sample_rate: int, start: int = 0, num_samples: int | None = None
) -> Tensor:
    """Read a clip, or a part of it, as one channel at `sample_rate`.

    Only the requested part is decoded, and 0.1 s around it if it has to be resampled.

    Args:
        source: Audio file of an allowed codec, or its bytes; channels are averaged.
        sample_rate: Sample rate of the result in Hz; other rates are resampled with soxr HQ.
        start: First sample, counted at `sample_rate`.
        num_samples: Maximum number of samples; all to the end by default.

    Returns:
        Waveform, float32 `(S,)`; shorter than `num_samples` where the clip ends before.

    Raises:
        AudioError: If it cannot be opened (see `open_audio`), if it is damaged, and if the
            requested part has no sample, one that is not finite, or one far above full scale.
    """
    import torch

    waveform = np.concatenate(list(stream_audio(source, sample_rate, start, num_samples)))
    if len(waveform) == 0:
        rule = f"no samples from {start} on (counted at {sample_rate} Hz)"
        raise audio_error(source, "empty", rule, value=start)
    return torch.from_numpy(waveform)


def stream_audio(
    source: Path | EncodedAudio, sample_rate: int, start: int = 0, num_samples: int | None = None
) -> Iterator[npt.NDArray[np.float32]]:
    """Read as `read_audio`, but block by block: memory use does not grow with the length.

    Yields:
        Consecutive samples, float32 `(S,)`; some blocks may be empty.

    Raises:
        AudioError: As `read_audio`, except for a part without samples.
    """
    with open_audio(source) as file:
        rate = file.samplerate
        # Both sampling grids coincide every `period` frames of the file: a part that begins there
        # is resampled at the same instants as the whole file.
        period = rate // math.gcd(rate, sample_rate)
        run_up = 0 if rate == sample_rate else round(_RUN_UP_SECONDS * rate)
        begin = max(start * rate // sample_rate - run_up, 0) // period * period
        stop = None
        if num_samples is not None:
            stop = -(-(start + num_samples) * rate // sample_rate) + run_up
        skipped = start - begin * sample_rate // rate
        yield from _take(decode(source, file, sample_rate, begin, stop), skipped, num_samples)


def decode(
    source: Path | EncodedAudio,
    file: OpenAudio,
    sample_rate: int,
    start: int = 0,
    stop: int | None = None,
) -> Iterator[npt.NDArray[np.float32]]:
    """Decode an opened file block by block: memory use does not grow with the length.

    Args:
        source: Name of the file, for messages.
        file: File opened by `open_audio`.
        sample_rate: Sample rate of the result in Hz; other rates are resampled with soxr HQ.
        start: First frame, counted at the file's own rate.
        stop: Frame to stop before; the end by default.

    Yields:
        Consecutive samples, float32 `(S,)`, the channels averaged.

    Raises:
        AudioError: If decoding fails or ends before `stop`, or if a sample is not finite or more
            than `MAX_AMPLITUDE` times full scale.
    """
    resampler = None
    if file.samplerate != sample_rate:
        # Block by block it is bit-identical to soxr.resample on the whole.
        resampler = soxr.ResampleStream(file.samplerate, sample_rate, 1, "float32", "HQ")
    first = position = min(start, file.frames)
    is_last = False
    stop = file.frames if stop is None else min(stop, file.frames)
    if position:
        _call(source, file.seek, position)
    while not is_last:
        num_frames = min(_BLOCK_FRAMES, max(stop - position, 0))
        frames = _call(source, file.read, num_frames)
        is_last = len(frames) < num_frames or position + num_frames >= stop
        block = _mix_down(frames)
        # Before resampling, which would spread one bad sample over its neighbors.
        _check_samples(source, block, position, file.samplerate)
        position += len(frames)
        yield block if resampler is None else resampler.resample_chunk(block, last=is_last)
    # Ogg and MP3 decoders skip damage in the middle silently.
    if (missing := (stop - position) / file.samplerate) > TOLERATED_SECONDS:
        seconds = (stop - first) / file.samplerate
        rule = f"damaged: {missing:.2f} of {seconds:.2f} s of its sound do not decode"
        raise audio_error(source, "damaged", rule, value=missing)


def _check_samples(
    source: Path | EncodedAudio, block: npt.NDArray[np.float32], first: int, rate: int
) -> None:
    """Raise an AudioError if a sample is not finite or far above full scale."""
    is_sound = np.abs(block) <= MAX_AMPLITUDE  # false for NaN
    if is_sound.all():
        return
    place = int(np.argmin(is_sound))
    name, value = f"sample {first + place}", float(block[place])
    where = f"{name} (at {(first + place) / rate:.3f} s) is {value:g}"
    if not math.isfinite(value):
        rule = f"samples must be finite; {where}"
        raise audio_error(source, "not-finite", rule, key=name, value=value)
    raise audio_error(source, "too-large", f"{LOUD}; {where}", key="samples", value=value)


def resample(waveform: Tensor, from_rate: int, to_rate: int) -> Tensor:
    """Resample `(..., S)` with soxr HQ; on the CPU, returned on the waveform's device.

    Source: the soxr library. torchaudio's default kernel lets frequencies above the new Nyquist
    frequency alias.

    Raises:
        AudioError: If a rate is outside the limits of this module.
    """
    import torch

    for rate in (from_rate, to_rate):
        if rate not in SAMPLE_RATES:
            rule = f"waveform: sample rate must be {rate_limits()}; got {rate}"
            raise AudioError(rule, code="value", key="sample rate", value=rate)
    if from_rate == to_rate:
        return waveform
    rows = waveform.detach().to("cpu", torch.float32).reshape(-1, waveform.shape[-1])
    # soxr takes (samples, channels); all rows are resampled in one call.
    resampled = soxr.resample(rows.T.numpy(), from_rate, to_rate, quality="HQ").T
    shape = (*waveform.shape[:-1], resampled.shape[-1])
    return torch.from_numpy(np.ascontiguousarray(resampled)).reshape(shape).to(waveform.device)


def fit_length(waveform: Tensor, num_samples: int) -> Tensor:
    """Crop `(..., S)` from the start, or pad zeros on the right, to `num_samples`."""
    missing = num_samples - waveform.shape[-1]
    if missing <= 0:
        return waveform[..., :num_samples]
    import torch

    return torch.nn.functional.pad(waveform, (0, missing))


def pad_both_ends(waveform: Tensor, num_samples: int) -> Tensor:
    """Pad `(..., S)` with zeros at both ends to at least `num_samples`."""
    import torch

    missing = max(num_samples - waveform.shape[-1], 0)
    return torch.nn.functional.pad(waveform, (missing // 2, missing - missing // 2))


def _mix_down(frames: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Mean over the channels of `(frames, channels)`."""
    mono = frames[:, 0]
    if frames.shape[1] == 1:
        return mono
    # Channel by channel: numpy's mean over so short an axis takes 4 to 13 times as long, more than
    # the resampling.
    mono = mono.copy()
    with np.errstate(invalid="ignore", over="ignore"):  # checked after mixing
        for channel in range(1, frames.shape[1]):
            mono += frames[:, channel]
    mono /= np.float32(frames.shape[1])
    return mono


def _call(
    source: Path | EncodedAudio, function: Callable[..., Any], *values: Any, **options: Any
) -> Any:
    """Call a decoder and convert its errors to `AudioError`."""
    try:
        return function(*values, **options)
    except (soundfile.SoundFileError, RuntimeError, AudioError) as error:
        reason = str(error) or f"libsndfile's error {getattr(error, 'code', '?')}"
        raise audio_error(source, "unreadable", f"decoding failed: {reason}") from error


def _take(
    blocks: Iterator[npt.NDArray[np.float32]], skipped: int, num_samples: int | None
) -> Iterator[npt.NDArray[np.float32]]:
    """Drop the first `skipped` samples and yield at most `num_samples` of the rest."""
    position, stop = 0, math.inf if num_samples is None else skipped + num_samples
    for block in blocks:
        end = None if stop >= position + len(block) else int(max(stop - position, 0))
        yield block[max(skipped - position, 0) : end]
        position += len(block)
