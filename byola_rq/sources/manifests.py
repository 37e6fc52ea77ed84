"""Manifests: tables (csv, tsv, parquet) and fairseq's tsv that name one audio file per row."""

import csv
import math
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, NamedTuple

from byola_rq.errors import CorpusError
from byola_rq.sources.clip_source import (
    LABEL_COLUMNS,
    ClipSource,
    Listing,
    joined_labels,
    part_suffix,
)
from byola_rq.sources.folders import PARQUET_SUFFIX, FileIndex
from byola_rq.sources.parquet import describe_table, list_cells
from byola_rq.text.cells import csv_lines, csv_table
from byola_rq.text.shown import printable

PATH_COLUMNS = ("path", "file_name")  # the first that a manifest has is used
START_COLUMNS = ("start_seconds", "start")
END_COLUMNS = ("end_seconds", "end")
ID_COLUMN = "clip_id"


class _Row(NamedTuple):
    """Row of a manifest; `number` is the line in a text file or the index of a Parquet row."""

    number: int
    path: str
    labels: str
    start: Any
    end: Any
    clip_id: str


def list_manifest(manifest: str, listing: Listing) -> Iterator[ClipSource]:
    """List the clips of a manifest, in its order.

    Columns: `path` or `file_name`, absolute or relative to the manifest's folder; optionally
    `labels` or `label`, `start` and `end` (or `start_seconds`, `end_seconds`) of the clip within
    the file in seconds, and `clip_id`. In fairseq's form the first line is the folder, every other
    line a path in it and the length, which is ignored.

    Args:
        manifest: Path of a .csv, .tsv or .parquet file; the header decides what separates cells.
        listing: Receives files that do not exist (`missing`) and rows that break a rule
            (`damaged`).

    Yields:
        One clip for each row whose file exists; the files are not opened.

    Raises:
        CorpusError: If it is not a manifest, or none of its files exists.
    """
    root = _fairseq_root(manifest)
    folder = os.path.dirname(manifest) if root is None else root
    index = FileIndex(listing)
    id_folder = _id_folder(_read_rows(manifest, root), os.path.abspath(folder))
    num_rows = num_there = 0
    missing = example = ""
    for row in _read_rows(manifest, root):
        num_rows += 1
        path = index.find_file(os.path.join(folder, row.path)) if row.path else None
        if path is None:
            missing = printable(row.path)
            example = f"row {row.number}: no such file: {missing!r}"
            listing.missing.append(f"{printable(manifest)}: {example}")
            continue
        num_there += 1
        try:
            start, num_seconds = _part(row)
        except CorpusError as error:
            listing.damaged.append((f"{printable(manifest)}: row {row.number}", str(error)))
            continue
        clip_id = row.clip_id
        if not clip_id:
            clip_id = printable(
                os.path.normpath(os.path.abspath(path))[len(id_folder) :].lstrip("/")
            )
            if start > 0 or num_seconds >= 0:
                clip_id += part_suffix(start, num_seconds)
        yield ClipSource(
            clip_id, file=path, labels=row.labels, start_seconds=start, num_seconds=num_seconds
        )
    if not num_rows:
        raise CorpusError(f"{manifest}: no clip listed", code="empty", path=manifest)
    if not num_there:
        raise CorpusError(
            f"{manifest}: none of the {num_rows} files is there ({example}); paths are relative "
            f"to {folder or 'the current folder'}",
            code="missing",
            path=manifest,
            value=missing,
        )


def _id_folder(rows: Iterator[_Row], folder: str) -> str:
    """Folder that ids are relative to: `folder` if it holds all files, else their common parent."""
    common: str | None = None
    are_inside = True
    last = None
    for row in rows:
        parent = os.path.dirname(os.path.normpath(os.path.join(folder, row.path)))
        if parent == last or not row.path:
            continue
        last = parent
        common = os.path.commonpath([common or parent, parent])
        are_inside = are_inside and os.path.commonpath([folder, parent]) == folder
    return folder if are_inside or common is None else common


