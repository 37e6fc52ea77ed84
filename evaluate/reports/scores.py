"""Selection of the rows of results.csv that count, and the scores of their test clips."""

import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from evaluate.probes.metrics import mean_average_precision
from evaluate.reports.intervals import (
    NUM_RESAMPLES,
    Scores,
    Targets,
    Values,
    resample_accuracy,
    resample_mean_average_precision,
)
from evaluate.reports.predictions import PredictionRow, predictions_path, read_predictions
from evaluate.reports.records import ReportError
from evaluate.reports.results import ResultRow
from evaluate.tasks.few_labels import describe_fraction
from evaluate.tasks.task import split_labels

Run = list[ResultRow]  # all folds of one run_id and seed
State = tuple[object, ...]  # state of a labeled set; equal if two runs can be compared


@dataclass(frozen=True)
class Entry:
    """Line of the summary: a model with one probe, norm, share of the labels, and limit."""

    label: str
    model: str
    probe: str
    norm: str
    label_fraction: float
    rows: tuple[ResultRow, ...]  # oldest first

    @property
    def setting(self) -> str:
        """Probe, with the share of the labels if below 1."""
        return name_setting(self.probe, self.label_fraction)

    def rows_of(self, task: str) -> list[ResultRow]:
        """Return the rows of one task, oldest first."""
        return [row for row in self.rows if row.task == task]


@dataclass(frozen=True, eq=False)
class TestedClips:
    """Results of a model with all its seeds on `N` test clips.

    Attributes:
        names: Fold and file name of each clip.
        labels: Label of each clip; classes joined by commas if multi-label.
        correct: Share of the seeds that predicted each clip correctly, `(N,)`; empty if
            multi-label.
        classes: Names of the `C` classes; empty if single-label.
        scores: Scores of each seed, `(seeds, N, C)`; `C` is 0 if single-label.
    """

    __test__ = False  # pytest would collect it by its name

    names: tuple[tuple[str, str], ...]
    labels: tuple[str, ...]
    correct: Values
    classes: tuple[str, ...]
    scores: Scores

    def take(self, positions: Sequence[int]) -> "TestedClips":
        """Select the clips at `positions`, in that order."""
        index = np.array(positions, dtype=np.int64)
        return replace(
            self,
            names=tuple(self.names[position] for position in positions),
            labels=tuple(self.labels[position] for position in positions),
            correct=self.correct if self.classes else self.correct[index],
            scores=self.scores[:, index],
        )

    @cached_property
    def targets(self) -> Targets:
        """Classes of each clip, bool `(N, C)`."""
        having = [set(split_labels(label)) for label in self.labels]
        return np.array([[name in has for name in self.classes] for has in having], dtype=bool)

    @cached_property
    def folds(self) -> tuple[npt.NDArray[np.int64], ...]:
        """Positions of each fold's clips."""
        members: dict[str, list[int]] = defaultdict(list)
        for position, (fold, _) in enumerate(self.names):
            members[fold].append(position)
        return tuple(np.array(positions) for positions in members.values())

    @property
    def score(self) -> float:
        """Mean of accuracy or mAP over folds and seeds, in percent."""
        if self.classes:
            of_folds = [
                mean_average_precision(self.targets[fold], of_seed[fold])
                for of_seed in self.scores
                for fold in self.folds
            ]
        else:
            of_folds = [self.correct[fold].mean() for fold in self.folds]
        return 100 * float(np.mean(of_folds))


def list_entries(results: Sequence[ResultRow]) -> list[Entry]:
    """List the lines of the summary in the order of their first run."""
    groups: dict[tuple[object, ...], list[ResultRow]] = defaultdict(list)
    for row in results:
        traits = (row.model, row.weights_sha256, row.probe, row.norm, row.label_fraction, row.limit)
        groups[traits].append(row)
    labels = _label_models([rows[-1] for rows in groups.values()])
    return [
        Entry(label, last.model, last.probe, last.norm, last.label_fraction, tuple(rows))
        for label, rows in zip(labels, groups.values(), strict=True)
        for last in rows[-1:]
    ]


def name_setting(probe: str, label_fraction: float) -> str:
    """Name a probe, with the share of the labels if below 1."""
    return ", ".join(filter(None, (probe, describe_fraction(label_fraction))))


def rows_by_state(rows: Iterable[ResultRow]) -> dict[State, list[ResultRow]]:
    """Group an entry's complete runs of one task by the state of the set they ran on.

    Runs on different states (other clips, folds or unit) must not be averaged. For each seed the
    last run counts; the newest state comes last.
    """
    states: dict[State, dict[int, Run]] = {}
    for run in _list_runs(rows):
        if _is_complete(run):
            state = _state_of(run)
            states[state] = {**states.pop(state, {}), run[0].seed: run}
    return {
        state: [row for run in of_seed.values() for row in run] for state, of_seed in states.items()
    }


def unfinished_runs(rows: Iterable[ResultRow]) -> list[Run]:
    """List the runs of an entry's task that lack folds and came after the last complete run."""
    unfinished: list[Run] = []
    for run in _list_runs(rows):
        unfinished = [] if _is_complete(run) else [*unfinished, run]
    return unfinished


