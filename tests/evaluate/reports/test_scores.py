import dataclasses

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from evaluate.probes.metrics import mean_average_precision
from evaluate.reports.predictions import PredictionRow, predictions_path
from evaluate.reports.records import ReportError
from evaluate.reports.results import append_fold, open_folder, read_results
from evaluate.reports.scores import (
    list_entries,
    read_tested_clips,
    resample,
    rows_by_state,
    unfinished_runs,
)
from tests.evaluate.conftest import ROW, add_run
from tests.refusal import refused


@pytest.fixture
def out(tmp_path):
    open_folder(tmp_path)
    return tmp_path


def rows_of(run_id, folds, seed=0, **changes):
    """Rows of a run on folds of 10 of 30 clips."""
    changes = {"n_train": 18, "n_valid": 2, "n_test": 10} | changes
    return [
        dataclasses.replace(ROW, run_id=run_id, seed=seed, fold=fold, **changes) for fold in folds
    ]


def newest(rows):
    return [] if not (states := rows_by_state(rows)) else list(states.values())[-1]


def test_no_rows_are_no_state():
    assert rows_by_state([]) == {}
    assert unfinished_runs([]) == []


def test_run_counts_once_every_clip_was_tested():
    rows = rows_of("r", "123")
    assert newest(rows[:2]) == []
    assert unfinished_runs(rows[:2]) == [rows[:2]]
    assert newest(rows) == rows
    assert unfinished_runs(rows) == []


def test_unfinished_run_leaves_the_earlier_one_counting():
    rows = rows_of("r1", "123") + rows_of("r2", "12", unit_seconds=2.0)
    assert newest(rows) == rows[:3]
    assert unfinished_runs(rows) == [rows[3:]]
    assert unfinished_runs(rows + rows_of("r3", "123")) == []


def test_run_that_is_there_twice_counts_once():
    rows = rows_of("r", "123")
    assert newest([*rows, rows[1]]) == rows


def test_seeds_count_together_each_by_its_last_run():
    old, new = rows_of("r1", "123"), rows_of("r2", "123")
    other = rows_of("r3", "123", seed=1)
    assert newest(old + other + new) == new + other


@pytest.mark.parametrize(
    "change",
    [
        {"unit_seconds": 2.0},
        {"n_classes": 3},
        {"split": "other"},
        {"split": "given; limit 5"},
        {"metric": "mAP"},
        {"n_train": 28, "folds": "1234"},
        {"folds": "abc"},
    ],
)
def test_states_of_a_set_are_kept_apart(change):
    change = dict(change)
    old = rows_of("r1", change.pop("folds", "123"), seed=1, **change)
    new = rows_of("r2", "123")
    assert list(rows_by_state(old + new).values()) == [old, new]


def test_entries_are_told_apart():
    rows = [
        ROW,
        dataclasses.replace(ROW, norm="checkpoint"),
        dataclasses.replace(ROW, weights_sha256="cd" * 32, embedding_dim=512),
        dataclasses.replace(ROW, model="lark"),
        dataclasses.replace(ROW, probe="adam"),
        dataclasses.replace(ROW, model="lark", split="given; limit 50"),
    ]
    assert [(entry.label, entry.probe) for entry in list_entries(rows)] == [
        ("owl (16-d, abababab, norm task)", "logistic"),
        ("owl (16-d, abababab, norm checkpoint)", "logistic"),
        ("owl (512-d, cdcdcdcd, norm task)", "logistic"),
        ("lark", "logistic"),
        ("owl", "adam"),
        ("lark (limit 50)", "logistic"),
    ]


def test_correctness_is_the_mean_over_seeds(out):
    add_run(out, "r", {("1", 0): [1, 1, 0], ("2", 0): [0], ("1", 1): [1, 0, 0], ("2", 1): [1]})
    tested = read_tested_clips(out, read_results(out))
    assert tested.names == (("1", "1-0.wav"), ("1", "1-1.wav"), ("1", "1-2.wav"), ("2", "2-0.wav"))
    np.testing.assert_array_equal(tested.correct, [1, 0.5, 0, 0.5])
    assert tested.score == pytest.approx(50)  # the mean over folds, not over clips
    some = tested.take([3, 0])
    assert some.names == (("2", "2-0.wav"), ("1", "1-0.wav"))
    assert some.score == pytest.approx(75)


