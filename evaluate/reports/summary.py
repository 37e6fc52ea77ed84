"""The summary: results and predictions -> one row per model and probe, beside what is published."""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from pandas import DataFrame

from byola_rq.runtime.files import replace_file
from evaluate.reports.intervals import Values, percentile_interval
from evaluate.reports.results import ReportError, ResultRow, read_results
from evaluate.reports.scores import (
    Entry,
    State,
    list_entries,
    read_tested_clips,
    resample,
    rows_by_state,
    unfinished_runs,
)
from evaluate.tasks.task import PAPER_TASKS

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
# Clips of all parts. A set a tenth smaller or larger, such as a miniature or a quick look with
# a limit, bears the name but says nothing against a published score.
PAPER_CLIPS = dict(
    zip(PAPER_TASKS, (305_979, 8_732, 153_516, 176_438, 100_503, 105_829), strict=True)
)


@dataclass(frozen=True)
class Score:
    """Percent, with its interval where the predictions are there to give one."""

    value: float
    low: float | None = None
    high: float | None = None
    is_comparable: bool = True  # on the whole published set, if it has the name of one


@dataclass(frozen=True)
class SummaryRow:
    """One model with one probe: its score by task, `mean` among them if it has all the paper's."""

    model: str
    probe: str
    source: str  # measured or published
    scores: dict[str, Score] = field(default_factory=dict)


@dataclass(frozen=True)
class Summary:
    """All that is reported of an output folder."""

    tasks: tuple[str, ...]  # the paper's six, then the others as they were first run
    rows: tuple[SummaryRow, ...]
    notes: tuple[str, ...] = ()  # what could not be had, to be said
    map_tasks: frozenset[str] = frozenset()  # whose metric is mAP, not accuracy
    origins: tuple[str, ...] = ()  # what was tested, and with what

    @property
    def measured(self) -> tuple[SummaryRow, ...]:
        """The rows of this folder's own models."""
        return tuple(row for row in self.rows if row.source == "measured")

    @property
    def published(self) -> tuple[SummaryRow, ...]:
        """The rows to hold them against; none where no paper's task was measured."""
        if not any(task in PAPER_TASKS for row in self.measured for task in row.scores):
            return ()
        return tuple(row for row in self.rows if row.source == "published")

    @property
    def columns(self) -> tuple[str, ...]:
        """What was measured: the paper's tasks, their mean, other tasks."""
        has_score = {task for row in self.measured for task in row.scores}
        return tuple(column for column in _columns(self.tasks) if column in has_score)

    def title(self, column: str) -> str:
        """A column with its metric, where that is not accuracy."""
        return f"{column} (mAP)" if column in self.map_tasks else column

    def published_scores(self, column: str) -> list[tuple[float, str]]:
        """The published scores of a column, and whose they are."""
        return [
            (row.scores[column].value, row.model) for row in self.published if column in row.scores
        ]


def summarize(out: Path) -> Summary:
    """Build the summary of everything an output folder holds.

    Of each model, probe and task the newest complete run of each seed counts.

    Raises:
        ReportError: If results.csv is not ours.
    """
    results = read_results(out)
    tasks = tuple(dict.fromkeys([*PAPER_TASKS, *(row.task for row in results)]))
    notes: list[str] = []
    measured: list[SummaryRow] = []
    counted: list[ResultRow] = []
    states: dict[str, set[State]] = defaultdict(set)
    for entry in list_entries(results):
        scores: dict[str, Score] = {}
        draws: dict[str, Values] = {}
        for task in tasks:
            rows = entry.rows_of(task)
            notes += _unfinished_notes(entry, task, rows)
            for state, newest in list(rows_by_state(rows).items())[-1:]:
                counted += newest
                scores[task] = _score(out, task, newest, draws, notes)
                if not newest[0].limit:
                    states[task].add(state)
        if scores:
            measured.append(
                SummaryRow(entry.label, entry.probe, "measured", _with_mean(scores, draws))
            )
    return Summary(
        tasks=tasks,
        rows=(*measured, *_published_rows()),
        notes=(*notes, *_state_notes(states), *_size_notes(counted)),
        map_tasks=frozenset(row.task for row in counted if row.metric == "mAP"),
        origins=tuple(_origins(counted)),
    )


def write_summary(out: Path, summary: Summary) -> None:
    """Replace summary.csv; its columns: whose score, the paper's tasks, mean, other tasks, ends."""
    columns = _columns(summary.tasks)
    ends = [*summary.tasks, "mean"]
    bounds = [f"{column}_{end}" for column in ends for end in ("low", "high")]
    rows: list[list[str | float | None]] = []
    for row in summary.rows:
        rows.append([row.model, row.probe, row.source])
        rows[-1] += [row.scores[task].value if task in row.scores else None for task in columns]
        for column in ends:
            score = row.scores.get(column)
            rows[-1] += [score.low, score.high] if score else [None, None]
    table = DataFrame(rows, columns=["model", "probe", "source", *columns, *bounds]).round(2)
    replace_file(out / "summary.csv", table.to_csv(index=False, lineterminator="\n"))


