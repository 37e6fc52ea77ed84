"""Metrics of scores: accuracy, or mean average precision if clips have several classes."""

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score

Labels = npt.NDArray[np.generic]  # (N,) class indices, or multi-label targets, bool (N, C)
Scores = npt.NDArray[np.floating]  # (N, C), higher is more likely


def accuracy(labels: Labels, scores: Scores) -> float:
    """Return the share of clips whose highest score is their label's; of ties the first counts.

    Args:
        labels: Class indices, `(N,)`; an index without a column, such as -1, is never predicted.
        scores: Scores, `(N, C)`; -inf is allowed.

    Raises:
        ValueError: If there is no clip, the lengths differ, or a score is not a number.
    """
    _check(labels, scores)
    return float(np.mean(scores.argmax(axis=1) == labels))


def mean_average_precision(targets: Labels, scores: Scores) -> float:
    """Return the mean of the average precisions of all classes that have a clip.

    Clips of equal score are retrieved together, so their order does not count: a constant score
    gets the share of the clips that have the class.

    Args:
        targets: Classes of each clip, bool `(N, C)`.
        scores: Scores, `(N, C)`; only their order within a class counts.

    Raises:
        ValueError: As for `accuracy`, and if no clip has a class.
    """
    _check(targets, scores)
    present = targets.any(axis=0)
    if not present.any():
        raise ValueError("targets must have a clip with a class; got none. No precision is defined")
    # scikit-learn rejects infinity, such as the -inf of a class without training clips.
    finite = np.nan_to_num(scores[:, present])
    return float(average_precision_score(targets[:, present], finite))


# Metrics by their names in results.csv: (labels, scores) -> a fraction.
METRICS = {"accuracy": accuracy, "mAP": mean_average_precision}


def metric_for(labels: Labels) -> str:
    """Name the metric of labels: accuracy for `(N,)`, mAP for `(N, C)`."""
    return "mAP" if labels.ndim == 2 else "accuracy"


def class_positions(labels: Labels, classes: Labels) -> npt.NDArray[np.int64]:
    """Return the position of every label in the sorted `classes`, `(N,)`; -1 if not found."""
    nearest = np.searchsorted(classes, labels).clip(max=len(classes) - 1)
    return np.where(classes[nearest] == labels, nearest, -1)


def _check(labels: Labels, scores: Scores) -> None:
    if not len(labels) or len(labels) != len(scores):
        raise ValueError(
            f"scores must have a row for each of at least 1 label; got {len(scores)} rows for "
            f"{len(labels)} labels"
        )
    if labels.ndim == 2 and labels.shape != scores.shape:
        raise ValueError(f"scores must be of the targets' {labels.shape}; got {scores.shape}")
    is_nan = np.isnan(scores).any(axis=1)
    if is_nan.any():
        raise ValueError(f"scores must be numbers; got nan in row {is_nan.argmax()}")
