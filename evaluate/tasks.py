"""Labelled sound collections as frozen records, and the labelled csv that describes one."""

import csv
import math
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from byola_rq.audio import inspect_audio
from byola_rq.errors import ByolaRQError

# The paper's tasks in the order of its table; a csv of that name fills that column.
PAPER_TASKS = ("nsynth", "us8k", "vc1", "voxforge", "spcv2_12", "spcv2")

MIN_UNIT_SECONDS = 0.1  # the shortest sound an encoder can embed
MAX_DEFAULT_UNIT_SECONDS = 10.0

_PARTS = {"train": "train", "test": "test"} | dict.fromkeys(
    ("valid", "val", "validation", "dev"), "valid"
)
_SUMMARY_COLUMNS = ("model", "probe", "source", "mean")  # a task of this name would hide one


class TaskError(ByolaRQError, ValueError):
    """A labelled set that cannot be evaluated; the message starts with its file and row."""


@dataclass(frozen=True)
class Clip:
    """One labelled recording; `part` is train, valid or test, or the name of its fold."""

    path: Path
    file_name: str
    label: str
    part: str


@dataclass(frozen=True)
class Task:
    """One labelled set with its split; clips are in the order of their file names."""

    name: str
    source: Path
    clips: tuple[Clip, ...]
    has_folds: bool
    unit_seconds: float
    notes: tuple[str, ...] = ()  # what was decided for the user and has to be said

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels, sorted."""
        return tuple(sorted({clip.label for clip in self.clips}))


def read_labelled_csv(path: Path, unit_seconds: float | None = None) -> Task:
    """Read `file_name,label` and `fold` or `split` of every row; other columns are not looked at.

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
    _check_classes(path, clips)
    notes = []
    if {"fold", "split"} <= header.keys():
        notes.append("the csv has both fold and split: fold is used, leave one fold out")
    if unit_seconds is None:
        unit_seconds, note = _choose_unit(clips)
        notes.append(note)
    elif not MIN_UNIT_SECONDS <= unit_seconds < math.inf:
        raise TaskError(f"unit_seconds must be at least {MIN_UNIT_SECONDS}; got {unit_seconds:g}")
    else:
        notes.append(f"unit {unit_seconds:g} s, as given")
    return Task(name, path, clips, part_column == "fold", unit_seconds, tuple(notes))


def check_names(tasks: list[Task]) -> None:
    """Refuse two tasks of one name: their rows could not be told apart.

    Raises:
        TaskError: Naming both files.
    """
    sources: dict[str, Path] = {}
    for task in tasks:
        if task.name in sources:
            raise TaskError(
                f"{task.source}: task names must differ; {task.name!r} is also the name of "
                f"{sources[task.name]}. Rename one file"
            )
        sources[task.name] = task.source


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
    """Position of each column we use, by name."""
    rule = "the header must name file_name, label and split or fold"
    if not names:
        raise TaskError(f"{path}: {rule}; the file is empty")
    wanted = ("file_name", "label", "split", "fold")
    missing = [name for name in wanted[:2] if name not in names]
    if "split" not in names and "fold" not in names:
        missing.append("split or fold")
    if missing:
        raise TaskError(
            f"{path}, row 1: {rule}; got {', '.join(names)} (missing: {', '.join(missing)})"
        )
    repeated = [name for name in wanted if names.count(name) > 1]
    if repeated:
        raise TaskError(f"{path}, row 1: column {repeated[0]!r} must be there once; got it twice")
    return {name: names.index(name) for name in wanted if name in names}


def _read_clips(
    path: Path, header: dict[str, int], part_column: str, rows: Iterator[tuple[int, list[str]]]
) -> Iterator[Clip]:
    seen: dict[str, tuple[int, str]] = {}
    for number, row in rows:
        where = f"{path}, row {number}"
        if len(row) <= max(header.values()):
            raise TaskError(f"{where}: a row must have as many fields as the header; got {row}")
        file_name, label = row[header["file_name"]], row[header["label"]]
        part = _check_part(where, part_column, row[header[part_column]])
        if not label:
            raise TaskError(f"{where}: label must not be empty")
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


def _check_part(where: str, column: str, text: str) -> str:
    if column == "fold":
        if not text:
            raise TaskError(f"{where}: fold must not be empty")
        return text
    if text.lower() not in _PARTS:
        raise TaskError(f"{where}: split must be one of {', '.join(_PARTS)}; got {text!r}")
    return _PARTS[text.lower()]


def _check_classes(path: Path, clips: tuple[Clip, ...]) -> None:
    if not clips:
        raise TaskError(f"{path}: the csv must have rows below its header; got none")
    counts = Counter(clip.label for clip in clips)
    if len(counts) < 2:
        raise TaskError(f"{path}: label must have at least 2 classes; got only {clips[0].label!r}")
    for label, count in counts.items():
        if count < 2:
            raise TaskError(
                f"{path}: a class must have at least 2 clips, to train and to test; "
                f"{label!r} has {count}"
            )


def _choose_unit(clips: tuple[Clip, ...]) -> tuple[float, str]:
    """The longest clip's seconds within our limits, and a sentence that says so."""
    infos = [inspect_audio(clip.path) for clip in clips]
    longest = max(info.num_samples / info.sample_rate for info in infos)
    unit = min(max(round(longest, 3), MIN_UNIT_SECONDS), MAX_DEFAULT_UNIT_SECONDS)
    if longest > MAX_DEFAULT_UNIT_SECONDS:
        return unit, f"unit {unit:g} s, the most chosen by default (longest clip {longest:.1f} s)"
    return unit, f"unit {unit:g} s, the longest clip"
