"""Any labelled set: the csv that describes it -> a task."""

import csv
import math
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from byola_rq.audio import inspect_audio
from evaluate.tasks import PART_NAMES, Clip, Task, TaskError, check_classes, split_labels

MIN_UNIT_SECONDS = 0.1  # the shortest sound an encoder can embed
MAX_DEFAULT_UNIT_SECONDS = 10.0

_CHOICES = (("label", "labels"), ("split", "fold"))
_SUMMARY_COLUMNS = ("model", "probe", "source", "mean")  # a task of this name would hide one


def read_labelled_csv(path: Path, unit_seconds: float | None = None) -> Task:
    """Read `file_name,label` and `fold` or `split` of every row; other columns are not looked at.

    A column `labels` in place of `label` holds any number of classes, joined by commas: the task
    is multi-label. A `label` is one class, whatever it contains.

    Args:
        path: UTF-8 csv with a header. File names are relative to its folder. The task is named
            after the file, or after its folder if the file is `metadata.csv`.
        unit_seconds: Length to which every clip is cropped or padded; the longest clip's by
            default, at most 10 s.

    Raises:
        TaskError: Naming the file, the row (the header is row 1), the value and the rule.
        AudioError: If a clip is not audio.
    """
    name = _name_of(path)
    rows = _read_rows(path)
    header = _check_header(path, next(rows, (1, []))[1])
    part_column = "fold" if "fold" in header else "split"
    clips = tuple(sorted(_read_clips(path, header, part_column, rows), key=lambda c: c.file_name))
    notes = []
    is_multilabel = "labels" in header
    task = Task(name, path, clips, part_column == "fold", 0.0, is_multilabel=is_multilabel)
    check_classes(task)
    if is_multilabel:
        notes.append("multi-label: column labels, mean average precision")
    elif any("," in clip.label for clip in clips):
        notes.append("a label with a comma is one class; a column named labels holds several")
    if {"fold", "split"} <= header.keys():
        notes.append("the csv has both fold and split: fold is used, leave one fold out")
    if unit_seconds is None:
        unit_seconds, note = _choose_unit(clips)
        notes.append(note)
    elif not MIN_UNIT_SECONDS <= unit_seconds < math.inf:
        raise TaskError(f"unit_seconds must be at least {MIN_UNIT_SECONDS}; got {unit_seconds:g}")
    else:
        notes.append(f"unit {unit_seconds:g} s, as given")
    return replace(task, unit_seconds=unit_seconds, notes=tuple(notes))


def _name_of(path: Path) -> str:
    name = path.stem if path.stem != "metadata" else path.resolve().parent.name or path.stem
    if name in _SUMMARY_COLUMNS or name.endswith(("_low", "_high")):
        raise TaskError(
            f"{path}: task name must not be a column of summary.csv "
            f"({', '.join(_SUMMARY_COLUMNS)}, *_low, *_high); got {name!r}. Rename the file"
        )
    return name


def _read_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Rows with their number, counted as a spreadsheet does; empty rows are counted, not given."""
    try:
        # utf-8-sig: spreadsheets put a byte order mark before the first column's name.
        with path.open(encoding="utf-8-sig", newline="") as file:
            for number, row in enumerate(csv.reader(file, strict=True), start=1):
                if row:
                    yield number, [field.strip() for field in row]
    except OSError as error:
        raise TaskError(f"{path}: the labelled csv cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise TaskError(f"{path}: the labelled csv must be UTF-8; {error.reason}") from error
    except csv.Error as error:
        raise TaskError(f"{path}: not a csv: {error}") from error


def _check_header(path: Path, names: list[str]) -> dict[str, int]:
    """Position of each column we use, by name; `label` or `labels`, whichever is there."""
    rule = "the header must name file_name, label or labels, and split or fold"
    if not names:
        raise TaskError(f"{path}: {rule}; the file is empty")
    missing = [] if "file_name" in names else ["file_name"]
    missing += [f"{a} or {b}" for a, b in _CHOICES if a not in names and b not in names]
    if missing:
        raise TaskError(
            f"{path}, row 1: {rule}; got {', '.join(names)} (missing: {', '.join(missing)})"
        )
    wanted = ("file_name", "label", "labels", "split", "fold")
    repeated = [name for name in wanted if names.count(name) > 1]
    if repeated:
        raise TaskError(f"{path}, row 1: column {repeated[0]!r} must be there once; got it twice")
    if "label" in names and "labels" in names:
        raise TaskError(f"{path}, row 1: the header must name label or labels, not both; got both")
    return {name: names.index(name) for name in wanted if name in names}


def _read_clips(
    path: Path, header: dict[str, int], part_column: str, rows: Iterator[tuple[int, list[str]]]
) -> Iterator[Clip]:
    seen: dict[str, tuple[int, str]] = {}
    for number, row in rows:
        where = f"{path}, row {number}"
        if len(row) <= max(header.values()):
            raise TaskError(f"{where}: a row must have as many fields as the header; got {row}")
        file_name, label = row[header["file_name"]], _read_label(where, header, row)
        part = _check_part(where, part_column, row[header[part_column]])
        clip_path = path.parent / file_name
        # Not Path.is_file, which raises where a name is too long for the file system.
        if not os.path.isfile(clip_path):
            raise TaskError(f"{where}: file_name must be a file that exists; got {file_name!r}")
        first_row, first_part = seen.setdefault(os.path.realpath(clip_path), (number, part))
        if first_row != number:
            raise TaskError(
                f"{where}: a file must be listed once; {file_name!r} ({part_column} {part}) is "
                f"also row {first_row} ({part_column} {first_part})"
            )
        yield Clip(clip_path, file_name, label, part)


def _read_label(where: str, header: dict[str, int], row: list[str]) -> str:
    column = "labels" if "labels" in header else "label"
    label = row[header[column]]
    if column == "labels":
        label = ",".join(split_labels(label))
    if not label:
        raise TaskError(f"{where}: {column} must not be empty")
    return label


def _check_part(where: str, column: str, text: str) -> str:
    if column == "fold":
        if not text:
            raise TaskError(f"{where}: fold must not be empty")
        return text
    if text.lower() not in PART_NAMES:
        raise TaskError(f"{where}: split must be one of {', '.join(PART_NAMES)}; got {text!r}")
    return PART_NAMES[text.lower()]


def _choose_unit(clips: tuple[Clip, ...]) -> tuple[float, str]:
    """The longest clip's seconds within our limits, and a sentence that says so."""
    infos = [inspect_audio(clip.path) for clip in clips]
    longest = max(info.num_samples / info.sample_rate for info in infos)
    unit = min(max(round(longest, 3), MIN_UNIT_SECONDS), MAX_DEFAULT_UNIT_SECONDS)
    if longest > MAX_DEFAULT_UNIT_SECONDS:
        return unit, f"unit {unit:g} s, the most chosen by default (longest clip {longest:.1f} s)"
    return unit, f"unit {unit:g} s, the longest clip"
