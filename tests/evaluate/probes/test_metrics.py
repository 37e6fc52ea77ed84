import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluate.probes.metrics import (
    METRICS,
    accuracy,
    class_positions,
    mean_average_precision,
    metric_for,
)


def test_accuracy_counts_the_highest_scores():
    scores = np.array([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2], [0.0, 0.1, 0.9], [0.4, 0.5, 0.1]])
    assert accuracy(np.array([1, 0, 2, 0]), scores) == 0.75


def test_accuracy_takes_the_first_of_equal_scores():
    scores = np.array([[0.5, 0.5], [0.5, 0.5]])
    assert accuracy(np.array([0, 1]), scores) == 0.5
    assert accuracy(np.array([0, 0]), scores) == 1


def test_class_without_training_clips_is_never_predicted():
    scores = np.array([[-np.inf, -3.0], [-np.inf, -5.0]])
    assert accuracy(np.array([0, 1]), scores) == 0.5
    assert accuracy(np.array([-1, 1]), scores) == 0.5


@st.composite
def rankings(draw):
    """Targets and scores of few values, so that there are ties; a positive at least."""
    num_clips, num_classes = draw(st.integers(1, 25)), draw(st.integers(1, 4))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    targets = generator.random((num_clips, num_classes)) < draw(st.floats(0.05, 0.95))
    targets[draw(st.integers(0, num_clips - 1)), draw(st.integers(0, num_classes - 1))] = True
    scores = generator.integers(0, draw(st.integers(1, 30)), size=targets.shape).astype(np.float32)
    return targets, scores


def average_precision(target, scores):
    """The equation: the sum over thresholds n of (recall_n - recall_{n-1}) precision_n."""
    total, last_recall = 0.0, 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        taken = scores >= threshold
        recall = (target & taken).sum() / target.sum()
        total += (recall - last_recall) * (target & taken).sum() / taken.sum()
        last_recall = recall
    return total


@given(rankings())
def test_mean_average_precision_is_the_equation(ranking):
    targets, scores = ranking
    columns = [c for c in range(targets.shape[1]) if targets[:, c].any()]
    expected = np.mean([average_precision(targets[:, c], scores[:, c]) for c in columns])
    assert mean_average_precision(targets, scores) == pytest.approx(expected, abs=1e-12)


@given(rankings(), st.integers(0, 2**32))
def test_only_the_order_of_the_scores_counts(ranking, seed):
    targets, scores = ranking
    expected = mean_average_precision(targets, scores)
    order = np.random.default_rng(seed).permutation(len(targets))
    assert mean_average_precision(targets[order], scores[order]) == expected
    assert mean_average_precision(targets, np.exp(scores.astype(float))) == expected


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([4.0, 3, 2, 1], (1 / 1 + 2 / 3) / 2),
        ([1.0, 2, 3, 4], (1 / 2 + 2 / 4) / 2),
        ([2.0, 2, 2, 1], 2 / 3),  # down to the tie's end
        ([np.inf, 2, -np.inf, 1], (1 / 1 + 2 / 4) / 2),
        ([-np.inf] * 4, 2 / 4),
        ([0.0] * 4, 2 / 4),
    ],
)
def test_average_precision_by_hand(scores, expected):
    target = np.array([[True], [False], [True], [False]])
    scores = np.array(scores, np.float32)[:, None]
    assert mean_average_precision(target, scores) == pytest.approx(expected, abs=1e-12)


def test_class_that_no_clip_has_is_left_out():
    targets = np.array([[True, False], [False, False], [True, False]])
    scores = np.array([[1.0, 5], [2, 6], [3, 7]])
    assert mean_average_precision(targets, scores) == mean_average_precision(
        targets[:, :1], scores[:, :1]
    )


def test_metric_goes_with_the_labels():
    assert metric_for(np.array([0, 1])) == "accuracy"
    assert metric_for(np.array([[True, False]])) == "mAP"
    assert {"accuracy": accuracy, "mAP": mean_average_precision} == METRICS


def test_class_positions():
    classes = np.array(["bark", "chirp", "meow"])
    assert class_positions(np.array(["meow", "bark"]), classes).tolist() == [2, 0]
    assert class_positions(np.array(["aha", "cat", "zebra"]), classes).tolist() == [-1, -1, -1]


@pytest.mark.parametrize(
    ("metric", "labels", "scores", "told"),
    [
        ("accuracy", np.zeros(0, int), np.zeros((0, 2)), "^scores .* 0 rows for 0"),
        ("accuracy", np.zeros(2, int), np.zeros((3, 2)), "^scores .* 3 rows for 2"),
        ("accuracy", np.zeros(2, int), np.array([[1, 2], [np.nan, 2]]), "^scores .* nan in row 1$"),
        ("mAP", np.ones((2, 3), bool), np.zeros((2, 2)), r"^scores .* \(2, 3\); got \(2, 2\)"),
        ("mAP", np.ones((2, 1), bool), np.array([[0], [np.nan]]), "^scores .* nan in row 1$"),
        ("mAP", np.zeros((2, 2), bool), np.zeros((2, 2)), "^targets "),
    ],
)
def test_scores_that_cannot_be_measured(metric, labels, scores, told):
    with pytest.raises(ValueError, match=told):
        METRICS[metric](labels, scores)
