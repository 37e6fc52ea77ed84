"""Summary of results and predictions: a row per model and probe, with published scores."""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from byola_rq.runtime.files import replace_file
from byola_rq.text.cells import csv_text
from evaluate.reports.intervals import Values, percentile_interval
from evaluate.reports.published import (
    PUBLISHED,
    PUBLISHED_PROBES,
    differs_in,
    lacks_probe,
)
from evaluate.reports.records import ReportError
from evaluate.reports.results import SUMMARY_NAMES, ResultRow, read_results, summary_path
from evaluate.reports.scores import (
    Entry,
    State,
    list_entries,
    name_setting,
    read_tested_clips,
    resample,
    rows_by_state,
    unfinished_runs,
)
from evaluate.tasks.few_labels import describe_fraction
from evaluate.tasks.task import PAPER_TASKS


@dataclass(frozen=True)
class Score:
    """Score in percent, with its 95 % interval if the predictions are available."""

    value: float
    low: float | None = None
    high: float | None = None
    is_comparable: bool = True  # False if set or split differ from the published ones


@dataclass(frozen=True)
class SummaryRow:
    """Scores of one model with one probe by task; with `mean` if it has all tasks of the paper."""

    model: str
    probe: str  # for a published score its protocol, or empty
    source: str  # measured or published
    scores: dict[str, Score] = field(default_factory=dict)
    label_fraction: float = 1.0

    @property
    def setting(self) -> str:
        """Probe, with the share of the labels if below 1."""
        return name_setting(self.probe, self.label_fraction)


@dataclass(frozen=True)
class Summary:
    """Report of an output folder."""

    tasks: tuple[str, ...]  # the paper's six, then the others in the order of their first run
    rows: tuple[SummaryRow, ...]
    notes: tuple[str, ...] = ()  # limitations, to be printed
    map_tasks: frozenset[str] = frozenset()  # tasks whose metric is mAP, not accuracy
    origins: tuple[str, ...] = ()  # sets, versions and weights

    @property
    def measured(self) -> tuple[SummaryRow, ...]:
        """Rows of the models measured in this folder."""
        return tuple(row for row in self.rows if row.source == "measured")

    @property
    def published(self) -> tuple[SummaryRow, ...]:
        """Published rows to compare with; empty if no task of the paper was measured."""
        if not any(task in PAPER_TASKS for row in self.measured for task in row.scores):
            return ()
        return tuple(row for row in self.rows if row.source == "published")

    @property
    def columns(self) -> tuple[str, ...]:
        """Measured columns: the paper's tasks, their mean, other tasks."""
        has_score = {task for row in self.measured for task in row.scores}
        return tuple(column for column in _columns(self.tasks) if column in has_score)

    def with_all_labels(self) -> "Summary":
        """Drop rows with a share of the labels below 1, unless there are no others."""
        rows = tuple(row for row in self.rows if row.label_fraction == 1)
        return replace(self, rows=rows) if any(r.source == "measured" for r in rows) else self

    def title(self, column: str) -> str:
        """Return a column's name, with its metric if that is not accuracy."""
        return f"{column} (mAP)" if column in self.map_tasks else column

    def rivals(self, row: SummaryRow, column: str) -> tuple[SummaryRow, ...]:
        """Return the published rows of the same set, split and probe, to rank a score among."""
        if column not in row.scores or not row.scores[column].is_comparable:
            return ()
        return tuple(
            each for each in self.published if each.probe == row.probe and column in each.scores
        )


def summarize(out: Path) -> Summary:
    """Summarize the results of an output folder.

    For each model, probe and task the newest complete run of each seed counts.

    Raises:
        ReportError: If results.csv is not valid.
    """
    results = read_results(out)
    tasks = tuple(dict.fromkeys([*PAPER_TASKS, *(row.task for row in results)]))
    notes: list[str] = []
    measured: list[SummaryRow] = []
    counted: list[ResultRow] = []
    states: dict[tuple[str, float], set[State]] = defaultdict(set)
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
                    states[task, entry.label_fraction].add(state)
        if scores:
            scores = _with_mean(scores, draws)
            row = SummaryRow(entry.label, entry.probe, "measured", scores, entry.label_fraction)
            measured.append(row)
    return Summary(
        tasks=tasks,
        rows=(*measured, *_published_rows()),
        notes=(*notes, *_state_notes(states), *_set_notes(counted), *_probe_notes(counted)),
        map_tasks=frozenset(row.task for row in counted if row.metric == "mAP"),
        origins=tuple(_origins(counted)),
    )


