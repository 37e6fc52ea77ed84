import csv
import dataclasses

import numpy as np
import pytest

from evaluate.reports.intervals import percentile_interval
from evaluate.reports.predictions import predictions_path
from evaluate.reports.published import PAPER_CLIPS, PUBLISHED, differs_in
from evaluate.reports.results import open_folder, read_results
from evaluate.reports.scores import read_tested_clips, resample
from evaluate.reports.summary import Score, Summary, SummaryRow, summarize, write_summary
from evaluate.tasks.task import PAPER_TASKS
from tests.evaluate.conftest import ROW, add_run


@pytest.fixture
def out(tmp_path):
    open_folder(tmp_path)
    return tmp_path


def hits(num_right, num_clips=10):
    return np.arange(num_clips) < num_right


def read_summary(out):
    write_summary(out, summarize(out))
    with (out / "summary.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_columns_are_in_the_papers_order(out):
    add_run(out, "r1", {("", 0): hits(7)})
    add_run(out, "r2", {("", 0): hits(7)}, task="us8k")
    with_ends = (*PAPER_TASKS, "birds", "mean")
    bounds = [f"{column}_{end}" for column in with_ends for end in ("low", "high")]
    expected = ["model", "probe", "source", *PAPER_TASKS, "mean", "birds", *bounds]
    assert list(read_summary(out)[0]) == expected
    assert expected[3:9] == ["nsynth", "us8k", "vc1", "voxforge", "spcv2_12", "spcv2"]


def test_published_rows_stand_below_the_measured(out):
    add_run(out, "r1", {("", 0): hits(7)})
    rows = read_summary(out)
    assert [row["source"] for row in rows] == ["measured"] + ["published"] * 6
    last = rows[-1]
    assert last["model"] == "randomized quantization"
    assert [last[task] for task in (*PAPER_TASKS, "mean")] == [
        "74.2", "78.0", "45.7", "92.6", "95.1", "92.1", "79.6",
    ]  # fmt: skip
    assert rows[1]["us8k"] == ""


@pytest.mark.parametrize("model", [name for name, values in PUBLISHED if values[-1] is not None])
def test_published_means_are_those_of_their_scores(model):
    *scores, mean = dict(PUBLISHED)[model]
    assert np.mean(scores) == pytest.approx(mean, abs=0.06)


def test_score_is_the_mean_over_folds_and_seeds(out):
    run = {("1", 0): hits(4), ("2", 0): hits(6), ("1", 1): hits(8), ("2", 1): hits(10)}
    add_run(out, "r1", run, probe="adam")
    (row,) = summarize(out).measured
    score = row.scores["birds"]
    assert score.value == pytest.approx(70)
    (samples,) = resample("birds", [read_tested_clips(out, read_results(out))])
    assert (score.low, score.high) == percentile_interval(samples)


def test_every_fold_counts_alike_whatever_its_size(out):
    add_run(out, "r1", {("1", 0): hits(10), ("2", 0): hits(9, 90)})
    score = summarize(out).measured[0].scores["birds"]
    assert score.value == pytest.approx(55)  # of all clips 19 % are right
    assert score.low < 55 < score.high


def test_newest_run_of_a_seed_counts(out):
    add_run(out, "r1", {("", 0): hits(2), ("", 1): hits(4)})
    add_run(out, "r2", {("", 0): hits(8)})
    (row,) = summarize(out).measured
    assert row.scores["birds"].value == pytest.approx((80 + 40) / 2)


def test_limited_run_has_its_own_row(out):
    add_run(out, "r1", {("", 0): hits(2)})
    add_run(out, "r2", {("", 0): hits(8)}, split="given; limit 50")
    rows = summarize(out).measured
    assert [(row.model, round(row.scores["birds"].value)) for row in rows] == [
        ("owl", 20),
        ("owl (limit 50)", 80),
    ]
    assert summarize(out).notes == ()


def test_killed_run_is_left_out_and_reported(out):
    add_run(out, "r1", {("1", 0): hits(4), ("2", 0): hits(6)}, n_train=18)
    summary = summarize(out)
    assert summary.measured == ()
    assert summary.notes == (
        "not counted: birds: owl, logistic, seed 0: only 20 of 30 clips tested so far; repeat the "
        "call to continue",
    )
    add_run(out, "r1", {("3", 0): hits(5)}, n_train=18)
    assert summarize(out).measured[0].scores["birds"].value == pytest.approx(50)
    assert summarize(out).notes == ()


def test_models_on_other_states_of_a_set_are_reported(out):
    add_run(out, "r1", {("", 0): hits(2)})
    add_run(out, "r2", {("", 0): hits(8)}, model="lark", unit_seconds=2.0)
    (note,) = summarize(out).notes
    assert "birds: not all models were tested on the same clips" in note


def test_mean_needs_all_six_and_has_an_interval(out):
    generator = np.random.default_rng(0)
    of_tasks = generator.random((6, 400)) < np.linspace(0.4, 0.9, 6)[:, None]
    for number, task in enumerate(PAPER_TASKS[:5]):
        add_run(out, f"r{number}", {("", 0): of_tasks[number]}, task=task)
    assert read_summary(out)[0]["mean"] == ""
    add_run(out, "r5", {("", 0): of_tasks[5]}, task=PAPER_TASKS[5])
    mean = summarize(out).measured[0].scores["mean"]
    assert mean.value == pytest.approx(100 * of_tasks.mean())
    # Independent tasks: the variances add up.
    shares = of_tasks.mean(axis=1)
    deviation = 100 * np.sqrt(np.sum(shares * (1 - shares)) / 400) / 6
    # As for one task, the ends are sure to 0.18 standard deviations.
    assert mean.low == pytest.approx(mean.value - 1.96 * deviation, abs=0.18 * deviation)
    assert mean.high == pytest.approx(mean.value + 1.96 * deviation, abs=0.18 * deviation)
    assert read_summary(out)[0]["mean_low"] == str(round(mean.low, 2))


def test_score_without_its_predictions_has_no_interval_and_says_so(out):
    add_run(out, "r1", {("", 0): hits(7)})
    predictions_path(out, "r1").unlink()
    summary = summarize(out)
    assert summary.rows[0].scores["birds"].value == pytest.approx(70)
    assert summary.rows[0].scores["birds"].low is None
    assert any("r1.csv" in note for note in summary.notes)
    assert read_summary(out)[0]["birds_low"] == ""


@pytest.mark.parametrize(
    ("num_others", "is_comparable"),
    [(8_722, True), (8_650, True), (8_000, False), (8_900, False), (50, False)],
)
def test_set_of_another_size_is_not_compared_with_published_scores(out, num_others, is_comparable):
    folds = {(fold, 0): hits(7) for fold in ("1", "2")}
    add_run(out, "r1", folds, task="us8k", probe="evar")
    row = dataclasses.replace(read_results(out)[0], n_train=num_others - 2)
    score = SummaryRow(
        "owl", "evar", "measured", {"us8k": Score(1, is_comparable=not differs_in(row))}
    )
    assert (differs_in(row) == "") == is_comparable
    assert is_comparable or f"{num_others + 10:,} of 8,732" in differs_in(row)
    published = summarize(out).rows[1:]
    rivals = Summary(PAPER_TASKS, (score, *published)).rivals(score, "us8k")
    assert [row.model for row in rivals] == ["BYOL-A v2, 3072-d"] * is_comparable


# By task: its published split, and what is not it.
SPLITS = {
    "nsynth": ("publisher's", "stratified 70/15/15, seed 0"),
    "us8k": ("leave one fold out", "publisher's"),
    "vc1": ("publisher's", "speaker-disjoint 70/15/15, seed 0"),
    "voxforge": ("given by voxforge.csv, by archive", "given by split.csv"),
    "spcv2_12": ("publisher's lists and test archive", "publisher's lists"),
    "spcv2": ("publisher's lists", "publisher's"),
}


@pytest.mark.parametrize("task", SPLITS)
def test_another_split_is_not_compared_with_published_scores(out, task):
    num_others = PAPER_CLIPS[task] - 10
    own, other = SPLITS[task]
    for run_id, split in (("own", own), ("other", other)):
        changes = {"task": task, "split": split, "probe": "byol_a", "n_train": num_others - 2}
        add_run(out, run_id, {("", 0): hits(7)}, model=run_id, **changes)
    summary = summarize(out)
    assert [row.scores[task].is_comparable for row in summary.measured] == [True, False]
    first, second = summary.measured
    rivals = [row.model for row in summary.rivals(first, task)]
    assert {"randomized quantization", "BYOL-A, 512-d"} <= set(rivals)
    assert not {"BYOL-A v2, 3072-d", "COLA", "TRILL"} & set(rivals)
    assert summary.rivals(second, task) == ()
    (note,) = [each for each in summary.notes if other in each]
    assert task in note


@pytest.mark.parametrize(
    ("task", "fold", "num_tested", "is_published"),
    [("us8k", "", 10, False), ("spcv2", "", 11_005, True), ("spcv2", "", 22_010, False)],
)
def test_a_csv_of_a_sets_name_has_its_split_where_it_tests_as_many(
    task, fold, num_tested, is_published
):
    row = dataclasses.replace(
        ROW, task=task, fold=fold, n_test=num_tested, n_train=PAPER_CLIPS[task] - num_tested - 2
    )
    assert (differs_in(row) == "") == is_published
    assert not differs_in(dataclasses.replace(row, task="birds"))


def test_another_probe_is_not_ranked_and_says_so(out):
    changes = {"task": "spcv2", "split": "publisher's lists", "n_train": 105_817}
    for probe in ("logistic", "adam", "evar"):
        add_run(out, probe, {("", 0): hits(7)}, probe=probe, **changes)
    summary = summarize(out)
    rivals = {
        row.probe: [r.model for r in summary.rivals(row, "spcv2")] for row in summary.measured
    }
    assert rivals == {"logistic": [], "adam": [], "evar": ["BYOL-A v2, 3072-d"]}
    (note,) = summary.notes
    assert "spcv2 (logistic), spcv2 (adam)" in note


def test_clips_of_the_papers_sets_are_those_of_the_publishers():
    """Sums of the parts that the publishers give."""
    assert PAPER_CLIPS == {
        "nsynth": 289_205 + 12_678 + 4_096,
        "us8k": 8_732,
        "vc1": 138_361 + 6_904 + 8_251,
        "voxforge": 176_438,
        "spcv2_12": 85_511 + 10_102 + 4_890,
        "spcv2": 84_843 + 9_981 + 11_005,
    }


def test_versions_and_device_are_reported(out):
    add_run(out, "r1", {("1", 0): hits(4), ("2", 0): hits(6)}, n_skipped=3)
    add_run(out, "r2", {("", 0): hits(4)}, task="frogs", device="cuda (H100)")
    assert summarize(out).origins == (
        "birds: 20 clips (2 folds), 2 classes, 1 s, split: given, 3 skipped",
        "frogs: 20 clips (8 train, 2 valid, 10 test), 2 classes, 1 s, split: given",
        "byola_rq 0.1.0, torch 2.13.0, scikit-learn 1.9.1, cpu",
        "byola_rq 0.1.0, torch 2.13.0, scikit-learn 1.9.1, cuda (H100)",
    )


def test_multilabel_task_has_its_metric_in_the_title(out):
    add_run(out, "r1", {("", 0): hits(7)}, metric="mAP")
    summary = summarize(out)
    assert [summary.title(column) for column in summary.columns] == ["birds (mAP)"]


def test_summary_of_the_same_results_is_the_same_file(out):
    add_run(out, "r1", {("", 0): hits(7)})
    write_summary(out, summarize(out))
    first = (out / "summary.csv").read_bytes()
    write_summary(out, summarize(out))
    assert (out / "summary.csv").read_bytes() == first


def test_empty_folder_has_an_empty_summary(out):
    summary = summarize(out)
    assert isinstance(summary, Summary)
    assert summary.measured == summary.published == summary.columns == ()
