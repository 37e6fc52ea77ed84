"""Read, crop, resample, pad: a file as a mono waveform at one sample rate."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from byola_rq.errors import AudioError, Code

# torch is imported where a tensor is made: the processes that only decode do without its 190 MB.
if TYPE_CHECKING:
    from torch import Tensor

AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff"})

SAMPLE_RATE = 16_000  # Hz, of packed corpora, and wherever nobody says otherwise

MAX_CHANNELS = 8
# FLAC has 36 bits for its length; libsndfile gives 2**63 - 1 where they say nothing.
MAX_SAMPLES = 2**36
SAMPLE_RATES = range(1_000, 768_001)  # Hz; beyond it a header is broken, not unusual

_BLOCK_FRAMES = 2**17


@dataclass(frozen=True)
class EncodedAudio:
    """A file's bytes without the file: a member of an archive, a cell of a table."""

    name: str  # for messages: ARCHIVE::MEMBER, or a path
    data: bytes

    @property
    def path(self) -> Path:
        """The archive or table, or what stands in the name's place."""
        return Path(self.name.partition("::")[0])

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


def audio_error(source: object, code: Code | None, rule: str, **facts: Any) -> AudioError:
    """An error that begins with a file's name, or with that of something within a file.

    Args:
        source: A path, or what has one beside its name: encoded audio, a clip.
        code: As of every error.
        rule: What follows the name.
        facts: `key` and `value`, as of every error.
    """
    path: Any = getattr(source, "path", source)
    return AudioError(f"{source}: {rule}", code=code, path=path, **facts)


class _SequentialFile(soundfile.SoundFile):  # type: ignore[misc]
    """A file that is read from one place on.

    soundfile seeks before and after each read where it may. Block by block that costs time, and
    at the end of a FLAC file that does not say its length, as encoders write it to a pipe, it
    fails.
    """

    def seekable(self) -> bool:
        return False


def inspect_audio(source: Path | EncodedAudio) -> AudioInfo:
    """Read a file's header.

    Raises:
        AudioError: If the file is missing, empty, not audio that libsndfile reads, outside the
            limits above, or if it states no length (a FLAC that was written to a pipe).
    """
    with open_audio(source) as file:
        if file.frames > MAX_SAMPLES:
            rule = "length must be stated in the header; re-encode the file"
            raise audio_error(source, "unsupported", rule, key="length")
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
        AudioError: If it cannot be opened (see `inspect_audio`), and if the part asked for has no
            sample or a sample that is not finite.
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
    """Read block by block what `read_audio` reads at once: in little memory, whatever its length.

    Yields:
        Consecutive samples, float32 `(S,)`; some blocks may be empty.

    Raises:
        AudioError: As `read_audio`, but for a part without samples.
    """
    stop = None if num_samples is None else start + num_samples
    with open_audio(source) as file:
        if file.samplerate == sample_rate:
            yield from decode(source, file, sample_rate, start, stop)
            return
        position = 0
        for block in _take(decode(source, file, sample_rate), stop):
            yield block[max(start - position, 0) :]
            position += len(block)


def decode(
    source: Path | EncodedAudio,
    file: soundfile.SoundFile,
    sample_rate: int,
    start: int = 0,
    stop: int | None = None,
) -> Iterator[npt.NDArray[np.float32]]:
    """Decode an opened file block by block: in little memory, whatever its length.

    Args:
        source: What messages name.
        file: What `open_audio` gave.
        sample_rate: In Hz; other rates are resampled with soxr HQ.
        start: First frame wanted, counted at the file's own rate.
        stop: Frame to stop before; the end by default.

    Yields:
        Consecutive samples, float32 `(S,)`, the channels averaged.

    Raises:
        AudioError: If decoding fails, or a sample is not finite.
    """
    resampler = None
    if file.samplerate != sample_rate:
        # Block by block it gives the very bits of soxr.resample on the whole.
        resampler = soxr.ResampleStream(file.samplerate, sample_rate, 1, "float32", "HQ")
    position, is_last = min(start, file.frames), False
    stop = file.frames if stop is None else min(stop, file.frames)
    if position:
        _call(source, file.seek, position)
    while not is_last:
        num_frames = min(_BLOCK_FRAMES, max(stop - position, 0))
        frames = _call(source, file.read, num_frames, dtype="float32", always_2d=True)
        is_last = len(frames) < num_frames or position + num_frames >= stop
        block = _mix_down(frames)
        # Before resampling, which would spread one bad sample over its neighbours.
        if not (is_finite := np.isfinite(block)).all():
            place = int(np.argmin(is_finite))
            name = f"sample {position + place}"
            rule = (
                f"samples must be finite; {name} (at "
                f"{(position + place) / file.samplerate:.3f} s) is {block[place]}"
            )
            raise audio_error(source, "not-finite", rule, key=name, value=float(block[place]))
        position += len(frames)
        yield block if resampler is None else resampler.resample_chunk(block, last=is_last)


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
            rule = f"waveform: sample rate must be {_limits()}; got {rate}"
            raise AudioError(rule, code="value", key="sample rate", value=rate)
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
    import torch

    return torch.nn.functional.pad(waveform, (0, missing))


