"""Any labelled set: the csv that describes it -> a task."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from byola_rq.audio.io import inspect_audio
from byola_rq.embed.clip_encoder import MIN_SECONDS
from byola_rq.errors import AudioError, CorpusError
from byola_rq.sources.labelled_csv import LabelledRows, read_labelled_rows
from evaluate.tasks.task import Clip, Task, TaskError, check_classes, split_labels

MAX_DEFAULT_UNIT_SECONDS = 10.0

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
    try:
        rows = read_labelled_rows(
            path, label_columns=("label", "labels"), part_columns=("split", "fold")
        )
    except CorpusError as error:
        raise TaskError(str(error), **error.facts) from error
    clips = tuple(sorted(_make_clips(path, rows), key=lambda clip: clip.file_name))
    is_multilabel = rows.label_column == "labels"
    has_folds = rows.part_column == "fold"
    notes = []
    task = Task(name, path, clips, has_folds, 0.0, is_multilabel=is_multilabel)
    check_classes(task)
    if is_multilabel:
        notes.append("multi-label: column labels, mean average precision")
    elif any("," in clip.label for clip in clips):
        notes.append("a label with a comma is one class; a column named labels holds several")
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


def _make_clips(path: Path, rows: LabelledRows) -> Iterator[Clip]:
    for clip in rows.clips:
        label = clip.label
        if rows.label_column == "labels":
            label = ",".join(split_labels(label))
        if not label:
            raise TaskError(
                f"{path}, row {clip.row}: labels must not be empty",
                code="empty",
                path=path,
                key="labels",
            )
        yield Clip(clip.path, clip.file_name, label, clip.part)


def _choose_unit(clips: tuple[Clip, ...]) -> tuple[float, str]:
    """The longest clip's seconds within our limits, and a sentence that says so."""
    longest = 0.0
    for clip in clips:
        try:
            info = inspect_audio(clip.path)
            longest = max(longest, info.num_samples / info.sample_rate)
        except AudioError as error:
            if error.code != "cut":  # that is said where it is read
                raise
    unit = min(max(round(longest, 3), MIN_SECONDS), MAX_DEFAULT_UNIT_SECONDS)
    if longest > MAX_DEFAULT_UNIT_SECONDS:
        return unit, f"unit {unit:g} s, the most chosen by default (longest clip {longest:.1f} s)"
    return unit, f"unit {unit:g} s, the longest clip"
