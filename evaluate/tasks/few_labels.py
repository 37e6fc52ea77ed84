"""Training on a share of the labels: draw the training and validation clips that keep theirs."""

import zlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from byola_rq.errors import ByolaRQError
from evaluate.tasks.folds import Flags, Fold, Positions, class_targets, memberships
from evaluate.tasks.task import Task, TaskError

OPTION = "--label-fraction"
_MAX_NAMED = 5  # classes listed in a warning


def parse_fractions(texts: Sequence[str]) -> tuple[float, ...]:
    """Parse shares of the labels from the command line, without repeats; `(1.0,)` if none is given.

    Raises:
        ByolaRQError: If one is not a number above 0 and at most 1.
    """
    fractions = []
    for text in texts:
        try:
            fraction = round(float(text), 4)  # as results.csv has it
        except ValueError:
            fraction = 0.0
        if not 0 < fraction <= 1:
            raise ByolaRQError(
                f"{OPTION} must be numbers above 0, at most 1; got {text!r}",
                code="value",
                key=OPTION,
                value=text,
            )
        fractions.append(fraction)
    return tuple(dict.fromkeys(fractions or [1.0]))


def describe_fraction(fraction: float) -> str:
    """Name a share of the labels, as shown after a probe; empty for all labels."""
    return "" if fraction == 1 else f"{100 * fraction:g} % of labels"


def keep_labels(task: Task, fold: Fold, fraction: float, seed: int) -> Fold:
    """Reduce a fold to a share of its training and validation clips; test clips all stay.

    Each class of each part keeps its share of clips, rounded, and at least one. The clips are the
    first in an order that only part, class and seed decide: every model gets the same clips, and
    in single-label tasks a smaller share is a subset of a larger one. In a multi-label task a clip
    drawn for one class counts for all its classes, and the rarest class draws first.

    Raises:
        TaskError: If `check_fraction` rejects the share.
    """
    if fraction == 1:
        return fold
    check_fraction(task, [fold], fraction)
    targets = class_targets(task)
    train, valid = (
        _draw(targets, part, fraction, (seed, zlib.crc32(f"{name} {fold.name}".encode())))
        for name, part in (("train", fold.train), ("valid", fold.valid))
    )
    return replace(fold, train=train, valid=valid)


def check_fraction(task: Task, folds: Sequence[Fold], fraction: float) -> None:
    """Check that a share of the labels leaves at least one training clip per class.

    At least one clip per class is always kept, so a smaller share would be mislabeled.

    Raises:
        TaskError: If it does not; the message names the smallest possible share.
    """
    targets = class_targets(task)
    least = max(_least_fraction(targets, fold.train) for fold in folds)
    if fraction < least:
        raise TaskError(
            f"{task.source}: {OPTION} must leave a training clip for each class, so it must be at "
            f"least {np.ceil(1e4 * least) / 1e4:g}; got {fraction:g}",
            code="value",
            path=task.source,
            key=OPTION,
            value=fraction,
        )


def find_rejected(
    task: Task, folds: Sequence[Fold], fractions: Sequence[float]
) -> dict[float, TaskError]:
    """Return the error of each share of the labels that `check_fraction` rejects."""
    rejected = {}
    for fraction in fractions:
        try:
            check_fraction(task, folds, fraction)
        except TaskError as error:
            rejected[fraction] = error
    return rejected


def describe_small_classes(task: Task, folds: Sequence[Fold], fraction: float) -> str:
    """List classes that keep more than the share because they keep one clip; empty if none does."""
    targets = class_targets(task)
    small: dict[int, None] = {}
    for fold in folds:
        sizes = _class_sizes(targets, fold.train)
        small |= dict.fromkeys(np.flatnonzero((sizes > 0) & (fraction * sizes < 0.5)).tolist())
    if not small:
        return ""
    named = [task.classes[position] for position in sorted(small)]
    more = f" and {len(named) - _MAX_NAMED} more" if len(named) > _MAX_NAMED else ""
    return (
        f"one training clip is more than {100 * fraction:g} % of {len(named)} of "
        f"{len(task.classes)} classes, and each keeps one: {', '.join(named[:_MAX_NAMED])}{more}"
    )


def _least_fraction(targets: Positions | Flags, part: Positions) -> float:
    return float(np.count_nonzero(_class_sizes(targets, part)) / len(part))


def _class_sizes(targets: Positions | Flags, part: Positions) -> Positions:
    num_classes = targets.shape[1] if targets.ndim == 2 else 1 + int(targets.max())
    return np.bincount(memberships(targets[part])[1], minlength=num_classes)


def _draw(
    targets: Positions | Flags, part: Positions, fraction: float, seed: tuple[int, int]
) -> Positions:
    """Draw clips of `part` to keep their labels: positions in the task, ascending, `(M,)`."""
    clips, classes = memberships(targets[part])
    sizes = _class_sizes(targets, part)
    members = np.split(clips[np.argsort(classes, kind="stable")], np.cumsum(sizes)[:-1])
    num_wanted = np.maximum(np.rint(fraction * sizes), sizes > 0)
    num_kept = np.zeros_like(sizes)
    is_kept = np.zeros(len(part), dtype=np.bool_)
    for label in np.argsort(sizes, kind="stable"):
        for clip in np.random.default_rng((*seed, int(label))).permutation(members[label]):
            if num_kept[label] >= num_wanted[label]:
                break
            if not is_kept[clip]:
                is_kept[clip] = True
                num_kept[targets[part[clip]]] += 1
    return part[is_kept]