def test_only_predictions_of_the_rows_count(out):
    add_run(out, "r", {("1", 0): [1, 1], ("2", 0): [0, 0]})
    rows = [row for row in read_results(out) if row.fold == "1"]
    assert read_tested_clips(out, rows).score == 100


def test_missing_predictions_are_reported(out):
    add_run(out, "r", {("", 0): [1, 1, 0]})
    path = predictions_path(out, "r")
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-2]))
    with refused(ReportError, "missing", path, value=2):
        read_tested_clips(out, read_results(out))


CLASSES = ("rain", "sea", "wind")


def add_multilabel_run(out, run_id, targets, scores, seeds=(0,), folds=("",), **changes):
    """Append a run of the clips in `targets` `(N, 3)`, dealt to the folds in turn."""
    num_clips = len(targets)
    for fold_number, fold in enumerate(folds):
        clips = range(fold_number, num_clips, len(folds))
        for seed in seeds:
            said = scores[seed]
            row = dataclasses.replace(
                ROW, run_id=run_id, fold=fold, seed=seed, metric="mAP", task="storm", n_classes=3,
                score=100 * average_precision_score(targets[clips], said[clips]),
                n_train=num_clips - len(clips), n_valid=0, n_test=len(clips), **changes,
            )  # fmt: skip
            predictions = [
                PredictionRow(
                    f"{clip}.wav", joined(targets[clip]), joined(said[clip] > 0.5), fold, seed,
                    tuple(said[clip].tolist()),
                )
                for clip in clips
            ]  # fmt: skip
            append_fold(out, [row], predictions, CLASSES)


def joined(has):
    return ",".join(name for name, is_there in zip(CLASSES, has, strict=True) if is_there)


@pytest.mark.parametrize("folds", [("",), ("1", "2")])
def test_multilabel_clips_score_as_the_rows_say(out, folds):
    generator = np.random.default_rng(0)
    targets = generator.random((80, 3)) < 0.4
    targets[:4] = [True, False, False]  # in both folds
    scores = np.round(generator.random((2, 80, 3)) + 0.4 * targets, 4)
    add_multilabel_run(out, "r", targets, scores, seeds=(0, 1), folds=folds)
    rows = read_results(out)
    tested = read_tested_clips(out, rows)
    assert tested.classes == CLASSES
    assert tested.scores.shape == (2, 80, 3)
    order = [int(name.removesuffix(".wav")) for _, name in tested.names]
    np.testing.assert_array_equal(tested.targets, targets[order])
    assert tested.score == pytest.approx(np.mean([row.score for row in rows]), abs=1e-3)
    (samples,) = resample("storm", [tested])
    assert samples.mean() == pytest.approx(tested.score, abs=0.01)
    by_fold = [range(number, 80, len(folds)) for number in range(len(folds))]
    scores_drawn = [
        np.mean([
            mean_average_precision(targets[clips], of_seed[clips])
            for clips in (generator.choice(fold, len(fold)) for fold in by_fold)
            for of_seed in scores
        ])
        for _ in range(200)
    ]  # fmt: skip
    # Of so few draws the deviation is sure to 1 / sqrt(2 x 200) = 5 %; 3 of those.
    assert samples.std() == pytest.approx(100 * np.std(scores_drawn), rel=0.15)


def test_seeds_on_other_clips_meet_on_those_in_common(out):
    targets = np.tile(np.eye(3, dtype=bool), (4, 1))
    scores = np.random.default_rng(1).random((2, 12, 3))
    add_multilabel_run(out, "r1", targets, scores)
    add_multilabel_run(out, "r2", targets[:9], scores, seeds=(1,))
    tested = read_tested_clips(out, read_results(out))
    assert tested.scores.shape == (2, 9, 3)


def test_draws_are_paired_within_a_task_and_independent_between_tasks(out):
    generator = np.random.default_rng(2)
    add_run(out, "r", {("", 0): generator.random(300) < 0.7})
    tested = read_tested_clips(out, read_results(out))
    first, second = resample("birds", [tested, tested])
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, resample("birds", [tested])[0])
    (other,) = resample("frogs", [tested])
    assert abs(np.corrcoef(first, other)[0, 1]) < 0.1  # its standard error is 0.022
