"""A task's split or folds -> the clips to train, validate and test on."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evaluate.tasks import Task, TaskError

VALID_FRACTION = 0.1  # of the training clips of each class, where no validation part is given

Positions = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Fold:
    """One division of a task; each part holds ascending positions in `task.clips`."""

    name: str  # the fold tested on; empty where the task has one split
    train: Positions
    valid: Positions
    test: Positions


def class_indices(task: Task) -> Positions:
    """Each clip's label as its position in `task.classes`."""
    index = {label: position for position, label in enumerate(task.classes)}
    return np.array([index[clip.label] for clip in task.clips], dtype=np.int64)


def make_folds(task: Task, seed: int) -> tuple[Fold, ...]:
    """Divide a task as its csv says: one fold per split, or one for each fold left out.

    Where no validation part is given (always, with folds) a tenth of the training clips of every
    class is drawn for it, at least one where the class has two. Training never loses a class.

    Args:
        task: Clips with the part of each.
        seed: Of the validation draw; the same for every probe, so all probes see the same clips.

    Raises:
        TaskError: If a part is missing or a class would be tested without being trained.
    """
    parts = np.array([clip.part for clip in task.clips])
    names = sorted(set(parts.tolist()), key=_natural_order) if task.has_folds else [""]
    if task.has_folds and len(names) < 2:
        raise TaskError(f"{task.source}: fold must have at least 2 values; got only {names[0]!r}")
    return tuple(_make_fold(task, parts, name, (seed, number)) for number, name in enumerate(names))


def _make_fold(task: Task, parts: npt.NDArray[np.str_], name: str, seed: Sequence[int]) -> Fold:
    is_test = parts == (name if task.has_folds else "test")
    is_valid = np.zeros_like(is_test) if task.has_folds else parts == "valid"
    is_train = ~is_test & ~is_valid
    for part, members in (("train", is_train), ("test", is_test)):
        if not members.any():
            raise TaskError(f"{task.source}: split must name {part} clips; got none")
    labels = class_indices(task)
    untrained = set(labels.tolist()) - set(labels[is_train].tolist())
    if untrained:
        label = task.classes[min(untrained)]
        where = f"with fold {name!r} left out, class" if task.has_folds else "class"
        raise TaskError(f"{task.source}: {where} {label!r} must have training clips; got none")
    if not is_valid.any():
        is_valid = _draw_valid(labels, is_train, seed)
        is_train &= ~is_valid
        if not is_valid.any():
            raise TaskError(
                f"{task.source}: a class must have at least 2 training clips for a validation "
                "part to be drawn; none has"
            )
    return Fold(name, *(np.flatnonzero(part) for part in (is_train, is_valid, is_test)))


def _draw_valid(
    labels: Positions, is_train: npt.NDArray[np.bool_], seed: Sequence[int]
) -> npt.NDArray[np.bool_]:
    is_valid = np.zeros_like(is_train)
    for label in np.unique(labels):
        members = np.flatnonzero(is_train & (labels == label))
        if len(members) >= 2:
            # A generator per class, so that one class' draw does not depend on the others' sizes.
            generator = np.random.default_rng((*seed, int(label)))
            count = max(1, round(VALID_FRACTION * len(members)))
            is_valid[generator.permutation(members)[:count]] = True
    return is_valid


def _natural_order(name: str) -> tuple[bool, int, str]:
    """Folds 1, 2, 10 in this order, names after numbers."""
    return (not name.isdecimal(), int(name) if name.isdecimal() else 0, name)
