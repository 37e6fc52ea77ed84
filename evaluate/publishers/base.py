"""Layouts of published data sets, and the checks that turn a copy into a complete task.

Each publisher has its own reader module; `files.py` reads folders, lists and tables for them.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from pathlib import Path

from byola_rq.errors import Code
from evaluate.tasks.task import Clip, Problem, Task, TaskError, check_classes

MAX_SKIPPED = 0.01  # share of a published set that may be missing for its scores to be comparable
MINIATURE_MARKER = "miniature.json"  # marks a miniature, as opposed to the published set
_NUM_NAMED = 3  # names in a message; `inspect` lists all


@dataclass(frozen=True)
class Copy:
    """Copy of a data set on disk.

    Attributes:
        folder: Root of the copy.
        seed: Seed of the split, if the publisher gives none.
        partners: Folders under the data root that `Layout.is_partner` recognizes.
        by_archive: True to divide VoxForge by archive, not by speaker.
    """

    folder: Path
    seed: int
    partners: tuple[Path, ...] = ()
    by_archive: bool = False


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Layout of a published data set, and its published facts.

    Attributes:
        name: Name of the task.
        title: Name of the data set.
        unit_seconds: Length in seconds that every clip is cropped or padded to.
        num_classes: Number of classes of the published set.
        counts: Published clips of each part or fold; `{"all": n}` if there is no published split.
        holds: Contents of its folder, to follow "a folder with" in messages.
        is_root: Recognizes the root folder of a copy, even if partly unpacked.
        read: Reads a copy as a task.
        group: Kind of `Clip.group` in one word, such as speaker; empty if not set.
        own_folders: Name patterns of its subfolders, which are not searched for other sets.
        is_partner: Recognizes a second folder of the set, anywhere under the data root.
        stands_in_for: Name of the layout that this one replaces if that one's partner is missing.
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
    """Make a task of the listed clips that are on disk; check that its parts are complete.

    Args:
        layout: Layout of the set.
        folder: Root of the copy.
        listed: Clips that the publisher lists; a repeated name is dropped and reported.
        found: File names of the audio on disk; None if the clips were listed from the disk.
        split_rule: Rule that divided the clips, as in `Task`.
        has_folds: True if the parts are folds, as in `Task`.
        is_multilabel: True if a clip may have several classes, as in `Task`.
        notes: Decisions to be printed, as in `Task`.
        problems: Problems that the reader found; those found here follow.

    Raises:
        TaskError: If a part, a fold, a class or more than 1 % of the listed clips is missing.
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
    _check_complete(layout, task, clips, missing, unlisted)
    check_classes(task)
    return replace(task, warnings=compare_counts(layout, task))


def compare_counts(layout: Layout, task: Task) -> tuple[str, ...]:
    """Describe differences from the published clips of each part and number of classes."""
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
    """Make the error of an incomplete copy: `what` it lacks, in a few words and as `value`."""
    return TaskError(
        f"{folder}: {layout.title} is incomplete: {what}. Unpack the publisher's archives "
        "again, or leave the task out",
        code=code,
        path=folder,
        value=value,
    )


def name_some(names: Sequence[str]) -> str:
    """List the first few names and the number of others."""
    more = len(names) - _NUM_NAMED
    return ", ".join(names[:_NUM_NAMED]) + (f" and {more:,} more" if more > 0 else "")


def _drop_repeated(listed: Iterable[Clip]) -> tuple[list[Clip], list[Problem]]:
    """Keep the first clip of each name; report others as problems, overlap or duplicate."""
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
    layout: Layout,
    task: Task,
    listed: Sequence[Clip],
    missing: Sequence[str],
    unlisted: AbstractSet[str],
) -> None:
    """Check that a copy lacks no part, no class, and at most `MAX_SKIPPED` of its clips."""
    lost = {
        "fold" if task.has_folds else "part": {clip.part for clip in listed}
        - {clip.part for clip in task.clips},
        "class": set(replace(task, clips=tuple(listed)).classes) - set(task.classes),
    }
    among = [f"all of {what} {name_some(sorted(gone))}" for what, gone in lost.items() if gone]
    if among or len(missing) > MAX_SKIPPED * len(listed):
        others = [each.detail for each in _sum_up_unlisted(task.source, unlisted)]
        which = "; ".join([name_some(missing), *among, *others])
        raise half_unpacked(
            layout,
            task.source,
            f"{len(missing):,} of the {len(listed):,} listed clips are not there ({which})",
            value=missing,
            code="missing" if among else "too-many",
        )
