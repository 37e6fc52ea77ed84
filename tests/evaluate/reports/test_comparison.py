import dataclasses

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import average_precision_score

from evaluate.reports.comparison import Comparison, compare, compare_clips, print_comparisons
from evaluate.reports.predictions import PredictionRow
from evaluate.reports.records import ReportError
from evaluate.reports.results import append_fold, open_folder
from evaluate.reports.scores import TestedClips, resample
from tests.evaluate.conftest import ROW, add_run
from tests.refusal import refused

NAMES = {"model": "lark", "weights_sha256": "cd" * 32}  # of the second model


@pytest.fixture
def out(tmp_path):
    open_folder(tmp_path)
    return tmp_path


def make_clips(correct, folds=()):
    names = tuple((str(f), str(n)) for n, f in enumerate(folds or [""] * len(correct)))
    labels = ("a",) * len(correct)
    return TestedClips(names, labels, np.array(correct, float), (), np.empty((0, len(correct), 0)))


def pairs(num_first_only, num_second_only, num_clips):
    """Correctness of two models: how often only one of them is right, out of so many clips."""
    index = np.arange(num_clips)
    first = index < num_first_only
    second = (num_first_only <= index) & (index < num_first_only + num_second_only)
    return make_clips(first), make_clips(second)


@pytest.mark.parametrize(
    ("only_first", "only_second", "num_clips"),
    [(120, 80, 1000), (30, 40, 300), (900, 700, 9000), (60, 20, 400)],
)
def test_interval_and_p_are_those_of_the_normal_approximation(only_first, only_second, num_clips):
    """McNemar's setting: the variance of a difference of paired shares."""
    row, _ = compare_clips(("knn", "task", "x"), *pairs(only_first, only_second, num_clips))
    difference = (only_first - only_second) / num_clips
    assert row.difference == pytest.approx(100 * difference)
    error = np.sqrt((only_first + only_second) / num_clips - difference**2) / np.sqrt(num_clips)
    expected = 100 * (difference + np.array([-1.96, 1.96]) * error)
    # The ends are sure to 0.18 standard deviations (tests of intervals) and a clip.
    tolerance = 0.18 * 100 * error + 100 / num_clips
    np.testing.assert_allclose([row.low, row.high], expected, atol=tolerance)
    # Of p, 3 standard errors of a share of 2,000 draws, twice; and draws that end at zero count on
    # both sides, half of them too many.
    p = 2 * norm.sf(abs(difference) / error)
    spread = 6 * np.sqrt(p / 2 * (1 - p / 2) / 2000)
    at_zero = norm.pdf(difference / error) / (error * num_clips)
    assert row.p == pytest.approx(p, abs=spread + at_zero + 0.001)
    assert row.is_significant == (p < 0.05)


def test_equal_models_differ_significantly_one_time_in_twenty():
    """Binomial error of 1,000 pairs of models: 0.7 points."""
    generator = np.random.default_rng(0)
    num_significant = 0
    for number in range(1000):
        only_first, only_second, _ = generator.multinomial(400, [0.1, 0.1, 0.8])
        row, _ = compare_clips(("knn", "task", str(number)), *pairs(only_first, only_second, 400))
        num_significant += row.is_significant
        assert row.is_significant == (row.low > 0 or row.high < 0)
    assert 0.03 <= num_significant / 1000 <= 0.07


def test_identical_models_differ_by_exactly_nothing(out):
    generator = np.random.default_rng(1)
    folds = {("1", 0): generator.random(70) < 0.7, ("2", 0): generator.random(30) < 0.7}
    add_run(out, "r1", folds)
    add_run(out, "r2", folds, **NAMES)
    (row,) = compare(out, "owl", "lark").rows
    assert (row.difference, row.low, row.high, row.p) == (0, 0, 0, 1)
    assert row.describe("owl", "lark").startswith("birds: no difference (95 % 0.0 to 0.0;")


def test_draws_that_tie_count_as_ties():
    """Thirds of three seeds, in folds of 6 and 9 clips, have sums that are not exact."""
    generator = np.random.default_rng(4)
    folds = [*"111111", *"222222222"]
    first, second = (make_clips(hits, folds) for hits in generator.integers(0, 4, (2, 15)) / 3)
    samples = resample("x", [first, second])
    is_nearly_zero = abs(samples[0] - samples[1]) < 1e-9
    assert np.any(samples[0][is_nearly_zero] != samples[1][is_nearly_zero])
    _, differences = compare_clips(("knn", "task", "x"), first, second)
    np.testing.assert_array_equal(differences == 0, is_nearly_zero)


