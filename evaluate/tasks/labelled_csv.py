"""Tasks from a csv of labeled clips."""

import glob
import math
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from byola_rq.audio.io import inspect_audio
from byola_rq.embed.clip_encoder import MIN_SECONDS
from byola_rq.errors import AudioError, CorpusError
from byola_rq.sources.labelled_csv import FILE_COLUMNS, LabelledRows, read_labelled_rows
from evaluate.tasks.task import Clip, Task, TaskError, check_classes, split_labels

MAX_DEFAULT_UNIT_SECONDS = 10.0

_SEPARATORS = {",": "a comma", ";": "a semicolon", "|": "a bar"}
_SUMMARY_COLUMNS = ("model", "probe", "source", "mean")  # a task of this name would hide one


def read_labelled_csv(path: Path, unit_seconds: float | None = None) -> Task:
    """Read `file_name,label` and `fold` or `split` of every row; other columns are ignored.

    A column `labels` instead of `label` makes the task multi-label: any number of classes, joined
    by commas, or by `;` or `|` if no row has a comma. A `label` is always one class.

    Args:
        path: UTF-8 csv with a header. File names are relative to its folder. The task is named
            after the file, or after its folder if the file is `metadata.csv`.
        unit_seconds: Length in seconds to which every clip is cropped or padded; by default that
            of the longest clip, at most 10 s.

    Raises:
        TaskError: Naming the file, the row (the header is row 1), the value and the rule.
        AudioError: If a clip is not audio.
    """
    name = _name_of(path)
    try:
        rows = read_labelled_rows(
            path, label_columns=("label", "labels"), part_columns=("split", "fold")
        )
    except CorpusError as error:
        raise TaskError(f"{error}{_where_it_is(path, error)}", **error.facts) from error
    is_multilabel = rows.label_column == "labels"
    separators = _find_separators(rows)
    separator = separators[0] if is_multilabel and len(separators) == 1 else ","
    clips = tuple(sorted(_make_clips(path, rows, separator), key=lambda clip: clip.file_name))
    has_folds = rows.part_column == "fold"
    notes = []
    task = Task(name, path, clips, has_folds, 0.0, is_multilabel=is_multilabel)
    check_classes(task)
    if is_multilabel:
        joined = f", joined by {separator!r}" if separator != "," else ""
        notes.append(f"multi-label: column labels{joined}, mean average precision")
        if len(separators) > 1:
            notes.append(f"labels hold {' and '.join(separators)}: only commas separate classes")
    elif separators:
        which = " or ".join(_SEPARATORS[each] for each in separators)
        notes.append(f"a label with {which} is one class; a column named labels holds several")
    if {"fold", "split"} <= rows.columns:
        notes.append("the csv has both fold and split: fold is used, leave one fold out")
    if unit_seconds is None:
        unit_seconds, note = _choose_unit(clips)
        notes.append(note)
    elif not MIN_SECONDS <= unit_seconds < math.inf:
        raise TaskError(
            f"unit_seconds must be at least {MIN_SECONDS}; got {unit_seconds:g}",
            code="value",
            key="unit_seconds",
            value=unit_seconds,
        )
    else:
        notes.append(f"unit {unit_seconds:g} s, as given")
    return replace(task, unit_seconds=unit_seconds, notes=tuple(notes))


def _name_of(path: Path) -> str:
    name = path.stem if path.stem != "metadata" else path.resolve().parent.name or path.stem
    if name in _SUMMARY_COLUMNS or name.endswith(("_low", "_high")):
        raise TaskError(
            f"{path}: task name must not be a column of summary.csv "
            f"({', '.join(_SUMMARY_COLUMNS)}, *_low, *_high); got {name!r}. Rename the file",
            code="value",
            path=path,
            key="task name",
            value=name,
        )
    return name


def _where_it_is(path: Path, error: CorpusError) -> str:
    """Return a hint if a missing file lies one folder deeper, as with EVAR's csv files."""
    if error.code != "missing" or error.key not in FILE_COLUMNS:
        return ""
    name = os.path.basename(str(error.value))
    # The glob module: Path.glob raises if a name is too long for the file system.
    found = glob.glob(f"*/{glob.escape(name)}", root_dir=path.parent)
    if not (name and found):
        return ""
    return f". It is in {os.path.dirname(found[0])}/: a csv of a published set works by --data-root"


def _find_separators(rows: LabelledRows) -> list[str]:
    """List the possible class separators that occur in a label."""
    return [each for each in _SEPARATORS if any(each in clip.label for clip in rows.clips)]


def _make_clips(path: Path, rows: LabelledRows, separator: str) -> Iterator[Clip]:
    for clip in rows.clips:
        label = clip.label
        if rows.label_column == "labels":
            label = ",".join(split_labels(label.replace(separator, ",")))
        if not label:
            raise TaskError(
                f"{path}, row {clip.row}: labels must not be empty",
                code="empty",
                path=path,
                key="labels",
            )
        yield Clip(clip.path, clip.file_name, label, clip.part)


def _choose_unit(clips: tuple[Clip, ...]) -> tuple[float, str]:
    """Return the longest clip's length in seconds, clamped to the limits, and a note about it."""
    longest = 0.0
    for clip in clips:
        try:
            info = inspect_audio(clip.path)
            longest = max(longest, info.num_samples / info.sample_rate)
        except AudioError as error:
            if error.code != "cut":  # reported when the clip is decoded
                raise
    unit = min(max(round(longest, 3), MIN_SECONDS), MAX_DEFAULT_UNIT_SECONDS)
    if longest > MAX_DEFAULT_UNIT_SECONDS:
        return unit, f"unit {unit:g} s, the most chosen by default (longest clip {longest:.1f} s)"
    return unit, f"unit {unit:g} s, the longest clip"
