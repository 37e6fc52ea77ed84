import csv
import dataclasses

import numpy as np
import pytest

from evaluate.intervals import bootstrap_interval
from evaluate.report import PUBLISHED, Summary, newest_rows, summarize, write_summary
from evaluate.results import PredictionRow, append_run, open_folder, predictions_path
from evaluate.table import print_table
from evaluate.tasks import PAPER_TASKS
from tests.evaluate.conftest import ROW


@pytest.fixture
def out(tmp_path):
    open_folder(tmp_path)
    return tmp_path


def add_run(out, run_id, hits, *, sizes=None, **changes):
    """Append a run: `hits` by (fold, seed), of 10 clips or `sizes` by fold."""
    rows, predictions = [], []
    for (fold, seed), num_right in hits.items():
        size = (sizes or {}).get(fold, 10)
        values = {"run_id": run_id, "fold": fold, "seed": seed, "score": 100 * num_right / size}
        rows.append(dataclasses.replace(ROW, **values, **changes))
        predictions += [
            PredictionRow(f"{fold}-{n}.wav", "a", "a" if n < num_right else "b", fold, seed)
            for n in range(size)
        ]
    append_run(out, rows, predictions)


def measured(out):
    return [row for row in summarize(out).rows if row.source == "measured"]


def read_summary(out):
    write_summary(out, summarize(out))
    with (out / "summary.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_columns_are_in_the_papers_order(out):
    add_run(out, "r1", {("", 0): 7})
    add_run(out, "r2", {("", 0): 7}, task="us8k")
    bounds = [f"{task}_{end}" for task in (*PAPER_TASKS, "birds") for end in ("low", "high")]
    expected = ["model", "probe", "source", *PAPER_TASKS, "mean", "birds", *bounds]
    assert list(read_summary(out)[0]) == expected
    assert expected[3:9] == ["nsynth", "us8k", "vc1", "voxforge", "spcv2_12", "spcv2"]


def test_published_rows_stand_below_the_measured(out):
    add_run(out, "r1", {("", 0): 7})
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
    hits = {("1", 0): 4, ("2", 0): 6, ("1", 1): 8, ("2", 1): 10}
    add_run(out, "r1", hits, probe="adam")
    (row,) = measured(out)
    score = row.scores["birds"]
    assert score.value == pytest.approx(70)
    by_seed = {(fold, seed): np.arange(10) < hit for (fold, seed), hit in hits.items()}
    correct = np.concatenate([(by_seed[f, 0].astype(float) + by_seed[f, 1]) / 2 for f in "12"])
    assert (score.low, score.high) == bootstrap_interval(correct, np.full(20, 0.1))
    assert score.low < 70 < score.high


def test_every_fold_counts_alike_whatever_its_size(out):
    add_run(out, "r1", {("1", 0): 10, ("2", 0): 9}, sizes={"1": 10, "2": 90})
    score = measured(out)[0].scores["birds"]
    assert score.value == pytest.approx(55)
    correct = np.repeat([1.0, 1.0, 0.0], [10, 9, 81])
    weights = np.repeat([1 / 10, 1 / 90], [10, 90])
    assert (score.low, score.high) == pytest.approx(bootstrap_interval(correct, weights))
    assert score.low < 55 < score.high


def test_newest_run_of_a_seed_counts(out):
    add_run(out, "r1", {("", 0): 2, ("", 1): 4})
    add_run(out, "r2", {("", 0): 8})
    (row,) = measured(out)
    assert row.scores["birds"].value == pytest.approx((80 + 40) / 2)


@pytest.mark.parametrize(
    "change", [{"unit_seconds": 2.0}, {"n_classes": 3}, {"n_train": 9}, {"split": "other"}]
)
def test_runs_on_another_state_of_the_set_do_not_count(out, change):
    add_run(out, "r1", {("", 1): 2}, **change)
    add_run(out, "r2", {("", 0): 8})
    assert measured(out)[0].scores["birds"].value == pytest.approx(80)


def test_runs_on_other_folds_do_not_count():
    def rows(run_id, seed, folds):
        return [dataclasses.replace(ROW, run_id=run_id, seed=seed, fold=fold) for fold in folds]

    newest = rows("r2", 0, "123")
    assert newest_rows(rows("r1", 1, "12") + newest) == newest
    assert newest_rows([]) == []


def test_mean_needs_all_six(out):
    for number, task in enumerate(PAPER_TASKS[:5]):
        add_run(out, f"r{number}", {("", 0): number}, task=task)
    assert read_summary(out)[0]["mean"] == ""
    add_run(out, "r5", {("", 0): 5}, task=PAPER_TASKS[5])
    assert read_summary(out)[0]["mean"] == "25.0"


def test_rows_that_would_read_the_same_are_told_apart(out):
    add_run(out, "r1", {("", 0): 1})
    add_run(out, "r2", {("", 0): 2}, norm="checkpoint")
    add_run(out, "r3", {("", 0): 3}, weights_sha256="cd" * 32, embedding_dim=512)
    add_run(out, "r4", {("", 0): 4}, model="lark")
    add_run(out, "r5", {("", 0): 5}, probe="adam")
    assert [(row.model, row.probe) for row in measured(out)] == [
        ("owl (16-d, abababab, norm task)", "logistic"),
        ("owl (16-d, abababab, norm checkpoint)", "logistic"),
        ("owl (512-d, cdcdcdcd, norm task)", "logistic"),
        ("lark", "logistic"),
        ("owl", "adam"),
    ]


def test_score_without_its_predictions_has_no_interval_and_says_so(out):
    add_run(out, "r1", {("", 0): 7})
    predictions_path(out, "r1").unlink()
    summary = summarize(out)
    assert summary.rows[0].scores["birds"].value == pytest.approx(70)
    assert summary.rows[0].scores["birds"].low is None
    assert any("r1.csv" in note for note in summary.notes)
    assert read_summary(out)[0]["birds_low"] == ""


def test_summary_of_the_same_results_is_the_same_file(out):
    add_run(out, "r1", {("", 0): 7})
    write_summary(out, summarize(out))
    first = (out / "summary.csv").read_bytes()
    write_summary(out, summarize(out))
    assert (out / "summary.csv").read_bytes() == first


@pytest.mark.parametrize(("task", "is_shown"), [("birds", False), ("us8k", True)])
def test_table_shows_published_rows_beside_the_papers_tasks(out, capsys, task, is_shown):
    add_run(out, "r1", {("", 0): 7}, task=task, model="owl [bold]")
    print_table(summarize(out))
    table = capsys.readouterr().out
    assert "70.0 (40.0-100.0)" in table
    assert "owl [bold]" in table
    assert ("BYOL-A (Mixup), 2048-d" in table) == is_shown


def test_empty_folder_has_an_empty_summary(out):
    summary = summarize(out)
    assert isinstance(summary, Summary)
    assert not summary.has_paper_task
    assert measured(out) == []