def read_tested_clips(out: Path, rows: Sequence[ResultRow]) -> TestedClips:
    """Read the predictions that belong to rows of one entry, task and state.

    Raises:
        ReportError: If predictions are missing or not valid.
    """
    by_clip: dict[tuple[str, str], list[PredictionRow]] = defaultdict(list)
    classes: tuple[str, ...] = ()
    for run_id in dict.fromkeys(row.run_id for row in rows):
        predictions = read_predictions(out, run_id)
        classes = predictions.classes
        missing = {(row.fold, row.seed): row.n_test for row in rows if row.run_id == run_id}
        for row in predictions.rows:
            if (row.fold, row.seed) in missing:
                by_clip[row.fold, row.file_name].append(row)
                missing[row.fold, row.seed] -= 1
        if any(missing.values()):
            raise ReportError(
                f"{predictions_path(out, run_id)}: must have every test clip of the rows in "
                f"results.csv; {sum(missing.values())} are missing",
                code="missing",
                path=predictions_path(out, run_id),
                value=sum(missing.values()),
            )
    path = predictions_path(out, rows[0].run_id)
    if classes and not any(
        set(of_clip[0].label.split(",")) & set(classes) for of_clip in by_clip.values()
    ):
        message = f"{path}: a clip must have a label that is one of its classes; none has"
        raise ReportError(message, code="different", path=path, key="label")
    if classes:
        # Scores of several seeds form one array, so only clips that all seeds tested are kept.
        num_seeds = max(map(len, by_clip.values()))
        by_clip = {name: of_clip for name, of_clip in by_clip.items() if len(of_clip) == num_seeds}
        scores = np.array([[row.scores for row in of_clip] for of_clip in by_clip.values()])
        correct = np.empty(0)
    else:
        scores = np.empty((len(by_clip), 0, 0))
        hits = [[row.prediction == row.label for row in of_clip] for of_clip in by_clip.values()]
        correct = np.array([np.mean(of_clip) for of_clip in hits])
    return TestedClips(
        names=tuple(by_clip),
        labels=tuple(of_clip[0].label for of_clip in by_clip.values()),
        correct=correct,
        classes=classes,
        scores=scores.astype(np.float32).swapaxes(0, 1),
    )


def resample(task: str, models: Sequence[TestedClips]) -> Values:
    """Draw bootstrap samples of the scores of models on the same test clips of a task.

    The same clips always give the same draws; other tasks give independent draws.

    Returns:
        Percent, `(models, NUM_RESAMPLES)`.
    """
    generator = np.random.default_rng(zlib.crc32(task.encode("utf-8", "backslashreplace")))
    first = models[0]
    if not first.classes:
        weights = np.empty(len(first.names))
        for fold in first.folds:
            weights[fold] = 1 / len(fold)
        return resample_accuracy(np.stack([of.correct for of in models]), weights, generator)
    samples = np.zeros((len(models), NUM_RESAMPLES))
    seeds = np.repeat(np.arange(len(models)), [len(model.scores) for model in models])
    scores = np.concatenate([model.scores for model in models])  # (models' seeds, N, C)
    for fold in first.folds:
        of_fold = resample_mean_average_precision(first.targets[fold], scores[:, fold], generator)
        samples += [of_fold[seeds == model].mean(axis=0) for model in range(len(models))]
    return samples / len(first.folds)


def _list_runs(rows: Iterable[ResultRow]) -> list[Run]:
    """Group rows by run and seed, the run of the last row last; the last row of a fold counts."""
    runs: dict[tuple[str, int], dict[str, ResultRow]] = {}
    for row in rows:
        key = (row.run_id, row.seed)
        runs[key] = {**runs.pop(key, {}), row.fold: row}
    return [list(by_fold.values()) for by_fold in runs.values()]


def _is_complete(run: Run) -> bool:
    """Return True if the task has a single split, or every clip was tested."""
    return run[0].fold == "" or sum(row.n_test for row in run) == run[0].num_clips


def _state_of(run: Run) -> State:
    row = run[0]
    folds = frozenset(each.fold for each in run)
    facts = (row.split, row.metric, row.unit_seconds, row.n_classes, row.num_clips)
    return (*facts, row.label_fraction, folds)


def _label_models(rows: Sequence[ResultRow]) -> list[str]:
    """Label models by name, with their limit and, if names are equal, with what differs."""
    labels = []
    for row in rows:
        namesakes = [r for r in rows if (r.model, r.probe) == (row.model, row.probe)]
        traits: dict[str, set[int] | set[str]] = {
            f"{row.embedding_dim}-d": {r.embedding_dim for r in namesakes},
            row.weights_sha256[:8]: {r.weights_sha256 for r in namesakes},
            f"norm {row.norm}": {r.norm for r in namesakes},
        }
        telling = [trait for trait, values in traits.items() if len(values) > 1]
        telling += [f"limit {row.limit}"] if row.limit else []
        labels.append(f"{row.model} ({', '.join(telling)})" if telling else row.model)
    return labels