def _fairseq_root(manifest: str) -> str | None:
    """Return the folder in the first line of fairseq's form; None for other manifests."""
    if not manifest.lower().endswith(".tsv"):
        return None
    with _lines_of(manifest) as lines:
        first = next(lines, "").rstrip("\r\n")
    if "\t" in first or not first or first.strip() in PATH_COLUMNS:
        return None
    root = os.path.join(os.path.dirname(manifest), os.path.expanduser(first))
    if not os.path.isdir(root):
        raise CorpusError(
            f"{manifest}: the first line must name columns, path among them, or (fairseq) the "
            f"folder of the files; got {first!r}, which is no folder",
            code="malformed",
            path=manifest,
            value=first,
        )
    return root


def _read_rows(manifest: str, fairseq_root: str | None) -> Iterator[_Row]:
    if manifest.lower().endswith(PARQUET_SUFFIX):
        return _parquet_rows(manifest)
    if fairseq_root is not None:
        return _fairseq_rows(manifest)
    return _text_rows(manifest, "\t" if manifest.lower().endswith(".tsv") else ",")


def _fairseq_rows(manifest: str) -> Iterator[_Row]:
    with _lines_of(manifest) as lines:
        next(lines)
        for number, line in enumerate(lines, start=2):
            if line.strip():
                path = os.path.expanduser(line.rstrip("\r\n").split("\t")[0])
                yield _Row(number, path, "", None, None, "")


def _text_rows(manifest: str, usual: str) -> Iterator[_Row]:
    with _lines_of(manifest) as lines:
        reader = csv_table(lines, usual)
        columns = [name.lower() for name in next(reader, (0, []))[1]]
        if not columns:
            return
        names = _names_of_columns(manifest, columns)
        places = [columns.index(name) if name else None for name in names]
        for number, cells in reader:
            if cells:
                values = [
                    cells[place] if place is not None and place < len(cells) else ""
                    for place in places
                ]
                path, labels, start, end, clip_id = values
                path, labels = os.path.expanduser(path), printable(labels)
                yield _Row(number, path, labels, start, end, printable(clip_id))


def _parquet_rows(manifest: str) -> Iterator[_Row]:
    try:
        names = _names_of_columns(manifest, describe_table(manifest)[1])
        for number, cells in enumerate(list_cells(manifest, names)):
            path, labels, start, end, clip_id = cells
            yield _Row(
                number,
                os.path.expanduser(joined_labels(path)),
                joined_labels(labels),
                start,
                end,
                joined_labels(clip_id),
            )
    except CorpusError as error:
        message = str(error) if error.path else f"{manifest}: {error}"
        raise CorpusError(message, **{**error.facts, "path": manifest}) from error


def _names_of_columns(manifest: str, columns: list[str]) -> list[str]:
    """Return the columns' names in the order of `_Row`, empty for those that do not exist."""
    wanted = (PATH_COLUMNS, LABEL_COLUMNS, START_COLUMNS, END_COLUMNS, (ID_COLUMN,))
    names = [next((name for name in known if name in columns), "") for known in wanted]
    if not names[0]:
        there = printable(", ".join(columns))[:200]
        raise CorpusError(
            f"{manifest}: must have a column path; its columns are {there}",
            code="malformed",
            path=manifest,
            key="path",
            value=columns,
        )
    return names


def _part(row: _Row) -> tuple[float, float]:
    """Return start and length in seconds; length -1 extends to the end."""
    start = _seconds("start", row.start)
    end = _seconds("end", row.end)
    if end is None:
        return start or 0.0, -1.0
    if end <= (start or 0.0):
        rule = f"end must be after start; got {start or 0.0:g} s to {end:g} s"
        raise CorpusError(rule, code="value", key="end", value=end)
    return start or 0.0, end - (start or 0.0)


def _seconds(name: str, value: object) -> float | None:
    if value is None or value == "" or value != value:  # noqa: PLR0124  NaN is an empty cell
        return None
    try:
        seconds = float(str(value))
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds >= 0):
        rule = f"{name} must be a number of seconds, at least 0; got {value!r}"
        raise CorpusError(rule, code="value", key=name, value=value)
    return seconds


@contextmanager
def _lines_of(manifest: str) -> Iterator[Iterator[str]]:
    """Open the lines of a manifest; reading errors in the block become `CorpusError`."""
    try:
        with closing(csv_lines(manifest)) as lines:
            yield lines
    except (OSError, csv.Error) as error:
        message = f"{manifest}: not a manifest that can be read ({error})"
        raise CorpusError(message, code="unreadable", path=manifest) from error
