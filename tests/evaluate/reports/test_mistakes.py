"""Reading what evaluation writes: the newest run, confusions, mistakes."""

from dataclasses import fields
from pathlib import Path

import pytest

from evaluate.reports.mistakes import (
    count_confusions,
    find_clip,
    find_mistakes,
    read_runs,
    read_scores,
    read_table,
)
from evaluate.reports.predictions import PredictionRow
from evaluate.reports.records import ReportError
from evaluate.reports.results import ResultRow, append_fold, open_folder
from evaluate.reports.summary import summarize, write_summary
from evaluate.tasks.task import PAPER_TASKS
from tests.refusal import refused

TRUE = {"a.wav": "cat", "b.wav": "cat", "c.wav": "dog", "d.wav": "dog"}
# Model -> what it says of a, b, c, d.
SAID = {"first": ("cat", "dog", "dog", "dog"), "second": ("cat", "dog", "cat", "dog")}


def row(run_id: str, model: str, metric: str = "accuracy", score: float = 75.0) -> ResultRow:
    values = {field.name: {"str": "", "int": 1, "float": 1.0}[str(field.type.__name__)]
              for field in fields(ResultRow)}  # fmt: skip
    known = {"run_id": run_id, "model": model, "task": "pets", "probe": "logistic",
             "metric": metric, "score": score, "probe_params": "{}", "seed": 0, "n_test": 4,
             "n_train": 8, "n_valid": 2, "weights_sha256": model, "n_skipped": 0}  # fmt: skip
    return ResultRow(**(values | known))  # type: ignore[arg-type]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Results of two models as evaluation itself writes them, one of them with an older run."""
    open_folder(tmp_path)
    for run_id, model, said in (
        ("old", "first", ("dog", "dog", "cat", "cat")),
        ("new", "first", SAID["first"]),
        ("other", "second", SAID["second"]),
    ):
        predictions = [
            PredictionRow(name, label, word, "", 0)
            for (name, label), word in zip(TRUE.items(), said, strict=True)
        ]
        right = sum(each.label == each.prediction for each in predictions)
        append_fold(tmp_path, [row(run_id, model, score=25.0 * right)], predictions)
    write_summary(tmp_path, summarize(tmp_path))
    return tmp_path


def test_the_newest_run_of_each_model_counts(results: Path) -> None:
    assert [(run.run_id, run.model) for run in read_runs(results)] == [
        ("new", "first"),
        ("other", "second"),
    ]


def test_confusions_are_counted(results: Path) -> None:
    first, second = read_runs(results)
    counts, classes = count_confusions(results, first)
    assert classes == ["cat", "dog"]
    assert counts.tolist() == [[1, 1], [0, 2]]
    assert count_confusions(results, second)[0].tolist() == [[1, 1], [1, 1]]


def test_the_worst_mistakes_come_first(results: Path) -> None:
    mistakes = find_mistakes(results, read_runs(results), num=9)
    facts = [(m.file_name, m.prediction, m.num_wrong, m.num_predictions) for m in mistakes]
    assert facts == [
        ("b.wav", "dog", 2, 2),
        ("c.wav", "cat", 1, 2),
    ]
    assert find_mistakes(results, read_runs(results), num=1) == mistakes[:1]


def test_table_and_scores_are_those_of_the_summary(results: Path) -> None:
    table = read_table(results)
    assert table.loc[("first", "logistic", "measured"), "pets"] == 75.0
    assert table.loc[("second", "logistic", "measured"), "pets"] == 50.0
    assert table.loc[("COLA", "", "published"), "nsynth"] == 63.4
    assert list(table) == [*PAPER_TASKS, "mean", "pets"]
    scores, intervals = read_scores(results, "pets")
    assert scores == {"first, logistic": 75.0, "second, logistic": 50.0}
    cells = {row.model: row.scores["pets"] for row in summarize(results).measured}
    assert intervals == {
        f"{model}, logistic": (round(cells[model].low, 2), round(cells[model].high, 2))
        for model in ("first", "second")
    }
    assert read_scores(results, "nsynth") == ({}, {})


def test_clips_are_found_by_their_ending(tmp_path: Path) -> None:
    for folder in ("x/fold1", "x/fold2"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.wav").touch()
    assert find_clip(tmp_path, "fold2/a.wav") == tmp_path / "x/fold2/a.wav"
    assert find_clip(tmp_path, "fold3/a.wav") is None


def test_what_is_not_a_report(tmp_path: Path) -> None:
    with refused(ReportError, "empty", tmp_path / "results.csv", key="accuracy"):
        read_runs(tmp_path)
    path = tmp_path / "summary.csv"
    with refused(ReportError, "unreadable", path):
        read_table(tmp_path)
    for text in ("", "model,score\n", "model,probe,source,pets\na,b,measured,high\n"):
        path.write_text(text)
        with refused(ReportError, "malformed", path):
            read_scores(tmp_path, "pets")
