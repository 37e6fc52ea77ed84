"""Clips of audio files and tar members, decoded when a segment is asked for."""

import hashlib
import os
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from torch import Tensor

from byola_rq.audio import AudioInfo, inspect_audio, pad_both_ends, read_audio
from byola_rq.clip_source import ClipSource
from byola_rq.clips import Clips
from byola_rq.errors import AudioError
from byola_rq.order import IntArray
from byola_rq.prefetch import map_ahead
from byola_rq.sources import read_encoded


class DecodedClips(Clips):
    """Clips of audio files and tar members, decoded and resampled for every segment.

    Args:
        sources: Where they are.
        first_samples: Where each clip begins in its audio, counted at `sample_rate`.
        num_samples: Lengths, counted at `sample_rate`.
        sample_rate: In Hz.
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
        return hashlib.sha256(f"{self.sample_rate}\n{text}".encode()).hexdigest()

    def fill(self, segments: npt.NDArray[Any], indices: IntArray, starts: IntArray) -> None:
        """As `Clips.fill`."""
        length = segments.shape[1]
        for segment, index, start in zip(segments, indices, starts, strict=True):
            waveform = self.read(int(index), int(start), length)
            segment[:] = pad_both_ends(waveform, length).numpy()

    def read(self, index: int, start: int = 0, num_samples: int | None = None) -> Tensor:
        """Decode a clip, or the part of at most `num_samples` from `start` on, float32 `(S,)`.

        Raises:
            AudioError: If it cannot be decoded.
        """
        room = int(self.num_samples[index]) - start
        return read_audio(
            read_encoded(self.sources[index]),
            self.sample_rate,
            int(self.first_samples[index]) + start,
            room if num_samples is None else min(num_samples, room),
        )


def measure_clips(
    sources: Sequence[ClipSource], sample_rate: int, on_clip: Callable[[], object] = lambda: None
) -> DecodedClips:
    """Read every clip's header, in threads; `on_clip` is called once for each.

    Raises:
        AudioError: If a clip cannot be read; names the first such clip and counts the others.
    """

    def measure(source: ClipSource) -> tuple[int, int] | AudioError:
        try:
            return _place(source, inspect_audio(read_encoded(source)), sample_rate)
        except AudioError as error:
            return error

    places: list[tuple[int, int]] = []
    errors: list[AudioError] = []
    for result in map_ahead(measure, sources, min(32, 4 * (os.cpu_count() or 1))):
        on_clip()
        if isinstance(result, AudioError):
            errors.append(result)
        else:
            places.append(result)
    if errors:
        others = f" (and {len(errors) - 1} more clips like it)" if len(errors) > 1 else ""
        raise AudioError(f"{errors[0]}{others}; remove it from data.source")
    first_samples, num_samples = np.array(places, np.int64).reshape(-1, 2).T
    return DecodedClips(sources, first_samples, num_samples, sample_rate)


def _place(source: ClipSource, info: AudioInfo, sample_rate: int) -> tuple[int, int]:
    """First sample and length of a clip in its audio, counted at `sample_rate`."""
    seconds = info.num_samples / info.sample_rate
    start, stop = source.part_of(seconds)
    num_samples = info.num_samples_at(sample_rate)
    first = round(start * sample_rate)
    length = (num_samples if stop >= seconds else round(stop * sample_rate)) - first
    if length < 1:
        raise AudioError(f"{source}: a clip must have at least one sample; got none")
    return first, length


def _identity(source: ClipSource, first: int, length: int) -> str:
    """What stays the same when the clip's file is moved."""
    name = source.name if source.offset >= 0 else source.path.name
    part = f"\t{first}" if first else ""
    return f"{name}\t{length}{part}"