def test_only_clips_that_both_have_count(out):
    add_run(out, "r1", {("", 0): [1] * 8 + [0] * 2})
    row = dataclasses.replace(ROW, run_id="r2", score=100.0, n_test=10, **NAMES)
    names = [f"-{n}.wav" for n in range(5, 10)] + [f"other-{n}.wav" for n in range(5)]
    said = [PredictionRow(name, "a", "a", "", 0) for name in names]
    append_fold(out, [row], said)
    (row,) = compare(out, "owl", "lark").rows
    assert (row.num_clips, row.first, row.second) == (5, 60, 100)


def test_seeds_count_with_their_mean(out):
    add_run(out, "r1", {("", 0): [1] * 10, ("", 1): [0] * 10})
    add_run(out, "r2", {("", 0): [1] * 5 + [0] * 5}, **NAMES)
    (row,) = compare(out, "owl", "lark").rows
    assert (row.first, row.second, row.difference) == (50, 50, 0)
    assert row.low < 0 < row.high  # half right everywhere is not right on one half


def test_mean_is_of_the_tasks_in_common(out):
    generator = np.random.default_rng(2)
    for task, chances in (("a", (0.8, 0.7)), ("b", (0.6, 0.7)), ("c", (0.9, 0.6))):
        for run, chance in zip("12", chances, strict=True):
            hits = {("", 0): generator.random(500) < chance}
            add_run(out, task + run, hits, task=task, **(NAMES if run == "2" else {}))
    add_run(out, "d", {("", 0): [1] * 10}, task="d")
    comparisons = compare(out, "owl", "lark")
    *tasks, mean = comparisons.rows
    assert [row.task for row in tasks] == ["a", "b", "c"]
    assert mean.task == "mean of 3 tasks"
    assert mean.difference == pytest.approx(np.mean([row.difference for row in tasks]))
    widths = [row.high - row.low for row in tasks]
    # Independent tasks: variances add up. Each width is sure to 0.18 / 1.96 = 9 % at most.
    assert mean.high - mean.low == pytest.approx(np.sqrt(np.sum(np.square(widths))) / 3, rel=0.15)
    assert comparisons.notes == ("only owl was tested on d, logistic, norm task",)


def test_multilabel_models_are_compared_by_map(out):
    generator = np.random.default_rng(3)
    targets = generator.random((300, 2)) < 0.3
    noise = generator.normal(size=targets.shape)
    expected = []
    for run_id, strength, names in (("r1", 2.0, {}), ("r2", 0.5, NAMES)):
        scores = noise + strength * targets
        expected.append(100 * average_precision_score(targets, scores))
        label = [",".join(np.array(["x", "y"])[has]) for has in targets]
        predictions = [
            PredictionRow(f"{n}.wav", label[n], "x", "", 0, tuple(scores[n].tolist()))
            for n in range(300)
        ]
        row = dataclasses.replace(ROW, run_id=run_id, metric="mAP", n_test=300, **names)
        append_fold(out, [row], predictions, ("x", "y"))
    (row,) = compare(out, "owl", "lark").rows
    assert row.is_significant
    assert (row.first, row.second) == pytest.approx(expected, abs=0.01)  # of five digits


@pytest.mark.parametrize(
    "change", [{"unit_seconds": 2.0}, {"split": "given; limit 5"}, {"n_train": 9}]
)
def test_other_state_of_the_set_is_not_compared(out, change):
    add_run(out, "r1", {("", 0): [1] * 10})
    add_run(out, "r2", {("", 0): [0] * 10}, **NAMES, **change)
    with refused(ReportError, "missing", out) as caught:
        compare(out, "owl", "lark" + (" (limit 5)" if "split" in change else ""))
    (note,) = caught.value.value
    assert note.startswith("not compared: birds, logistic, norm task: ")
    add_run(out, "r3", {("", 0): [1] * 10}, task="frogs")
    add_run(out, "r4", {("", 0): [1] * 10}, task="frogs", **NAMES)
    if "split" not in change:
        comparisons = compare(out, "owl", "lark")
        assert [row.task for row in comparisons.rows] == ["frogs"]
        assert comparisons.notes == (note,)


