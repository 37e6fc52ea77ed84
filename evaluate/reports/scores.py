"""Which rows of results.csv count, and what their predictions say of each test clip."""

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
from evaluate.reports.results import (
    PredictionRow,
    ReportError,
    ResultRow,
    predictions_path,
    read_predictions,
)
from evaluate.tasks.few_labels import describe_fraction
from evaluate.tasks.task import split_labels

Run = list[ResultRow]  # all folds of one run_id and seed
State = tuple[object, ...]  # of a labelled set: equal where two runs were tested on the same


@dataclass(frozen=True)
class Entry:
    """One line of the summary: a model with one probe, norm, share of the labels, and limit."""

    label: str
    model: str
    probe: str
    norm: str
    label_fraction: float
    rows: tuple[ResultRow, ...]  # oldest first

    @property
    def setting(self) -> str:
        """The probe, with the share of the labels where it had not all."""
        return name_setting(self.probe, self.label_fraction)

    def rows_of(self, task: str) -> list[ResultRow]:
        """Its rows of one task, oldest first."""
        return [row for row in self.rows if row.task == task]


@dataclass(frozen=True, eq=False)
class TestedClips:
    """What a model with all its seeds said of `N` test clips.

    Attributes:
        names: Fold and file name.
        labels: As in the predictions: of a multi-label clip its classes, joined by commas.
        correct: Share of the seeds that were right, `(N,)`; empty where multi-label.
        classes: `C` names; none where single-label.
        scores: Of each seed, `(seeds, N, C)`.
    """

    __test__ = False  # not a test, though pytest would take its name for one's

    names: tuple[tuple[str, str], ...]
    labels: tuple[str, ...]
    correct: Values
    classes: tuple[str, ...]
    scores: Scores

    def take(self, positions: Sequence[int]) -> "TestedClips":
        """Some of the clips, in that order."""
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
        """Which classes each clip has, `(N, C)`."""
        having = [set(split_labels(label)) for label in self.labels]
        return np.array([[name in has for name in self.classes] for has in having], dtype=bool)

    @cached_property
    def folds(self) -> tuple[npt.NDArray[np.int64], ...]:
        """The positions of each fold's clips."""
        members: dict[str, list[int]] = defaultdict(list)
        for position, (fold, _) in enumerate(self.names):
            members[fold].append(position)
        return tuple(np.array(positions) for positions in members.values())

    @property
    def score(self) -> float:
        """The mean over folds, and seeds, of accuracy or mAP in percent."""
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
    """The lines of the summary, in the order in which they were first run."""
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
    """What is fitted, and on which share of the labels where it is not all of them."""
    return ", ".join(filter(None, (probe, describe_fraction(label_fraction))))


def rows_by_state(rows: Iterable[ResultRow]) -> dict[State, list[ResultRow]]:
    """The complete runs among an entry's rows of one task, by the state of the set they ran on.

    Runs on different states (other clips, folds or unit) must not be averaged: their mean would be
    the score of no set. Of each seed the last run counts; the newest state comes last.
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
    """The runs among an entry's rows of one task that lack folds, if they came last."""
    unfinished: list[Run] = []
    for run in _list_runs(rows):
        unfinished = [] if _is_complete(run) else [*unfinished, run]
    return unfinished


def read_tested_clips(out: Path, rows: Sequence[ResultRow]) -> TestedClips:
    """Read the predictions that belong to rows of one entry, task and state.

    Raises:
        ReportError: If they are not all there.
    """
    said: dict[tuple[str, str], list[PredictionRow]] = defaultdict(list)
    classes: tuple[str, ...] = ()
    for run_id in dict.fromkeys(row.run_id for row in rows):
        predictions = read_predictions(out, run_id)
        classes = predictions.classes
        missing = {(row.fold, row.seed): row.n_test for row in rows if row.run_id == run_id}
        for row in predictions.rows:
            if (row.fold, row.seed) in missing:
                said[row.fold, row.file_name].append(row)
                missing[row.fold, row.seed] -= 1
        if any(missing.values()):
            raise ReportError(
                f"{predictions_path(out, run_id)}: must have every test clip of the rows in "
                f"results.csv; {sum(missing.values())} are not there",
                code="missing",
                path=predictions_path(out, run_id),
                value=sum(missing.values()),
            )
    if classes:
        # Scores of several seeds make one array: only clips that all seeds were tested on.
        num_seeds = max(map(len, said.values()))
        said = {name: of_clip for name, of_clip in said.items() if len(of_clip) == num_seeds}
        scores = np.array([[row.scores for row in of_clip] for of_clip in said.values()])
        correct = np.empty(0)
    else:
        scores = np.empty((len(said), 0, 0))
        hits = [[row.prediction == row.label for row in of_clip] for of_clip in said.values()]
        correct = np.array([np.mean(of_clip) for of_clip in hits])
    return TestedClips(
        names=tuple(said),
        labels=tuple(of_clip[0].label for of_clip in said.values()),
        correct=correct,
        classes=classes,
        scores=scores.astype(np.float32).swapaxes(0, 1),
    )


def resample(task: str, models: Sequence[TestedClips]) -> Values:
    """Draws of the scores of models on the same test clips of a task.

    The same clips give the same draws, whenever they are drawn; other tasks give independent ones.

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
    """Rows by run and seed, the run of the last row last; of a fold the last row counts."""
    runs: dict[tuple[str, int], dict[str, ResultRow]] = {}
    for row in rows:
        key = (row.run_id, row.seed)
        runs[key] = {**runs.pop(key, {}), row.fold: row}
    return [list(by_fold.values()) for by_fold in runs.values()]


def _is_complete(run: Run) -> bool:
    """Whether there is one split, or every clip was tested once."""
    return run[0].fold == "" or sum(row.n_test for row in run) == run[0].num_clips


def _state_of(run: Run) -> State:
    row = run[0]
    folds = frozenset(each.fold for each in run)
    facts = (row.split, row.metric, row.unit_seconds, row.n_classes, row.num_clips)
    return (*facts, row.label_fraction, folds)


def _label_models(rows: Sequence[ResultRow]) -> list[str]:
    """Model names, with their limit and what tells them apart where two would read the same."""
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
