"""Labeled sound collections as frozen records."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from byola_rq.errors import ByolaRQError

# The paper's tasks in the order of its table; a csv of that name fills that column.
PAPER_TASKS = ("nsynth", "us8k", "vc1", "voxforge", "spcv2_12", "spcv2")


class TaskError(ByolaRQError, ValueError):
    """Labeled set that cannot be evaluated; the message starts with its file and row."""


@dataclass(frozen=True, slots=True)
class Clip:
    """Labeled recording, or a window of one.

    Attributes:
        path: The audio file, or the archive that `member` is packed in.
        file_name: Unique name in the task; the name of a window ends with its start.
        label: Class; in a multi-label task the classes, joined by commas.
        part: train, valid or test, or the name of the clip's fold.
        member: Name within the archive `path`; empty if `path` is the audio file.
        start_seconds: Start of the clip in its file, in seconds.
        group: Speaker, instrument or recording, which should be in one part only; empty if the
            publisher does not name it.
    """

    path: Path
    file_name: str
    label: str
    part: str
    member: str = ""
    start_seconds: float = 0.0
    group: str = ""


@dataclass(frozen=True, slots=True)
class Problem:
    """Problem of a data set, one line of `inspect`."""

    kind: str  # missing, duplicate, unreadable, unlisted or overlap
    name: str  # the file, folder or group
    detail: str = ""


@dataclass(frozen=True)
class Task:
    """Labeled set with its split; clips are in the order of their file names.

    Attributes:
        name: Column of the task in the summary.
        source: Csv file or folder of the data set.
        clips: Clips that were found.
        has_folds: True if `part` names folds, each left out once.
        unit_seconds: Length in seconds that every clip is cropped or padded to.
        notes: Decisions made for the user, to be printed.
        split_rule: Name of the rule that divided the clips, for the results.
        is_multilabel: True if a clip may have several classes.
        problems: Clips that are missing, duplicated, or in two parts.
        num_missing: Number of clips that the publisher lists but that were not found.
        max_skipped: Share of the clips that may be missing or unreadable before the task fails.
        warnings: Differences from the publisher's description of the set.
    """

    name: str
    source: Path
    clips: tuple[Clip, ...]
    has_folds: bool
    unit_seconds: float
    notes: tuple[str, ...] = ()
    split_rule: str = "given"
    is_multilabel: bool = False
    problems: tuple[Problem, ...] = ()
    num_missing: int = 0
    max_skipped: float = 0.0
    warnings: tuple[str, ...] = ()

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Classes, sorted."""
        labels = {clip.label for clip in self.clips}
        if self.is_multilabel:
            labels = {label for joined in labels for label in split_labels(joined)}
        return tuple(sorted(labels))


def split_labels(joined: str) -> tuple[str, ...]:
    """Return the classes of a clip of a multi-label task."""
    return tuple(label.strip() for label in joined.split(",") if label.strip())


def check_names(tasks: Sequence[Task]) -> None:
    """Check that task names differ: rows of equal names could not be told apart.

    Raises:
        TaskError: If two tasks have the same name; the message names both files.
    """
    sources: dict[str, Path] = {}
    for task in tasks:
        if task.name in sources:
            raise TaskError(
                f"{task.source}: task names must differ; {task.name!r} is also the name of "
                f"{sources[task.name]}. Rename one file",
                code="twice",
                path=task.source,
                value=task.name,
            )
        sources[task.name] = task.source


def check_classes(task: Task) -> None:
    """Check that a set has at least two classes, and two clips of each.

    Raises:
        TaskError: If it does not; the message names the class.
    """
    if not task.clips:
        raise TaskError(
            f"{task.source}: the set must have clips; got none", code="empty", path=task.source
        )
    counts = Counter(
        label
        for clip in task.clips
        for label in (split_labels(clip.label) if task.is_multilabel else (clip.label,))
    )
    if len(counts) < 2:
        only = next(iter(counts), "")
        raise TaskError(
            f"{task.source}: label must have at least 2 classes; got only {only!r}",
            code="value",
            path=task.source,
            key="label",
            value=only,
        )
    for label, count in counts.items():
        if count < 2:
            raise TaskError(
                f"{task.source}: a class must have at least 2 clips, to train and to test; "
                f"{label!r} has {count}",
                code="missing",
                path=task.source,
                key="class",
                value=label,
            )


def find_overlaps(clips: Iterable[Clip]) -> tuple[Problem, ...]:
    """Find groups in more than one part: a leak, unless the groups are the classes."""
    parts: dict[str, set[str]] = defaultdict(set)
    for clip in clips:
        if clip.group:
            parts[clip.group].add(clip.part)
    return tuple(
        Problem("overlap", group, f"in {' and '.join(sorted(names))}")
        for group, names in sorted(parts.items())
        if len(names) > 1
    )


def limit_clips(task: Task, num_clips: int, seed: int) -> Task:
    """Draw at most `num_clips` clips of each label in each part; the split rule records it.

    In a multi-label task the label is the clip's whole set of classes.
    """
    members: dict[tuple[str, str], list[int]] = defaultdict(list)
    for position, clip in enumerate(task.clips):
        members[clip.part, clip.label].append(position)
    kept: list[int] = []
    for number, key in enumerate(sorted(members)):
        generator = np.random.default_rng((seed, number))
        kept += generator.permutation(members[key])[:num_clips].tolist()
    return replace(
        task,
        clips=tuple(task.clips[position] for position in sorted(kept)),
        split_rule=f"{task.split_rule}; limit {num_clips}",
    )
