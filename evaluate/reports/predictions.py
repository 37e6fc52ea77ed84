"""Files of predictions, predictions/<run_id>.csv: one row per test clip."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from byola_rq.runtime.files import replace_file
from byola_rq.text.cells import csv_text
from evaluate.reports.records import header_error, parse_record, read_records

_PREDICTION_COLUMNS = ["file_name", "label", "prediction", "fold", "seed"]
_SCORE_COLUMN = "score:"  # followed by the class


@dataclass(frozen=True)
class PredictionRow:
    """Row of predictions/<run_id>.csv: one test clip.

    In a multi-label run `label` and `prediction` are classes joined by commas, and `scores` has
    one value per class; higher is more likely.
    """

    file_name: str
    label: str
    prediction: str
    fold: str
    seed: int
    scores: tuple[float, ...] = ()


@dataclass(frozen=True)
class Predictions:
    """Content of predictions/<run_id>.csv."""

    classes: tuple[str, ...]  # classes of `scores`; empty for a single-label run
    rows: tuple[PredictionRow, ...]


def predictions_path(out: Path, run_id: str) -> Path:
    """Return the predictions file of one run."""
    return out / "predictions" / f"{run_id}.csv"


def read_predictions(out: Path, run_id: str) -> Predictions:
    """Read the predictions of one run.

    Raises:
        ReportError: If the file is missing or not valid.
    """
    return _read_predictions(predictions_path(out, run_id))


def _read_predictions(path: Path) -> Predictions:
    records = read_records(path)
    header, num_columns = (records or [[]])[0], len(_PREDICTION_COLUMNS)
    scored = header[num_columns:]
    if header[:num_columns] != _PREDICTION_COLUMNS or not all(
        column.startswith(_SCORE_COLUMN) for column in scored
    ):
        raise header_error(path, header, _PREDICTION_COLUMNS)
    parsers: list[Callable[[str], Any]] = [str] * 4 + [int] + [_parse_score] * len(scored)
    columns = list(zip(header, parsers, strict=True))
    rows = []
    for number, record in enumerate(records[1:], start=2):
        name, label, prediction, fold, seed, *scores = parse_record(path, number, record, columns)
        rows.append(PredictionRow(name, label, prediction, fold, seed, tuple(scores)))
    return Predictions(tuple(name.removeprefix(_SCORE_COLUMN) for name in scored), tuple(rows))


def _parse_score(text: str) -> float:
    if math.isnan(score := float(text)):
        raise ValueError("must be a number; got nan")
    return score


def add_predictions(path: Path, added: Sequence[PredictionRow], classes: Sequence[str]) -> None:
    """Add rows to a file of predictions, in place of older rows of the same folds and seeds.

    Raises:
        ReportError: If the file is not valid.
    """
    old = _read_predictions(path) if path.exists() else Predictions(tuple(classes), ())
    assert old.classes == tuple(classes), "a run_id stands for one task"
    replaced = {(row.fold, row.seed) for row in added}
    kept = [row for row in old.rows if (row.fold, row.seed) not in replaced]
    header = [*_PREDICTION_COLUMNS, *(_SCORE_COLUMN + name for name in classes)]
    values = (
        [row.file_name, row.label, row.prediction, row.fold, row.seed]
        + [f"{score:.5g}" for score in row.scores]
        for row in (*kept, *added)
    )
    replace_file(path, csv_text([header, *values]))