def _columns(tasks: Sequence[str]) -> list[str]:
    return [*PAPER_TASKS, "mean", *(task for task in tasks if task not in PAPER_TASKS)]


def _score(
    out: Path, task: str, rows: Sequence[ResultRow], draws: dict[str, Values], notes: list[str]
) -> Score:
    """Mean over folds, then over seeds; the interval from the predictions, whose draws are kept."""
    value = float(np.mean([row.score for row in rows]))
    is_comparable = all(_is_comparable(row) for row in rows)
    try:
        (draws[task],) = resample(task, [read_tested_clips(out, rows)])
    except ReportError as error:
        notes.append(f"no interval: {error}")
        return Score(value, is_comparable=is_comparable)
    return Score(value, *percentile_interval(draws[task]), is_comparable)


def _with_mean(scores: dict[str, Score], draws: dict[str, Values]) -> dict[str, Score]:
    """With the mean of the paper's tasks; tasks are drawn independently, so their draws average."""
    if not all(task in scores for task in PAPER_TASKS):
        return scores
    of_tasks = [scores[task] for task in PAPER_TASKS]
    value = float(np.mean([score.value for score in of_tasks]))
    mean = Score(value, is_comparable=all(score.is_comparable for score in of_tasks))
    if all(task in draws for task in PAPER_TASKS):
        low, high = percentile_interval(np.mean([draws[task] for task in PAPER_TASKS], axis=0))
        mean = replace(mean, low=low, high=high)
    return {**scores, "mean": mean}


def _published_rows() -> list[SummaryRow]:
    rows = []
    for model, values in PUBLISHED:
        named = zip((*PAPER_TASKS, "mean"), values, strict=True)
        scores = {task: Score(value) for task, value in named if value is not None}
        rows.append(SummaryRow(model, "", "published", scores))
    return rows


def _num_clips(row: ResultRow) -> int:
    return row.n_train + row.n_valid + row.n_test


def _is_comparable(row: ResultRow) -> bool:
    wanted = PAPER_CLIPS.get(row.task)
    return wanted is None or 0.9 <= _num_clips(row) / wanted <= 1.1


def _unfinished_notes(entry: Entry, task: str, rows: Sequence[ResultRow]) -> list[str]:
    return [
        f"not counted: {task}: {entry.label}, {entry.probe}, seed {run[0].seed}: only "
        f"{sum(row.n_test for row in run)} of {_num_clips(run[0])} clips tested so far; the same "
        "call again goes on"
        for run in unfinished_runs(rows)
    ]


def _size_notes(rows: Sequence[ResultRow]) -> list[str]:
    sizes = dict.fromkeys(
        f"{row.task} ({_num_clips(row):,} of {PAPER_CLIPS[row.task]:,} clips)"
        for row in rows
        if not _is_comparable(row)
    )
    if not sizes:
        return []
    return [
        f"not the published sets, so not to be held against published scores: {', '.join(sizes)}"
    ]


def _state_notes(counted: Mapping[str, Collection[State]]) -> list[str]:
    return [
        f"{task}: not all models were tested on the same clips, folds and unit; "
        "python -m evaluate compare holds only those against each other that were"
        for task, states in counted.items()
        if len(states) > 1
    ]


def _origins(rows: Sequence[ResultRow]) -> list[str]:
    """A line per state of a set, per set of versions and device, per version of `builtin`."""
    num_folds = Counter((row.run_id, row.seed) for row in rows)
    sets, versions, models = [], [], []
    for row in rows:
        parts = f"{row.n_train:,} train, {row.n_valid:,} valid, {row.n_test:,} test"
        division = f"{num_folds[row.run_id, row.seed]} folds" if row.fold else parts
        sets.append(
            f"{row.task}: {_num_clips(row):,} clips ({division}), {row.n_classes} classes, "
            f"{row.unit_seconds:g} s, split: {row.split}"
            + (f", {row.n_skipped} skipped" if row.n_skipped else "")
        )
        versions.append(
            f"byola_rq {row.byola_rq}, torch {row.torch}, scikit-learn {row.sklearn}, {row.device}"
        )
        if row.model_version:
            weights = f"weights of SHA-256 {row.weights_sha256}"
            models.append(f"{row.model}: {row.model_version}, {weights}")
    return list(dict.fromkeys(sets + versions + models))
