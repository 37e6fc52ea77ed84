"""Clips -> their files, or their encoded bytes where they have none of their own."""

import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from byola_rq.audio.encoded import EncodedAudio, unreadable
from byola_rq.errors import AudioError
from byola_rq.sources.clip_source import ClipSource
from byola_rq.sources.parquet import read_rows
from byola_rq.sources.tar import read_member


def read_encoded(clip: ClipSource) -> Path | EncodedAudio:
    """A clip's file, or its bytes in the tar or Parquet file.

    A Parquet row costs the reading of its row group up to it; many rows are `iterate_encoded`'s.

    Raises:
        AudioError: If the tar or Parquet file does not give the bytes. Whether an audio file is
            there is seen when it is opened.
    """
    (encoded,) = iterate_encoded([clip])
    if isinstance(encoded, AudioError):
        raise encoded
    return encoded


def iterate_encoded(clips: Sequence[ClipSource]) -> Iterator[Path | EncodedAudio | AudioError]:
    """The same for many clips, one at a time in memory (of Parquet: a page, see `read_rows`).

    In the order of a listing, tars and Parquet files are read once from begin to end. Parts of a
    listing read apart from each other are best cut between files: each part's first row of a row
    group costs the reading of the rows before it.

    Yields:
        One for each clip, in order; an error instead of what cannot be read.
    """
    for (file, _, _), run in itertools.groupby(clips, _archive):
        group = list(run)
        if group[0].row >= 0:
            for ascending in _ascending_runs(group):
                yield from read_rows(ascending)
        elif group[0].offset >= 0:
            yield from _read_members(file, group)
        else:
            yield from (clip.path for clip in group)


def _archive(clip: ClipSource) -> tuple[str, bool, bool]:
    return clip.file, clip.row >= 0, clip.offset >= 0


def _read_members(file: str, clips: Sequence[ClipSource]) -> Iterator[EncodedAudio | AudioError]:
    try:
        descriptor = os.open(file, os.O_RDONLY)
    except OSError as error:
        yield from (unreadable(clip, error) for clip in clips)
        return
    try:
        for clip in clips:
            yield read_member(descriptor, clip)
    finally:
        os.close(descriptor)


def _ascending_runs(clips: Sequence[ClipSource]) -> Iterator[list[ClipSource]]:
    """Cut where a row stands before its predecessor: a stream does not go back."""
    run: list[ClipSource] = []
    for clip in clips:
        if run and clip.row < run[-1].row:
            yield run
            run = []
        run.append(clip)
    if run:
        yield run
