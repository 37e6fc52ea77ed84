"""Decoding of clips to int16 samples at 16 kHz, in worker processes."""

import contextlib
import functools
import itertools
import struct
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from byola_rq.audio.decoder import OpenAudio
from byola_rq.audio.encoded import EncodedAudio, reason_of
from byola_rq.audio.io import SAMPLE_RATE, decode
from byola_rq.audio.opening import open_audio
from byola_rq.errors import AudioError
from byola_rq.runtime.sandbox import Failure, Limits
from byola_rq.runtime.workers import map_in_processes
from byola_rq.sources.clip_source import ClipSource
from byola_rq.sources.encoded import iterate_encoded, read_encoded

_RATE, _SECONDS = struct.Struct("<q"), struct.Struct("<d")  # in workers' answers


@dataclass(frozen=True)
class ClipRules:
    """Allowed lengths of a clip, in seconds."""

    min_seconds: float = 0.0
    max_seconds: float = 3600.0


@dataclass(frozen=True)
class ClipJob:
    """Clip to decode; `encoded` is its bytes if the caller has read them, or the reading error."""

    clip: ClipSource
    encoded: EncodedAudio | AudioError | None = None


@dataclass(frozen=True)
class DecodedClip:
    """Samples, int16 `(S,)` at 16 kHz, and their original sample rate in Hz."""

    samples: npt.NDArray[np.int16]
    original_rate: int

    def to_bytes(self) -> bytes:
        """Serialize for the answer of a worker."""
        return _RATE.pack(self.original_rate) + self.samples.tobytes()

    @classmethod
    def from_bytes(cls, answer: bytes) -> "DecodedClip":
        """Deserialize the answer of a worker."""
        samples = np.frombuffer(answer, "<i2", offset=_RATE.size)
        return cls(samples, *_RATE.unpack_from(answer))


def jobs_of(clips: Sequence[ClipSource]) -> Iterator[ClipJob]:
    """Make jobs for the workers, which read files and tars themselves; tables are read here."""
    for is_in_table, group in itertools.groupby(clips, lambda clip: clip.row >= 0):
        if not is_in_table:
            yield from map(ClipJob, group)
            continue
        rows = list(group)
        for clip, encoded in zip(rows, iterate_encoded(rows), strict=True):
            assert not isinstance(encoded, Path)
            yield ClipJob(clip, encoded)


def decode_clips(
    jobs: Iterable[ClipJob], rules: ClipRules, *, num_workers: int, limits: Limits
) -> Generator[DecodedClip | Failure, None, None]:
    """Decode clips in worker processes; one result for each, in order (see `map_in_processes`)."""
    function = functools.partial(_decode_to_bytes, rules=rules)
    answers = map_in_processes(function, jobs, num_workers=num_workers, limits=limits)
    with contextlib.closing(answers):
        for each in answers:
            yield each if isinstance(each, Failure) else DecodedClip.from_bytes(each)


def measure_lengths(
    jobs: Iterable[ClipJob], rules: ClipRules, *, num_workers: int, limits: Limits
) -> list[float]:
    """Read the lengths of clips from their headers, in seconds; 0 for clips that are rejected."""
    function = functools.partial(_measure_length, rules=rules)
    answers = map_in_processes(function, jobs, num_workers=num_workers, limits=limits)
    return [0.0 if isinstance(each, Failure) else _SECONDS.unpack(each)[0] for each in answers]


def decode_clip(job: ClipJob, rules: ClipRules) -> DecodedClip:
    """Decode, mix down and resample one clip in little more memory than its samples take.

    Returns:
        Samples `round(32768 x)`, clipped; a 16-bit mono file at 16 kHz keeps its samples.

    Raises:
        AudioError: If the clip cannot be read, its codec is not allowed, it is cut short or
            damaged, or its length breaks the rules. The message is only the reason.
    """
    with _open_clip(job) as (encoded, file):
        start, stop = _part(job.clip, file, rules)
        blocks = [_to_int16(block) for block in decode(encoded, file, SAMPLE_RATE, start, stop)]
        samples = np.concatenate(blocks)
        if len(samples) == 0:
            message = "length must be at least one sample at 16 kHz; got 0"
            raise AudioError(message, code="empty", key="length", value=0)
        return DecodedClip(samples, file.samplerate)


def _decode_to_bytes(job: ClipJob, rules: ClipRules) -> bytes:
    return decode_clip(job, rules).to_bytes()


def _measure_length(job: ClipJob, rules: ClipRules) -> bytes:
    """Read a clip's length in seconds.

    Raises:
        AudioError: If the file cannot be read, or the length breaks the rules.
    """
    with _open_clip(job) as (_, file):
        start, stop = _part(job.clip, file, rules)
        return _SECONDS.pack((stop - start) / file.samplerate)


@contextlib.contextmanager
def _open_clip(job: ClipJob) -> Iterator[tuple[Path | EncodedAudio, OpenAudio]]:
    """Open a clip's audio; errors omit the clip's name, which is reported separately."""
    encoded: Path | EncodedAudio | str = str(job.clip)
    try:
        if isinstance(job.encoded, AudioError):
            raise job.encoded
        encoded = job.encoded or read_encoded(job.clip)
        with open_audio(encoded) as file:
            yield encoded, file
    except AudioError as error:
        reason = reason_of(error, encoded, job.clip)
        raise AudioError(reason, **{**error.facts, "path": None}) from error


def _part(clip: ClipSource, file: OpenAudio, rules: ClipRules) -> tuple[int, int]:
    """Return the clip's first frame and the one after its last."""
    rate, num_frames = file.samplerate, file.frames
    start_seconds, stop_seconds = clip.part_of(num_frames / rate)
    start, stop = round(start_seconds * rate), min(round(stop_seconds * rate), num_frames)
    seconds = (stop - start) / rate
    if seconds > rules.max_seconds:
        message = f"length must be at most {rules.max_seconds:g} s; got {seconds:.2f} s"
        raise AudioError(message, code="too-large", key="length", value=seconds)
    if seconds < rules.min_seconds:
        message = f"length must be at least {rules.min_seconds:g} s; got {seconds:.3f} s"
        raise AudioError(message, code="too-short", key="length", value=seconds)
    return start, stop


def _to_int16(block: npt.NDArray[np.float32]) -> npt.NDArray[np.int16]:
    scaled = np.rint(block * np.float32(32768))
    samples: npt.NDArray[np.int16] = np.clip(scaled, -32768, 32767, out=scaled).astype("<i2")
    return samples
