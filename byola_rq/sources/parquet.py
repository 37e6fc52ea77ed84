"""Parquet files of encoded audio: their rows as clips, and the rows' bytes in bounded memory.

Parquet is read in a confined process (`parquet_tables`): a malicious file of a few hundred bytes
can take gigabytes and hours.
"""

import json
import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from typing import Any

from byola_rq.audio.io import EncodedAudio, audio_error
from byola_rq.errors import AudioError, CorpusError
from byola_rq.runtime.confined import ConfinedError, stream
from byola_rq.runtime.sandbox import Limits
from byola_rq.sources.clip_source import (
    MAX_ENCODED_BYTES,
    ClipSource,
    Listing,
    clean_name,
    joined_labels,
)
from byola_rq.text.shown import printable

_LIMITS = Limits()  # for each list of rows, and for each row
# Bytes of names and labels per byte of the file; real files compress less.
_LISTED_PER_BYTE = 256
_LISTED_ALWAYS = 1 << 20


def describe_table(path: str) -> tuple[str | None, list[str]]:
    """Return the name of the column that holds encoded audio, or None, and all columns' names.

    A column of audio is a struct with binary `bytes`; of several, the one named `audio`.

    Raises:
        CorpusError: If the file does not exist or is not Parquet, or if several columns fit and
            none is named `audio`.
    """
    ((column, names),) = _listed(path, "describe")
    return column, names


def list_table(path: str, stem: str, listing: Listing) -> Iterator[ClipSource]:
    """List the clips of a Parquet file of encoded audio, reading only names and labels.

    A row's name is the struct's `path`. The clip's id contains the name, or the row's number if it
    has none, or both if an earlier row has the same name.

    Args:
        path: Path of the Parquet file.
        stem: Prefix of the clips' ids.
        listing: Receives damage.

    Yields:
        Clips in the order of the rows, including rows without bytes, which only reading reveals.
    """
    row = 0
    seen: set[str] = set()
    try:
        for found, labels in _listed(path, "list_names"):
            name = printable(found)
            clean = clean_name(name)
            clip_id = f"{stem}/{clean or row}"
            if clean and clean in seen:
                clip_id += f"#{row}"
            seen.add(clean)
            yield ClipSource(clip_id, file=path, row=row, name=name, labels=joined_labels(labels))
            row += 1
    except CorpusError as error:
        listing.damaged.append((printable(path), str(error)))
    else:
        if not row:
            listing.damaged.append((printable(path), "no row in this table"))


def list_cells(path: str, names: Sequence[str]) -> Iterator[list[Any]]:
    """Read rows of a table: the cells of the named columns, None for an empty name.

    Raises:
        CorpusError: If it cannot be read, or its rows are far larger than the file.
    """
    return _listed(path, "list_cells", names)


def read_rows(clips: Sequence[ClipSource]) -> Iterator[EncodedAudio | AudioError]:
    """Stream the encoded audio of rows of one Parquet file.

    A row group is read from its start up to its last requested row.

    Args:
        clips: Clips of one file, rows ascending.

    Yields:
        One item per clip, in order; an error if the row has no bytes or cannot be read.
    """
    rows = [clip.row for clip in clips]
    num_done = 0
    try:
        with closing(
            _stream("read_cells", clips[0].file, rows, most=MAX_ENCODED_BYTES)
        ) as messages:
            for fault, data, clip in zip(messages, messages, clips, strict=False):
                num_done += 1
                if fault:
                    code, reason, value = json.loads(fault)
                    yield audio_error(clip, code, reason, value=value)
                else:
                    yield EncodedAudio(str(clip), data)
    except ConfinedError as error:
        for clip in clips[num_done:]:
            yield audio_error(clip, error.code, str(error))


def _listed(path: str, function: str, *arguments: Any) -> Iterator[Any]:
    """Iterate over items of the process's JSON lists, limited in proportion to the file's size."""
    try:
        room = _LISTED_ALWAYS + _LISTED_PER_BYTE * os.path.getsize(path)
        with closing(_stream(function, path, *arguments, most=room)) as messages:
            for message in messages:
                if (room := room - len(message)) < 0:
                    raise CorpusError("its rows are far larger than the file", code="too-large")
                yield from json.loads(message)
    except OSError as error:
        rule = f"not a Parquet file that can be read ({error.strerror})"
        raise CorpusError(rule, code="unreadable") from error
    except ConfinedError as error:
        raise CorpusError(str(error), **error.facts) from error


def _stream(function: str, path: str, *arguments: Any, most: int) -> Generator[bytes, None, None]:
    path = os.path.abspath(path)  # the process may have been started in another folder
    module = "byola_rq.sources.parquet_tables"
    return stream(module, function, path, *arguments, limits=_LIMITS, most=most)
