"""Read, crop, resample, pad: a file as a mono waveform at one sample rate."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor

from byola_rq.errors import AudioError

AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff"})

MAX_CHANNELS = 8
MAX_SAMPLES = 2**36  # 49 days at 16 kHz; a header that states no length at all gives 2**63 - 1
SAMPLE_RATES = range(1_000, 768_001)  # Hz; beyond it a header is broken, not unusual


@dataclass(frozen=True)
class EncodedAudio:
    """A file's bytes without the file: a member of an archive, a cell of a table."""

    name: str  # for messages
    data: bytes

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class AudioInfo:
    """What a file's header says; `num_samples` counts one channel at the file's own rate."""

    num_samples: int
    sample_rate: int
    num_channels: int

    def num_samples_at(self, sample_rate: int) -> int:
        """The clip's length after resampling."""
        return -(-self.num_samples * sample_rate // self.sample_rate)


def inspect_audio(source: Path | EncodedAudio) -> AudioInfo:
    """Read a file's header.

    Raises:
        AudioError: If the file is missing, empty, not audio that libsndfile reads, or outside the
            limits above.
    """
    with _open(source) as file:
        return AudioInfo(file.frames, file.samplerate, file.channels)


def read_audio(
    source: Path | EncodedAudio, sample_rate: int, start: int = 0, num_samples: int | None = None
) -> Tensor:
    """Read a clip, or a part of it, as one channel at `sample_rate`.

    Where nothing has to be resampled, only the part asked for is decoded.

    Args:
        source: Any file that libsndfile reads, or its bytes; channels are averaged.
        sample_rate: In Hz; other rates are resampled with soxr HQ.
        start: First sample wanted, counted at `sample_rate`.
        num_samples: How many samples, at most; all to the end by default.

    Returns:
        Waveform, float32 `(S,)`; shorter than `num_samples` where the clip ends before.

    Raises:
        AudioError: As `inspect_audio`, and if the part asked for has no sample or a sample that
            is not finite.
    """
    with _open(source) as file:
        is_native = file.samplerate == sample_rate
        try:
            if is_native:
                file.seek(min(start, file.frames))
            frames = file.read(
                num_samples if is_native and num_samples is not None else -1,
                dtype="float32",
                always_2d=True,
            )
        except (soundfile.SoundFileError, RuntimeError) as error:
            raise AudioError(f"{source}: decoding failed: {error}") from error
        file_rate = file.samplerate
    waveform = frames.mean(axis=1, dtype=np.float32)
    # Before resampling, which would spread one bad sample over its neighbours.
    if not np.isfinite(waveform).all():
        where = int(np.flatnonzero(~np.isfinite(waveform))[0]) + (start if is_native else 0)
        raise AudioError(
            f"{source}: samples must be finite; sample {where} (at {where / file_rate:.3f} s) "
            f"is {waveform[where - (start if is_native else 0)]}"
        )
    if not is_native:
        end = None if num_samples is None else start + num_samples
        waveform = soxr.resample(waveform, file_rate, sample_rate, quality="HQ")[start:end]
    if len(waveform) == 0:
        raise AudioError(f"{source}: no samples from {start} on (counted at {sample_rate} Hz)")
    return torch.from_numpy(np.ascontiguousarray(waveform))


def resample(waveform: Tensor, from_rate: int, to_rate: int) -> Tensor:
    """Resample `(..., S)` with soxr HQ; on the CPU, returned on the waveform's device.

    Source: the soxr library. torchaudio's default kernel lets frequencies above the new Nyquist
    frequency alias.

    Raises:
        AudioError: If a rate is outside the limits of this module.
    """
    for rate in (from_rate, to_rate):
        if rate not in SAMPLE_RATES:
            raise AudioError(f"waveform: sample rate must be {_limits()}; got {rate}")
    if from_rate == to_rate:
        return waveform
    rows = waveform.detach().to("cpu", torch.float32).reshape(-1, waveform.shape[-1])
    # soxr wants (samples, channels); the rows are resampled together in one call.
    resampled = soxr.resample(rows.T.numpy(), from_rate, to_rate, quality="HQ").T
    shape = (*waveform.shape[:-1], resampled.shape[-1])
    return torch.from_numpy(np.ascontiguousarray(resampled)).reshape(shape).to(waveform.device)


def fit_length(waveform: Tensor, num_samples: int) -> Tensor:
    """Crop `(..., S)` from the start, or pad zeros on the right, to `num_samples`."""
    missing = num_samples - waveform.shape[-1]
    if missing <= 0:
        return waveform[..., :num_samples]
    return torch.nn.functional.pad(waveform, (0, missing))


def pad_both_ends(waveform: Tensor, num_samples: int) -> Tensor:
    """Pad `(..., S)` with zeros at both ends to at least `num_samples`."""
    missing = max(num_samples - waveform.shape[-1], 0)
    return torch.nn.functional.pad(waveform, (missing // 2, missing - missing // 2))


def _open(source: Path | EncodedAudio) -> soundfile.SoundFile:
    """Open a file whose header stands every check."""
    num_bytes = len(source.data) if isinstance(source, EncodedAudio) else _size_of(Path(source))
    if num_bytes == 0:
        raise AudioError(f"{source}: the file is empty (0 bytes)")
    try:
        file = soundfile.SoundFile(
            io.BytesIO(source.data) if isinstance(source, EncodedAudio) else source
        )
    except (soundfile.SoundFileError, RuntimeError) as error:
        reason = str(error).rsplit(": ", 1)[-1].rstrip(".")
        raise AudioError(f"{source}: not an audio file that can be read ({reason})") from error
    problem = None
    if file.samplerate not in SAMPLE_RATES:
        problem = f"sample rate must be {_limits()}; got {file.samplerate} Hz"
    elif file.channels > MAX_CHANNELS:
        problem = f"channels must be at most {MAX_CHANNELS}; got {file.channels}"
    elif file.frames > MAX_SAMPLES:
        problem = "length must be stated in the header; re-encode the file"
    elif file.frames <= 0:
        problem = "length must be at least one sample; got 0"
    if problem:
        file.close()
        raise AudioError(f"{source}: {problem}")
    return file


def _size_of(path: Path) -> int:
    if not path.is_file():
        raise AudioError(f"{path}: no such file")
    return path.stat().st_size


def _limits() -> str:
    return f"{SAMPLE_RATES.start} to {SAMPLE_RATES.stop - 1} Hz"
