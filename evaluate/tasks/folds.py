"""Folds of a task: the clips to train, validate and test on."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evaluate.tasks.task import Task, TaskError, split_labels

VALID_FRACTION = 0.1  # share of the training clips of each class, if no validation part is given

Positions = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Fold:
    """Division of a task into parts; each holds ascending positions in `task.clips`, `(N,)`."""

    name: str  # the fold tested on; empty if the task has a single split
    train: Positions
    valid: Positions
    test: Positions
    is_valid_drawn: bool = False  # validation clips were drawn from the training clips here


def class_indices(task: Task) -> Positions:
    """Return each clip's label as its position in `task.classes`, `(N,)`."""
    index = {label: position for position, label in enumerate(task.classes)}
    return np.array([index[clip.label] for clip in task.clips], dtype=np.int64)


def class_targets(task: Task) -> Positions | Flags:
    """Build the targets that the clips' scores are compared with.

    Returns:
        `class_indices`, `(N,)`; for a multi-label task whether a clip has a class, bool `(N, C)`.
    """
    if not task.is_multilabel:
        return class_indices(task)
    index = {label: position for position, label in enumerate(task.classes)}
    targets = np.zeros((len(task.clips), len(index)), dtype=np.bool_)
    for row, clip in enumerate(task.clips):
        targets[row, [index[label] for label in split_labels(clip.label)]] = True
    return targets


def make_folds(task: Task, seed: int) -> tuple[Fold, ...]:
    """Divide a task into folds: one for a split, or one for each fold of the csv left out.

    Without a given validation part (always, with folds), a tenth of the training clips of every
    class is drawn for it, at least one if the class has two. Training never loses a class. In a
    multi-label task a clip drawn for one class counts for all its classes, the rarest class draws
    first, and the last training clip of a class is never drawn.

    Args:
        task: Clips with the part of each.
        seed: Seed of the validation draw; equal for every probe, so all probes see the same clips.

    Raises:
        TaskError: If a part is missing or a class would be tested without being trained.
    """
    parts = np.array([clip.part for clip in task.clips])
    targets = class_targets(task)
    names = sorted(set(parts.tolist()), key=_natural_order) if task.has_folds else [""]
    if task.has_folds and len(names) < 2:
        raise TaskError(
            f"{task.source}: fold must have at least 2 values; got only {names[0]!r}",
            code="value",
            path=task.source,
            key="fold",
            value=names[0],
        )
    return tuple(
        _make_fold(task, targets, parts, name, (seed, number)) for number, name in enumerate(names)
    )


def _make_fold(
    task: Task,
    targets: Positions | Flags,
    parts: npt.NDArray[np.str_],
    name: str,
    seed: Sequence[int],
) -> Fold:
    is_test = parts == (name if task.has_folds else "test")
    is_valid = np.zeros_like(is_test) if task.has_folds else parts == "valid"
    is_train = ~is_test & ~is_valid
    for part, members in (("train", is_train), ("test", is_test)):
        if not members.any():
            raise TaskError(
                f"{task.source}: split must name {part} clips; got none",
                code="missing",
                path=task.source,
                key="split",
                value=part,
            )
    untrained = np.setdiff1d(memberships(targets)[1], memberships(targets, is_train)[1])
    if untrained.size:
        label = task.classes[untrained[0]]
        where = f"with fold {name!r} left out, class" if task.has_folds else "class"
        raise TaskError(
            f"{task.source}: {where} {label!r} must have training clips; got none",
            code="missing",
            path=task.source,
            key="class",
            value=label,
        )
    is_valid_drawn = not is_valid.any()
    if is_valid_drawn:
        is_valid = _draw_valid(targets, is_train, seed)
        is_train &= ~is_valid
        if not is_valid.any():
            raise TaskError(
                f"{task.source}: a class must have at least 2 training clips for a validation "
                "part to be drawn; none has",
                code="missing",
                path=task.source,
                key="validation",
            )
    train, valid, test = (np.flatnonzero(part) for part in (is_train, is_valid, is_test))
    return Fold(name, train, valid, test, is_valid_drawn)


def memberships(
    targets: Positions | Flags, chosen: Flags | None = None
) -> tuple[Positions, Positions]:
    """Return clip and class of each (clip, class) pair, clips ascending; only `chosen` clips."""
    clips: Positions
    classes: Positions
    if targets.ndim == 2:
        clips, classes = np.nonzero(targets)
    else:
        clips, classes = np.arange(len(targets)), targets.astype(np.int64, copy=False)
    if chosen is None:
        return clips, classes
    return clips[chosen[clips]], classes[chosen[clips]]


def _draw_valid(targets: Positions | Flags, is_train: Flags, seed: Sequence[int]) -> Flags:
    clips, classes = memberships(targets, is_train)
    sizes = np.bincount(classes)
    members = np.split(clips[np.argsort(classes, kind="stable")], np.cumsum(sizes)[:-1])
    is_valid, num_left = np.zeros_like(is_train), sizes.copy()
    for label in np.argsort(sizes, kind="stable"):
        if sizes[label] < 2:
            continue
        num_wanted = max(1, round(VALID_FRACTION * int(sizes[label])))
        # One generator per class: its draw must not depend on the sizes of other classes.
        generator = np.random.default_rng((*seed, int(label)))
        for clip in generator.permutation(members[label]):
            if sizes[label] - num_left[label] >= num_wanted:
                break
            own = np.flatnonzero(targets[clip]) if targets.ndim == 2 else targets[clip]
            if not is_valid[clip] and np.all(num_left[own] >= 2):
                is_valid[clip] = True
                num_left[own] -= 1
    return is_valid


def _natural_order(name: str) -> tuple[bool, int, str]:
    """Return a sort key that orders folds 1, 2, 10, and names after numbers."""
    return (not name.isdecimal(), int(name) if name.isdecimal() else 0, name)


def describe_copies(task: Task, fold: Fold, embeddings: npt.NDArray[np.float32]) -> str:
    """Describe the test clips that sound exactly as a clip learned from; empty if there are none.

    Args:
        task: Task of the fold.
        fold: Fold of readable clips.
        embeddings: Embedding of each clip of the task, `(N, D)`; copies have equal ones.
    """
    learned = {hash(embeddings[each].tobytes()) for each in (*fold.train, *fold.valid)}
    copies = [each for each in fold.test if hash(embeddings[each].tobytes()) in learned]
    if not copies:
        return ""
    return (
        f"{len(copies):,} of {len(fold.test):,} test clips sound exactly as a clip to train or "
        f"validate on, such as {task.clips[copies[0]].file_name}; `python -m evaluate inspect "
        "--digests` lists files of equal bytes"
    )
