"""Read the output of `python -m evaluate`: scores, confusions and misclassified clips."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.metrics import confusion_matrix

from byola_rq.notebook import play_files
from byola_rq.runtime.terminal import say
from byola_rq.text.cells import csv_rows
from byola_rq.text.parse import MAX_TEXT_BYTES, read_text
from evaluate.reports.predictions import read_predictions
from evaluate.reports.records import ReportError
from evaluate.reports.results import (
    SUMMARY_NAMES,
    ResultRow,
    read_results,
    results_path,
    summary_path,
)


@dataclass(frozen=True)
class Mistake:
    """Misclassified test clip.

    `prediction` is its most frequent wrong class; `num_wrong` of `num_predictions` were wrong.
    """

    file_name: str
    label: str
    prediction: str
    num_wrong: int
    num_predictions: int


def read_runs(folder: Path) -> list[ResultRow]:
    """Read the newest single-label run of every model, probe, share of labels and task.

    Raises:
        ReportError: If there are no such results, or they cannot be read.
    """
    newest = {
        (row.model, row.probe, row.label_fraction, row.task): row
        for row in read_results(folder)
        if row.metric == "accuracy"
    }
    if not newest:
        path = results_path(folder)
        raise ReportError(
            f"{path}: must have a row with accuracy; `python -m evaluate` writes it",
            code="empty",
            path=path,
            key="accuracy",
        )
    return list(newest.values())


def read_table(folder: Path) -> pd.DataFrame:
    """Read the table of summary.csv: a row per model, probe and source, a column per task.

    Tasks without any score are left out.

    Raises:
        ReportError: If summary.csv is missing or cannot be read.
    """
    table = _read_summary(folder)
    bounds = [name for name in table if name.endswith(("_low", "_high"))]
    return table.drop(columns=bounds).dropna(axis=1, how="all")


def read_scores(folder: Path, task: str) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Read the measured scores of one task and their 95 % intervals, by model and probe.

    Raises:
        ReportError: If summary.csv is missing or cannot be read.
    """
    measured = _read_summary(folder).query("source == 'measured'")
    measured = measured.set_axis(measured.index.map("{0[0]}, {0[1]}".format))
    measured = measured.reindex(columns=[task, f"{task}_low", f"{task}_high"])
    intervals = measured.iloc[:, 1:].dropna().itertuples(name=None)
    return measured[task].dropna().to_dict(), {name: (low, high) for name, low, high in intervals}


def count_confusions(folder: Path, run: ResultRow) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Count predictions by true class (row) and predicted class (column), over folds and seeds.

    Returns:
        Counts, `(C, C)`, and the `C` class names.

    Raises:
        ReportError: If the run's predictions cannot be read.
    """
    rows = read_predictions(folder, run.run_id).rows
    labels, predictions = [row.label for row in rows], [row.prediction for row in rows]
    classes = sorted({*labels, *predictions})
    return confusion_matrix(labels, predictions, labels=classes), classes


def find_mistakes(folder: Path, runs: Sequence[ResultRow], num: int) -> list[Mistake]:
    """Find the test clips that most predictions of runs on one task got wrong, worst first.

    Raises:
        ReportError: If a run's predictions cannot be read.
    """
    predictions: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for run in runs:
        for row in read_predictions(folder, run.run_id).rows:
            predictions[row.file_name, row.label][row.prediction] += 1
    mistakes = []
    for (file_name, label), counts in predictions.items():
        wrong = Counter({name: count for name, count in counts.items() if name != label})
        if wrong:
            most = wrong.most_common(1)[0][0]
            mistakes.append(Mistake(file_name, label, most, wrong.total(), counts.total()))
    mistakes.sort(key=lambda each: (-each.num_wrong / each.num_predictions, each.file_name))
    return mistakes[:num]


def find_clip(root: Path, file_name: str) -> Path | None:
    """Find the file of a clip under a folder of data sets by its name in the task, or None."""
    ending = "/" + file_name
    for path in root.rglob(Path(file_name).name):
        if path.as_posix().endswith(ending):
            return path
    return None


def play_mistakes(mistakes: Sequence[Mistake], sets: Path) -> None:
    """Play the clips of mistakes that are found under the folder of data sets."""
    titles = {
        f"{each.label}, taken for {each.prediction}: {each.file_name}": find_clip(
            sets, each.file_name
        )
        for each in mistakes
    }
    play_files({title: path for title, path in titles.items() if path is not None})
    for title in (title for title, path in titles.items() if path is None):
        say(f"not under {sets}: {title}")


def _read_summary(folder: Path) -> pd.DataFrame:
    """Read summary.csv, indexed by model, probe and source."""
    path, names = summary_path(folder), list(SUMMARY_NAMES)
    try:
        header, *rows = csv_rows(read_text(path, MAX_TEXT_BYTES)) or [[]]
        texts = pd.DataFrame(rows, columns=header, dtype=str).set_index(names)
        return texts.apply(pd.to_numeric)
    except (OSError, ValueError, KeyError) as error:
        raise ReportError(
            f"{path}: must be a summary of `python -m evaluate`; it cannot be read ({error})",
            code="unreadable" if isinstance(error, OSError) else "malformed",
            path=path,
        ) from error
