"""Access to clips' encoded audio: their files, or their bytes in an archive."""

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
    """Return a clip's file, or read its bytes from the tar or Parquet file.

    A Parquet row requires reading its row group up to it; use `iterate_encoded` for many rows.

    Raises:
        AudioError: If the bytes cannot be read from the tar or Parquet file. A missing audio file
            is noticed when it is opened.
    """
    (encoded,) = iterate_encoded([clip])
    if isinstance(encoded, AudioError):
        raise encoded
    return encoded


def iterate_encoded(clips: Sequence[ClipSource]) -> Iterator[Path | EncodedAudio | AudioError]:
    """Iterate over clips' files or bytes, one clip in memory at a time (Parquet: a page).

    In the order of a listing, tars and Parquet files are read once from begin to end. To split a
    listing among workers, split between files: reading from the middle of a row group requires
    reading the rows before.

    Yields:
        One item per clip, in order; an error in place of what cannot be read.
    """
    for (file, _, _), run in itertools.groupby(
        clips, lambda clip: (clip.file, clip.row >= 0, clip.offset >= 0)
    ):
        group = list(run)
        if group[0].row >= 0:
            for ascending in _ascending_runs(group):
                yield from read_rows(ascending)
        elif group[0].offset >= 0:
            yield from _read_members(file, group)
        else:
            yield from (clip.path for clip in group)


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
    """Split where a row precedes its predecessor: a stream cannot go back."""
    run: list[ClipSource] = []
    for clip in clips:
        if run and clip.row < run[-1].row:
            yield run
            run = []
        run.append(clip)
    if run:
        yield run
