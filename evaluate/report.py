"""summary.csv: results and predictions -> one row per model and probe, beside what is published."""

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from byola_rq.files import replace_file
from evaluate.intervals import bootstrap_interval
from evaluate.results import (
    PredictionRow,
    ReportError,
    ResultRow,
    predictions_path,
    read_predictions,
    read_results,
)
from evaluate.tasks import PAPER_TASKS

# Accuracy in percent on PAPER_TASKS, then the mean as published. Sources: COLA (Saeed et al.,
# ICASSP 2021), TRILL (Shor et al., Interspeech 2020), BYOL-A (Niizumi et al., arXiv:2103.06695),
# BYOL-A v2 (arXiv:2204.07402), randomized quantization (Wu et al., ICCV 2023).
PUBLISHED: tuple[tuple[str, tuple[float | None, ...]], ...] = (
    ("COLA", (63.4, None, 29.9, 71.3, 71.7, 62.4, None)),
    ("TRILL", (None, None, 17.9, 88.1, 74.9, None, None)),
    ("BYOL-A (Mixup), 2048-d", (74.1, 79.1, 40.1, 90.2, 91.0, 92.2, 77.8)),
    ("BYOL-A, 512-d", (69.1, 78.2, 33.4, 83.5, 86.5, 88.9, 73.3)),
    ("BYOL-A v2, 3072-d", (73.1, 79.7, 57.6, 93.3, None, 93.1, None)),
    ("randomized quantization", (74.2, 78.0, 45.7, 92.6, 95.1, 92.1, 79.6)),
)


@dataclass(frozen=True)
class Score:
    """Percent right, with its interval where the predictions are there to give one."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class SummaryRow:
    """One model with one probe: its score by task, `mean` among them if it has all the paper's."""

    model: str
    probe: str
    source: str  # measured or published
    scores: dict[str, Score] = field(default_factory=dict)


@dataclass(frozen=True)
class Summary:
    """The whole of summary.csv."""

    tasks: tuple[str, ...]  # the paper's six, then the others as they were first run
    rows: tuple[SummaryRow, ...]
    notes: tuple[str, ...] = ()  # what could not be had, to be said

    @property
    def has_paper_task(self) -> bool:
        """Whether something here can be held against the published rows."""
        measured = (row for row in self.rows if row.source == "measured")
        return any(task in PAPER_TASKS for row in measured for task in row.scores)


def summarize(out: Path) -> Summary:
    """Build the summary of everything an output folder holds, the newest run of each kind counting.

    Raises:
        ReportError: If results.csv is not ours.
    """
    results = read_results(out)
    own_tasks = [row.task for row in results if row.task not in PAPER_TASKS]
    tasks = PAPER_TASKS + tuple(dict.fromkeys(own_tasks))
    groups: dict[tuple[str, ...], list[ResultRow]] = defaultdict(list)
    for row in results:
        groups[(row.model, row.weights_sha256, row.probe, row.norm)].append(row)
    labels = _label_models([rows[-1] for rows in groups.values()])
    measured: list[SummaryRow] = []
    notes: list[str] = []
    for label, rows in zip(labels, groups.values(), strict=True):
        scores = {}
        for task in tasks:
            newest = newest_rows([row for row in rows if row.task == task])
            if newest:
                scores[task] = _score(out, newest, notes)
        measured.append(SummaryRow(label, rows[0].probe, "measured", _with_mean(scores)))
    return Summary(tasks, (*measured, *_published_rows()), tuple(notes))


def write_summary(out: Path, summary: Summary) -> None:
    """Replace summary.csv; its columns: whose score, the paper's tasks, mean, other tasks, ends."""
    others = [task for task in summary.tasks if task not in PAPER_TASKS]
    columns = [*PAPER_TASKS, "mean", *others]
    bounds = [f"{task}_{end}" for task in summary.tasks for end in ("low", "high")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["model", "probe", "source", *columns, *bounds])
    for row in summary.rows:
        values = [row.scores[task].value if task in row.scores else None for task in columns]
        for task in summary.tasks:
            score = row.scores.get(task)
            values += [score.low, score.high] if score else [None, None]
        cells = ["" if value is None else round(value, 2) for value in values]
        writer.writerow([row.model, row.probe, row.source, *cells])
    replace_file(out / "summary.csv", text.getvalue())


def newest_rows(rows: Sequence[ResultRow]) -> list[ResultRow]:
    """Of one model, probe, norm and task, oldest first: each seed's last run, one state of the set.

    Runs on an older state of the set (other clips, folds or unit) are left out: their mean with
    the newest would be the score of no set.
    """

    def state(row: ResultRow) -> tuple[object, ...]:
        num_clips = row.n_train + row.n_valid + row.n_test
        return (row.split, row.unit_seconds, row.n_classes, num_clips, folds[row.run_id])

    folds: dict[str, set[str]] = defaultdict(set)
    last_run: dict[int, str] = {}
    for row in rows:
        folds[row.run_id].add(row.fold)
        last_run[row.seed] = row.run_id
    return [
        row for row in rows if row.run_id == last_run[row.seed] and state(row) == state(rows[-1])
    ]


def _score(out: Path, rows: Sequence[ResultRow], notes: list[str]) -> Score:
    """Mean over folds, then over seeds; the interval from the predictions."""
    value = float(np.mean([row.score for row in rows]))
    wanted = {(row.run_id, row.seed) for row in rows}
    predictions: list[PredictionRow] = []
    try:
        for run_id in dict.fromkeys(row.run_id for row in rows):
            of_run = read_predictions(out, run_id)
            predictions += [p for p in of_run if (run_id, p.seed) in wanted]
        if not predictions:
            raise ReportError(f"{predictions_path(out, rows[-1].run_id)}: no predictions")
    except ReportError as error:
        notes.append(f"no interval: {error}")
        return Score(value)
    return Score(value, *_interval(predictions))


def _interval(predictions: Iterable[PredictionRow]) -> tuple[float, float]:
    by_clip: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for row in predictions:
        by_clip[(row.fold, row.file_name)].append(row.prediction == row.label)
    fold_sizes = Counter(fold for fold, _ in by_clip)
    correct = np.array([np.mean(hits) for hits in by_clip.values()])
    weights = np.array([1 / fold_sizes[fold] for fold, _ in by_clip])
    return bootstrap_interval(correct, weights)


def _with_mean(scores: dict[str, Score]) -> dict[str, Score]:
    if all(task in scores for task in PAPER_TASKS):
        scores["mean"] = Score(float(np.mean([scores[task].value for task in PAPER_TASKS])))
    return scores


def _published_rows() -> list[SummaryRow]:
    rows = []
    for model, values in PUBLISHED:
        named = zip((*PAPER_TASKS, "mean"), values, strict=True)
        scores = {task: Score(value) for task, value in named if value is not None}
        rows.append(SummaryRow(model, "", "published", scores))
    return rows


def _label_models(rows: Sequence[ResultRow]) -> list[str]:
    """Model names, with what tells them apart where two rows would read the same."""
    labels = []
    for row in rows:
        namesakes = [r for r in rows if (r.model, r.probe) == (row.model, row.probe)]
        traits: dict[str, set[int] | set[str]] = {
            f"{row.embedding_dim}-d": {r.embedding_dim for r in namesakes},
            row.weights_sha256[:8]: {r.weights_sha256 for r in namesakes},
            f"norm {row.norm}": {r.norm for r in namesakes},
        }
        telling = [trait for trait, values in traits.items() if len(values) > 1]
        labels.append(f"{row.model} ({', '.join(telling)})" if telling else row.model)
    return labels
