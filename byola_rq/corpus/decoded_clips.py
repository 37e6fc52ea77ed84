"""Clips of audio files and tar members, decoded on demand."""

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from torch import Tensor

from byola_rq.audio.decoder import TOLERATED_SECONDS
from byola_rq.audio.encoded import reason_of, unreadable
from byola_rq.audio.io import AudioInfo, audio_error, inspect_audio, pad_both_ends, read_audio
from byola_rq.corpus.clips import Clips
from byola_rq.corpus.order import IntArray
from byola_rq.errors import AudioError
from byola_rq.runtime.prefetch import map_ahead
from byola_rq.sources.clip_source import ClipSource
from byola_rq.sources.encoded import read_encoded


class UnreadableClipError(AudioError):
    """A clip whose segment cannot be decoded.

    Args:
        message: Message that begins with the clip's path.
        row: Index of the clip in the requested batch; the segments before it are filled.
        reason: Message without the path.
        facts: Keyword arguments of `ByolaRQError`.
    """

    def __init__(self, message: str, row: int, reason: str, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.row = row
        self.reason = reason


class DecodedClips(Clips):
    """Clips of audio files and tar members, decoded and resampled for every segment.

    Args:
        sources: Locations of the clips.
        first_samples: First sample of each clip in its audio, counted at `sample_rate`.
        num_samples: Length of each clip in samples at `sample_rate`.
        sample_rate: Sample rate in Hz.
    """

    dtype: ClassVar = np.dtype(np.float32)

    def __init__(
        self,
        sources: Sequence[ClipSource],
        first_samples: IntArray,
        num_samples: IntArray,
        sample_rate: int,
    ) -> None:
        self.sources = sources
        self.first_samples = first_samples
        self.num_samples = num_samples
        self.sample_rate = sample_rate

    @cached_property
    def digest(self) -> str:
        """SHA-256 of names and lengths."""
        rows = zip(self.sources, self.first_samples, self.num_samples, strict=True)
        text = "\n".join(_identity(source, first, length) for source, first, length in rows)
        content = f"{self.sample_rate}\n{text}".encode(errors="surrogateescape")  # names are bytes
        return hashlib.sha256(content).hexdigest()

    def names(self, indices: IntArray) -> list[str]:
        """File, or tar and member, of each clip."""
        return [str(self.sources[index]) for index in indices]

    def fill(self, segments: npt.NDArray[Any], indices: IntArray, starts: IntArray) -> None:
        """Write one segment of each clip into `segments`, as `Clips.fill`.

        Raises:
            UnreadableClipError: At the first clip that cannot be decoded or is shorter than before.
        """
        length = segments.shape[1]
        for row, (index, start) in enumerate(zip(indices.tolist(), starts.tolist(), strict=True)):
            try:
                waveform = self.read(index, start, length)
                self._check_complete(index, start, len(waveform), length)
            except AudioError as error:
                source = self.sources[index]
                reason = reason_of(error, source, source.file)
                raise UnreadableClipError(str(error), row, reason, **error.facts) from error
            segments[row] = pad_both_ends(waveform, length).numpy()

    def read(self, index: int, start: int = 0, num_samples: int | None = None) -> Tensor:
        """Decode a clip, or the part of at most `num_samples` from `start` on, float32 `(S,)`.

        Raises:
            AudioError: If it cannot be decoded.
        """
        room = int(self.num_samples[index]) - start
        with _file_system_errors_named(self.sources[index]):
            return read_audio(
                read_encoded(self.sources[index]),
                self.sample_rate,
                int(self.first_samples[index]) + start,
                room if num_samples is None else min(num_samples, room),
            )

    def _check_complete(self, index: int, start: int, found: int, length: int) -> None:
        """Raise if samples are missing: cut WAV, Ogg and MP3 files decode silently to their end."""
        expected = min(int(self.num_samples[index]) - start, length)
        if expected - found > TOLERATED_SECONDS * self.sample_rate:
            rule = (
                f"cut short: the {expected} samples from {start} on must "
                f"decode (counted at {self.sample_rate} Hz); got {found}"
            )
            raise audio_error(self.sources[index], "cut", rule, value=found)


def measure_clips(
    sources: Sequence[ClipSource], sample_rate: int, on_clip: Callable[[], object] = lambda: None
) -> DecodedClips:
    """Read every clip's header in threads, calling `on_clip` once for each.

    Raises:
        AudioError: If a clip cannot be read; names the first such clip and counts the others.
    """
    clips, unreadable = measure_each(sources, sample_rate, on_clip)
    if unreadable:
        error = unreadable[0][1]
        others = f" (and {len(unreadable) - 1} more clips like it)" if len(unreadable) > 1 else ""
        raise AudioError(f"{error}{others}", **error.facts)
    return clips


def measure_readable_clips(
    sources: Sequence[ClipSource], sample_rate: int, on_clip: Callable[[], object] = lambda: None
) -> tuple[DecodedClips, list[tuple[ClipSource, str]]]:
    """Read every clip's header in threads, leaving out a few clips that cannot be read.

    Returns:
        The readable clips, and (source, reason) of each other one.

    Raises:
        AudioError: If no clip can be read, or if more than one and more than 1 % cannot; names the
            first of them and gives their number.
    """
    clips, unreadable = measure_each(sources, sample_rate, on_clip)
    if unreadable and (is_too_many(len(unreadable), len(sources)) or not len(clips)):
        raise AudioError(
            f"{unreadable[0][1]}; {len(unreadable)} of {len(sources)} clips cannot be read, and at "
            "most 1 % may be left out. Remove them from data.source, or pack it first: "
            "`byola-rq prepare` lists them all and continues without them",
            code="too-many",
            path=unreadable[0][1].path,
            value=len(unreadable),
        )
    return clips, [(source, reason_of(error, source, source.file)) for source, error in unreadable]


def is_too_many(num_broken: int, num_clips: int) -> bool:
    """Return whether training must stop: more than one clip and more than 1 % are broken."""
    return 100 * num_broken > max(num_clips, 100)


def measure_each(
    sources: Sequence[ClipSource], sample_rate: int, on_clip: Callable[[], object] = lambda: None
) -> tuple[DecodedClips, list[tuple[ClipSource, AudioError]]]:
    """Read every clip's header; return the readable clips, and the errors of the others."""

    def measure(source: ClipSource) -> tuple[int, int] | AudioError:
        try:
            with _file_system_errors_named(source):
                return _place(source, inspect_audio(read_encoded(source)), sample_rate)
        except AudioError as error:
            return error

    readable: list[ClipSource] = []
    places: list[tuple[int, int]] = []
    unreadable: list[tuple[ClipSource, AudioError]] = []
    num_threads = min(32, 4 * (os.cpu_count() or 1))
    with contextlib.closing(map_ahead(measure, sources, num_threads)) as results:
        for source, result in zip(sources, results, strict=True):
            on_clip()
            if isinstance(result, AudioError):
                unreadable.append((source, result))
            else:
                readable.append(source)
                places.append(result)
    first_samples, num_samples = np.array(places, np.int64).reshape(-1, 2).T
    return DecodedClips(readable, first_samples, num_samples, sample_rate), unreadable


@contextlib.contextmanager
def _file_system_errors_named(source: ClipSource) -> Iterator[None]:
    """Convert errors of the file system to `AudioError`."""
    try:
        yield
    except OSError as error:
        raise unreadable(source, error) from error


def _place(source: ClipSource, info: AudioInfo, sample_rate: int) -> tuple[int, int]:
    """Compute the first sample and the length of a clip in its audio at `sample_rate`."""
    seconds = info.num_samples / info.sample_rate
    start, stop = source.part_of(seconds)
    num_samples = info.num_samples_at(sample_rate)
    first = round(start * sample_rate)
    length = (num_samples if stop >= seconds else round(stop * sample_rate)) - first
    if length < 1:
        raise audio_error(source, "empty", "a clip must have at least one sample; got none")
    return first, length


def _identity(source: ClipSource, first: int, length: int) -> str:
    """Format what identifies a clip in any folder: name, length and position."""
    name = source.name if source.offset >= 0 else source.path.name
    part = f"\t{first}" if first else ""
    return f"{name}\t{length}{part}"
