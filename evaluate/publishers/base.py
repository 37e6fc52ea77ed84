"""Data sets as their publishers ship them: the record of a layout, and what makes its task whole.

A reader per publisher stands beside this file; `files.py` reads their folders, lists and tables.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from pathlib import Path

from byola_rq.errors import Code
from evaluate.tasks.task import Clip, Problem, Task, TaskError, check_classes

MAX_SKIPPED = 0.01  # share of a published set that may be missing before its score means another
MINIATURE_MARKER = "miniature.json"  # tells a set written in small from the published one
_NUM_NAMED = 3  # names in a message; `inspect` gives them all


@dataclass(frozen=True)
class Copy:
    """A copy of a data set on disk.

    Attributes:
        folder: Its root.
        seed: Of a split that the publisher does not give.
        partners: Folders under the data root that `Layout.is_partner` recognises.
        by_archive: Whether VoxForge is divided by archive; by speaker otherwise.
    """

    folder: Path
    seed: int
    partners: tuple[Path, ...] = ()
    by_archive: bool = False


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a publisher ships a data set, and what is known of it.

    Attributes:
        name: The task's name.
        title: The data set's name.
        unit_seconds: Length every clip is cropped or padded to.
        num_classes: Classes of the published set.
        counts: Published clips of each part or fold; `{"all": n}` where the split is not given.
        holds: What its folder holds, to follow "a folder with" in messages.
        is_root: Whether a folder is the root of a copy, a half unpacked one included.
        read: A copy -> its task.
        group: What `Clip.group` names, in one word, such as speaker; empty where it is not set.
        own_folders: Patterns of the names of its subfolders, in which no other set is looked for.
        is_partner: Recognises a second folder that the set comes in, anywhere under the data root.
        stands_in_for: The layout that this one replaces where that one's partner is not there.
    """

    name: str
    title: str
    unit_seconds: float
    num_classes: int
    counts: Mapping[str, int]
    holds: str
    is_root: Callable[[Path], bool]
    read: Callable[[Copy], Task]
    group: str = ""
    own_folders: tuple[str, ...] = ()
    is_partner: Callable[[Path], bool] | None = None
    stands_in_for: str = ""


def make_task(
    layout: Layout,
    folder: Path,
    listed: Iterable[Clip],
    found: AbstractSet[str] | None = None,
    *,
    split_rule: str,
    has_folds: bool = False,
    is_multilabel: bool = False,
    notes: Sequence[str] = (),
    problems: Sequence[Problem] = (),
) -> Task:
    """What the publisher lists and the disk holds -> a task, its parts complete and counted.

    Args:
        layout: The set's layout.
        folder: The copy's root.
        listed: Every clip that the publisher names; a name that comes again is left out and told.
        found: File names of the audio on disk; None where the clips were listed from the disk.
        split_rule: As in `Task`.
        has_folds: As in `Task`.
        is_multilabel: As in `Task`.
        notes: As in `Task`.
        problems: What the reader found; what is found here follows.

    Raises:
        TaskError: If a part, a fold, a class or more than 1 % of the listed clips is not there.
    """
    clips, repeated = _drop_repeated(listed)
    names = {clip.file_name for clip in clips}
    here = clips if found is None else [clip for clip in clips if clip.file_name in found]
    unlisted = set() if found is None else found - names
    missing = sorted(names - {clip.file_name for clip in here})
    task = Task(
        layout.name,
        folder,
        tuple(sorted(here, key=lambda clip: clip.file_name)),
        has_folds,
        layout.unit_seconds,
        notes=tuple(notes),
        split_rule=split_rule,
        is_multilabel=is_multilabel,
        problems=(
            *problems,
            *repeated,
            *(Problem("missing", name, "listed, not on disk") for name in missing),
            *_sum_up_unlisted(folder, unlisted),
        ),
        num_missing=len(missing),
        max_skipped=MAX_SKIPPED,
    )
    _check_complete(layout, task, clips, missing)
    check_classes(task)
    return replace(task, warnings=compare_counts(layout, task))


def compare_counts(layout: Layout, task: Task) -> tuple[str, ...]:
    """What differs from the published clips of each part and the published number of classes."""
    if (task.source / MINIATURE_MARKER).exists():
        return ("a miniature: its scores say nothing about the published set",)
    counts = Counter("all" if "all" in layout.counts else clip.part for clip in task.clips)
    kind = "fold " if task.has_folds else ""
    different = [
        f"{kind}{part} {counts[part]:,} (published {layout.counts.get(part, 0):,})"
        for part in dict.fromkeys((*layout.counts, *sorted(counts)))
        if counts[part] != layout.counts.get(part, 0)
    ]
    warnings = []
    if different:
        warnings.append(f"clips differ from the published set: {', '.join(different)}")
    if len(task.classes) != layout.num_classes:
        warnings.append(f"{len(task.classes):,} classes (published {layout.num_classes:,})")
    return tuple(warnings)


def half_unpacked(
    layout: Layout, folder: Path, what: str, *, value: object, code: Code = "missing"
) -> TaskError:
    """The error for a copy that is not all there: `what` it lacks, in a few words and as value."""
    return TaskError(
        f"{folder}: {layout.title} is half unpacked: {what}. Unpack the publisher's archives "
        "again, or leave the task out",
        code=code,
        path=folder,
        value=value,
    )


def name_some(names: Sequence[str]) -> str:
    """The first few of the names, and how many more there are."""
    more = len(names) - _NUM_NAMED
    return ", ".join(names[:_NUM_NAMED]) + (f" and {more:,} more" if more > 0 else "")


def _drop_repeated(listed: Iterable[Clip]) -> tuple[list[Clip], list[Problem]]:
    """The first clip of each name; the others as problems, in two parts or merely twice."""
    same_name: dict[str, list[Clip]] = defaultdict(list)
    for clip in listed:
        same_name[clip.file_name].append(clip)
    problems = []
    for name, clips in sorted(same_name.items()):
        parts = list(dict.fromkeys(clip.part for clip in clips))
        labels = list(dict.fromkeys(clip.label for clip in clips))
        if len(parts) > 1:
            detail = f"in {' and '.join(sorted(parts))}; kept in {parts[0]}"
            problems.append(Problem("overlap", name, detail))
        elif len(clips) > 1:
            detail = f"listed {len(clips)} times"
            if len(labels) > 1:
                detail += f" as {' and '.join(labels)}; kept as {labels[0]}"
            problems.append(Problem("duplicate", name, detail))
    return [clips[0] for clips in same_name.values()], problems


def _sum_up_unlisted(folder: Path, names: AbstractSet[str]) -> list[Problem]:
    if not names:
        return []
    detail = f"{len(names):,} audio files that no list names: {name_some(sorted(names))}"
    return [Problem("unlisted", str(folder), detail)]


def _check_complete(
    layout: Layout, task: Task, listed: Sequence[Clip], missing: Sequence[str]
) -> None:
    """Refuse a copy that lacks a part, a class, or more clips than `MAX_SKIPPED`."""
    lost = {
        "fold" if task.has_folds else "part": {clip.part for clip in listed}
        - {clip.part for clip in task.clips},
        "class": set(replace(task, clips=tuple(listed)).classes) - set(task.classes),
    }
    among = [f"all of {what} {name_some(sorted(gone))}" for what, gone in lost.items() if gone]
    if among or len(missing) > MAX_SKIPPED * len(listed):
        which = "; ".join([name_some(missing), *among])
        raise half_unpacked(
            layout,
            task.source,
            f"{len(missing):,} of the {len(listed):,} listed clips are not there ({which})",
            value=missing,
            code="missing" if among else "too-many",
        )
