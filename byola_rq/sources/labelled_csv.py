"""Strict reader of csv files that list labeled clips."""

import csv
import os
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from byola_rq.errors import Code, CorpusError
from byola_rq.sources.folders import find_spelling
from byola_rq.text.cells import csv_lines, csv_table
from byola_rq.text.shown import printable

# Accepted values of a column `split`, in any case.
PART_NAMES = {
    name: part
    for part, names in {
        "train": ("train", "training", "tr"),
        "valid": ("valid", "val", "validation", "dev"),
        "test": ("test", "testing", "eval", "evaluation"),
    }.items()
    for name in names
}
FILE_COLUMNS = ("file_name", "path")  # the first that the csv has is used


@dataclass(frozen=True, slots=True)
class LabelledClip:
    """Row of the csv: an audio file, its label, and the part of the data set it belongs to.

    Attributes:
        path: Path of the file, which exists.
        file_name: Value in the csv, relative to the csv's folder.
        label: Label, never empty.
        part: train, valid or test; the name of the fold if the column is `fold`.
        row: Row number as in a spreadsheet; the header is row 1.
        group: Recording the clip was cut from, if a group column was requested and exists; else
            empty.
    """

    path: Path
    file_name: str
    label: str
    part: str
    row: int
    group: str = ""


@dataclass(frozen=True)
class LabelledRows:
    """Rows of a csv, in order, and the columns they come from."""

    clips: tuple[LabelledClip, ...]
    label_column: str
    part_column: str
    columns: frozenset[str]  # the known columns that the header has


def read_labelled_rows(
    path: Path,
    *,
    label_columns: Sequence[str],
    part_columns: Sequence[str],
    group_column: str | None = None,
) -> LabelledRows:
    """Read `file_name` (or `path`), label and part of every row; other columns are ignored.

    Args:
        path: UTF-8 csv with a header, of columns in any case; separated by commas, semicolons, tabs
            or bars.
        label_columns: Accepted names of the label column; exactly one must exist.
        part_columns: Accepted names of the part column; the last one that exists is used. If
            empty, parts are not read and stay empty.
        group_column: Name of the group column, read if the csv has it.

    Raises:
        CorpusError: If a row breaks a rule; names the file, row, value and rule.
    """
    rows = _read_rows(path)
    names = [name.lower() for name in next(rows, (1, []))[1]]
    header = _check_header(path, names, label_columns, part_columns)
    if group_column in names:
        header["group"] = names.index(group_column)
    label_column = next(name for name in label_columns if name in header)
    part_column = ([""] + [name for name in part_columns if name in header])[-1]
    clips = tuple(_read_clips(path, header, label_column, part_column, rows))
    return LabelledRows(clips, label_column, part_column, frozenset(header))


def _read_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Iterate over rows with their spreadsheet number; empty rows are counted but skipped."""
    try:
        for number, (_, row) in enumerate(csv_table(csv_lines(path)), start=1):
            if row:
                yield number, row
    except OSError as error:
        message = f"{path}: the csv of labels cannot be read: {error.strerror}"
        raise CorpusError(message, code="unreadable", path=path) from error
    except csv.Error as error:
        raise CorpusError(f"{path}: not a csv: {error}", code="malformed", path=path) from error


def _check_header(
    path: Path, names: list[str], label_columns: Sequence[str], part_columns: Sequence[str]
) -> dict[str, int]:
    """Map column names to their positions."""
    choices = [each for each in (FILE_COLUMNS, label_columns, part_columns) if each]
    words = [" or ".join(choice) for choice in choices]
    rule = f"the header must name {', '.join(words[:-1])} and {words[-1]}"
    if not names:
        raise CorpusError(f"{path}: {rule}; the file is empty", code="empty", path=path)
    missing = [
        word
        for word, choice in zip(words, choices, strict=True)
        if not any(name in names for name in choice)
    ]
    if missing:
        rule = f"{rule}; got {', '.join(names)} (missing: {', '.join(missing)})"
        raise _row_error(path, 1, "malformed", rule, key=missing[0], value=names)
    wanted = [name for choice in choices for name in choice]
    repeated = [name for name in wanted if names.count(name) > 1]
    if repeated:
        rule = f"column {repeated[0]!r} must be there once; got it twice"
        raise _row_error(path, 1, "twice", rule, key=repeated[0])
    if sum(name in names for name in label_columns) > 1:
        rule = f"the header must name {words[1]}, not both; got both"
        raise _row_error(path, 1, "twice", rule, key=words[1])
    return {name: names.index(name) for name in wanted if name in names}


def _read_clips(
    path: Path,
    header: dict[str, int],
    label_column: str,
    part_column: str,
    rows: Iterator[tuple[int, list[str]]],
) -> Iterator[LabelledClip]:
    seen: dict[str, tuple[int, str]] = {}
    file_column = next(name for name in FILE_COLUMNS if name in header)
    names_of_test = set()
    for number, row in rows:
        if len(row) <= max(header.values()):
            rule = f"a row must have as many fields as the header; got {row}"
            raise _row_error(path, number, "malformed", rule, value=row)
        file_name, label = row[header[file_column]], printable(row[header[label_column]])
        if not label:
            rule = f"{label_column} must not be empty"
            raise _row_error(path, number, "empty", rule, key=label_column)
        part = ""
        if part_column:
            part = _check_part(path, number, part_column, row[header[part_column]])
            if part_column == "split" and part == "test":
                names_of_test.add(row[header[part_column]].lower())
                if len(names_of_test) > 1:
                    rule = f"split must name one part test; got {' and '.join(names_of_test)}"
                    raise _row_error(path, number, "twice", rule, key="split")
        place = os.path.join(path.parent, os.path.expanduser(file_name))
        clip_path = Path(find_spelling(place) or place)
        # Not Path.is_file, which raises where a name is too long for the file system.
        if not os.path.isfile(clip_path):
            rule = f"{file_column} must be a file that exists; got {file_name!r}"
            raise _row_error(path, number, "missing", rule, key=file_column, value=file_name)
        first_row, first_part = seen.setdefault(os.path.realpath(clip_path), (number, part))
        if first_row != number:
            here, there = (f" ({part_column} {each})" * bool(each) for each in (part, first_part))
            rule = f"a file must be listed once; {file_name!r}{here} is also row {first_row}{there}"
            raise _row_error(path, number, "twice", rule, value=file_name)
        group = row[header["group"]] if "group" in header else ""
        # Two forms of one letter would look like one class and be two.
        label = unicodedata.normalize("NFC", label)
        yield LabelledClip(clip_path, file_name, label, part, number, group)


def _check_part(path: Path, number: int, column: str, text: str) -> str:
    if column == "fold":
        if not text:
            raise _row_error(path, number, "empty", "fold must not be empty", key="fold")
        return text
    if text.lower() not in PART_NAMES:
        rule = f"split must be one of {', '.join(PART_NAMES)}; got {text!r}"
        raise _row_error(path, number, "value", rule, key="split", value=text)
    return PART_NAMES[text.lower()]


def _row_error(path: Path, number: int, code: Code, rule: str, **facts: Any) -> CorpusError:
    return CorpusError(printable(f"{path}, row {number}: {rule}"), code=code, path=path, **facts)