def test_newest_state_in_common_is_compared(out):
    for number, unit_seconds in enumerate((1.0, 2.0, 4.0)):
        for run, names in (("1", {}), ("2", NAMES))[: 1 if unit_seconds == 4 else 2]:
            hits = {("", 0): [1] * (number + 5) + [0] * (5 - number)}
            add_run(out, f"{number}{run}", hits, unit_seconds=unit_seconds, **names)
    (row,) = compare(out, "owl", "lark").rows
    assert (row.first, row.second) == (60, 60)


@pytest.mark.parametrize("change", [{"probe": "adam"}, {"norm": "checkpoint"}])
def test_other_probe_or_norm_is_not_compared(out, change):
    add_run(out, "r1", {("", 0): [1] * 10})
    add_run(out, "r2", {("", 0): [0] * 10}, **NAMES, **change)
    with refused(ReportError, "missing", out) as caught:
        compare(out, "owl", "lark")
    assert [note.split(" was ")[0] for note in caught.value.value] == ["only owl", "only lark"]
    assert "birds, logistic, norm task" in caught.value.value[0]


def test_probes_are_compared_each(out):
    for number, probe in enumerate(("logistic", "adam")):
        add_run(out, f"{number}1", {("", 0): [1] * 10}, probe=probe)
        add_run(out, f"{number}2", {("", 0): [0] * 10}, probe=probe, **NAMES)
    assert [row.probe for row in compare(out, "owl", "lark").rows] == ["logistic", "adam"]


def test_unknown_name_lists_those_there_are(out):
    with refused(ReportError, "empty", out):
        compare(out, "owl", "lark")
    add_run(out, "r1", {("", 0): [1] * 10})
    add_run(out, "r2", {("", 0): [0] * 10}, **NAMES)
    with refused(ReportError, "unknown", out, value="l[a]rk") as caught:
        compare(out, "owl", "l[a]rk")
    assert "owl, lark" in str(caught.value)


def test_name_of_two_models_is_refused_and_their_labels_are_taken(out):
    add_run(out, "r1", {("", 0): [1] * 10})
    add_run(out, "r2", {("", 0): [0] * 10}, weights_sha256="cd" * 32)
    labels = ["owl (abababab)", "owl (cdcdcdcd)"]
    with refused(ReportError, "twice", out, value=labels) as caught:
        compare(out, "owl", "owl (cdcdcdcd)")
    assert ", ".join(labels) in str(caught.value)
    (row,) = compare(out, "owl (abababab)", "owl (cdcdcdcd)").rows
    assert (row.first, row.second) == (100, 0)


def test_missing_predictions_are_reported(out):
    add_run(out, "r1", {("", 0): [1] * 10})
    add_run(out, "r2", {("", 0): [0] * 10}, **NAMES)
    path = out / "predictions" / "r2.csv"
    path.unlink()
    with refused(ReportError, "missing", out) as caught:
        compare(out, "owl", "lark")
    (note,) = caught.value.value
    assert "birds" in note
    assert str(path) in note


ROW_OF_US8K = Comparison("us8k", "adam", "task", 79.1, 77.0, 0.4, 3.8, 0.012, 8732)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {},
            "us8k: A is 2.1 points better (95 % 0.4 to 3.8), significant "
            "(79.1 against 77.0, p = 0.012, 8,732 clips)",
        ),
        (
            {"first": 70.0, "low": -9.0, "high": -5.0, "p": 0.0009},
            "us8k: B is 7.0 points better (95 % 5.0 to 9.0), significant "
            "(77.0 against 70.0, p < 0.001, 8,732 clips)",
        ),
        (
            {"first": 76.0, "low": -2.5, "high": 0.54, "p": 0.2},
            "us8k: no significant difference (B +1.0 points, 95 % -0.5 to 2.5; "
            "77.0 against 76.0, p = 0.200, 8,732 clips)",
        ),
    ],
)
def test_lines(changes, line):
    assert dataclasses.replace(ROW_OF_US8K, **changes).describe("A", "B") == line


def test_printed_lines(out, capsys):
    for number, task in enumerate(("a", "b")):
        add_run(out, f"{number}1", {("", 0): [1] * 10}, task=task)
        add_run(out, f"{number}2", {("", 0): [0] * 10}, task=task, **NAMES)
    print_comparisons(compare(out, "owl", "lark"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "owl against lark, probe logistic, norm task:"
    assert lines[1].startswith("  a: owl is 100.0 points better")
    assert lines[3].startswith("  mean of 2 tasks: owl is 100.0 points better")
    assert lines[4].startswith("Paired bootstrap, 2000 draws")