def write_summary(out: Path, summary: Summary) -> None:
    """Write summary.csv: names, scores of the paper's tasks, mean, other tasks, interval ends."""
    columns = _columns(summary.tasks)
    ends = [*summary.tasks, "mean"]
    bounds = [f"{column}_{end}" for column in ends for end in ("low", "high")]
    rows: list[list[str | float | None]] = []
    for row in summary.rows:
        rows.append([row.model, row.setting, row.source])
        rows[-1] += [row.scores[task].value if task in row.scores else None for task in columns]
        for column in ends:
            score = row.scores.get(column)
            rows[-1] += [score.low, score.high] if score else [None, None]
    header = [*SUMMARY_NAMES, *columns, *bounds]
    cells = ([np.round(v, 2) if isinstance(v, float) else v for v in row] for row in rows)
    replace_file(summary_path(out), csv_text([header, *cells]))


def _columns(tasks: Sequence[str]) -> list[str]:
    return [*PAPER_TASKS, "mean", *(task for task in tasks if task not in PAPER_TASKS)]


def _score(
    out: Path, task: str, rows: Sequence[ResultRow], draws: dict[str, Values], notes: list[str]
) -> Score:
    """Average over folds and seeds, with an interval from the predictions; `draws` keeps theirs."""
    value = float(np.mean([row.score for row in rows]))
    is_comparable = not any(differs_in(row) for row in rows)
    try:
        (draws[task],) = resample(task, [read_tested_clips(out, rows)])
    except ReportError as error:
        notes.append(f"no interval: {error}")
        return Score(value, is_comparable=is_comparable)
    return Score(value, *percentile_interval(draws[task]), is_comparable)


def _with_mean(scores: dict[str, Score], draws: dict[str, Values]) -> dict[str, Score]:
    """Add the mean of the paper's tasks; tasks are drawn independently, so draws are averaged."""
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
        rows.append(SummaryRow(model, PUBLISHED_PROBES.get(model, ""), "published", scores))
    return rows


def _unfinished_notes(entry: Entry, task: str, rows: Sequence[ResultRow]) -> list[str]:
    return [
        f"not counted: {task}: {entry.label}, {entry.setting}, seed {run[0].seed}: only "
        f"{sum(row.n_test for row in run)} of {run[0].num_clips} clips tested so far; repeat the "
        "call to continue"
        for run in unfinished_runs(rows)
    ]


def _set_notes(rows: Sequence[ResultRow]) -> list[str]:
    sets = dict.fromkeys(f"{row.task} ({differs_in(row)})" for row in rows if differs_in(row))
    if not sets:
        return []
    return [f"not the published sets, so not comparable to published scores: {', '.join(sets)}"]


def _probe_notes(rows: Sequence[ResultRow]) -> list[str]:
    lone = dict.fromkeys(f"{row.task} ({row.probe})" for row in rows if lacks_probe(row))
    if not lone:
        return []
    return [
        "not ranked among published scores, as only --protocol byol_a and evar can be: "
        f"{', '.join(lone)}"
    ]


def _state_notes(counted: Mapping[tuple[str, float], Collection[State]]) -> list[str]:
    notes = [
        f"{task}: not all models were tested on the same clips, folds and unit; "
        "python -m evaluate compare compares only models that were"
        for (task, _), states in counted.items()
        if len(states) > 1
    ]
    return list(dict.fromkeys(notes))


def _origins(rows: Sequence[ResultRow]) -> list[str]:
    """List a line per state of a set, per versions and device, and per version of `builtin`."""
    num_folds = Counter((row.run_id, row.seed) for row in rows)
    sets, versions, models = [], [], []
    for row in rows:
        parts = f"{row.n_train:,} train, {row.n_valid:,} valid, {row.n_test:,} test"
        division = f"{num_folds[row.run_id, row.seed]} folds" if row.fold else parts
        labels = describe_fraction(row.label_fraction)
        sets.append(
            f"{row.task}: {row.num_clips:,} clips ({division}), {row.n_classes} classes, "
            f"{row.unit_seconds:g} s, split: {row.split}"
            + (f", {row.n_skipped} skipped" if row.n_skipped else "")
            + (f", {labels}" if labels else "")
        )
        versions.append(
            f"byola_rq {row.byola_rq}, torch {row.torch}, scikit-learn {row.sklearn}, {row.device}"
        )
        if row.model_version:
            weights = f"weights of SHA-256 {row.weights_sha256}"
            models.append(f"{row.model}: {row.model_version}, {weights}")
    return list(dict.fromkeys(sets + versions + models))