def pad_both_ends(waveform: Tensor, num_samples: int) -> Tensor:
    """Pad `(..., S)` with zeros at both ends to at least `num_samples`."""
    import torch

    missing = max(num_samples - waveform.shape[-1], 0)
    return torch.nn.functional.pad(waveform, (missing // 2, missing - missing // 2))


def open_audio(source: Path | EncodedAudio) -> soundfile.SoundFile:
    """Open a file whose header stands every check.

    Raises:
        AudioError: As `inspect_audio`, but for the length.
    """
    num_bytes = len(source.data) if isinstance(source, EncodedAudio) else _size_of(Path(source))
    if num_bytes == 0:
        raise audio_error(source, "empty", "the file is empty (0 bytes)")
    try:
        file = _SequentialFile(
            io.BytesIO(source.data) if isinstance(source, EncodedAudio) else source
        )
    except (soundfile.SoundFileError, RuntimeError) as error:
        reason = str(error).rsplit(": ", 1)[-1].rstrip(".")
        rule = f"not an audio file that can be read ({reason})"
        raise audio_error(source, "damaged", rule) from error
    problem: tuple[Code, str, str, int] | None = None
    if file.samplerate not in SAMPLE_RATES:
        problem = "value", "sample rate", f"{_limits()}; got {file.samplerate} Hz", file.samplerate
    elif file.channels > MAX_CHANNELS:
        limit = f"at most {MAX_CHANNELS}; got {file.channels}"
        problem = "value", "channels", limit, file.channels
    elif file.frames <= 0:
        problem = "empty", "length", "at least one sample; got 0", 0
    if problem:
        file.close()
        code, key, limit, value = problem
        raise audio_error(source, code, f"{key} must be {limit}", key=key, value=value)
    return file


def _mix_down(frames: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Mean over the channels of `(frames, channels)`."""
    mono = frames[:, 0]
    if frames.shape[1] == 1:
        return mono
    # Column by column: numpy's mean over so short an axis takes 4 to 13 times as long, more than
    # the resampling.
    mono = mono.copy()
    for channel in range(1, frames.shape[1]):
        mono += frames[:, channel]
    mono /= np.float32(frames.shape[1])
    return mono


def _call(
    source: Path | EncodedAudio, function: Callable[..., Any], *values: Any, **options: Any
) -> Any:
    """Call libsndfile, whose errors become ours."""
    try:
        return function(*values, **options)
    except (soundfile.SoundFileError, RuntimeError) as error:
        reason = str(error) or f"libsndfile's error {getattr(error, 'code', '?')}"
        raise audio_error(source, "unreadable", f"decoding failed: {reason}") from error


def _take(
    blocks: Iterator[npt.NDArray[np.float32]], num_samples: int | None
) -> Iterator[npt.NDArray[np.float32]]:
    """The blocks of the first samples; what follows them is not decoded."""
    room = num_samples
    for block in blocks:
        yield block[:room]
        if room is not None and (room := room - len(block)) <= 0:
            return


def _size_of(path: Path) -> int:
    if not path.is_file():
        raise audio_error(path, "missing", "no such file")
    return path.stat().st_size


def _limits() -> str:
    return f"{SAMPLE_RATES.start} to {SAMPLE_RATES.stop - 1} Hz"
