"""Comparison of two models: the paired bootstrap over the test clips of both."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from byola_rq.runtime.terminal import say
from evaluate.reports.intervals import NUM_RESAMPLES, Values, percentile_interval, two_sided_p
from evaluate.reports.records import ReportError
from evaluate.reports.results import ResultRow, read_results
from evaluate.reports.scores import (
    Entry,
    State,
    TestedClips,
    list_entries,
    read_tested_clips,
    resample,
    rows_by_state,
)

_ALPHA = 0.05

Setting = tuple[str, str, str]  # probe, norm, task: equal for both models


@dataclass(frozen=True)
class Comparison:
    """Two models on one task, or on the mean of their common tasks.

    Attributes:
        task: Name of the task, or `mean of N tasks`.
        probe: Probe fitted on both, with the share of the labels if below 1.
        norm: Source of the mean and std that standardized the log-mels of both.
        first: Score of the first model on the common clips, in percent.
        second: Score of the second model on the common clips, in percent.
        low: Lower end of the 95 % interval of `first - second`, in points.
        high: Upper end of the 95 % interval of `first - second`, in points.
        p: Two-sided p-value, see `evaluate.reports.intervals.two_sided_p`; below 0.05 if zero is
            outside of the interval.
        num_clips: Number of common test clips.
    """

    task: str
    probe: str
    norm: str
    first: float
    second: float
    low: float
    high: float
    p: float
    num_clips: int

    @property
    def difference(self) -> float:
        """Score of the first minus score of the second, in points."""
        return round(self.first - self.second, 9)

    @property
    def is_significant(self) -> bool:
        """True if equal models would differ as much in less than 5 % of draws."""
        return self.p < _ALPHA

    def describe(self, first: str, second: str) -> str:
        """Describe the comparison in one line, with the names of both models."""
        better, sign = (first, 1) if self.difference >= 0 else (second, -1)
        scores = [self.first, self.second][::sign]
        p = "p < 0.001" if self.p < 0.001 else f"p = {self.p:.3f}"
        evidence = f"{scores[0]:.1f} against {scores[1]:.1f}, {p}, {self.num_clips:,} clips"
        low, high = sorted((sign * self.low, sign * self.high))
        interval = f"95 % {low:z.1f} to {high:z.1f}"
        points = f"{abs(self.difference):.1f} points"
        if self.is_significant:
            return (
                f"{self.task}: {better} is {points} better ({interval}), significant ({evidence})"
            )
        if self.difference == 0:
            return f"{self.task}: no difference ({interval}; {evidence})"
        return (
            f"{self.task}: no significant difference ({better} +{points}, {interval}; {evidence})"
        )


@dataclass(frozen=True)
class Comparisons:
    """Comparisons of two models on all common settings."""

    first: str
    second: str
    rows: tuple[Comparison, ...]  # by probe and norm: tasks, then their mean
    notes: tuple[str, ...]  # settings that cannot be compared, with reasons


def compare(out: Path, first: str, second: str) -> Comparisons:
    """Compare two models of an output folder on every task that both were tested on.

    Only runs of equal probe, norm, share of the labels and state of the set are compared, on their
    common test clips. With several seeds, each clip counts with its mean over seeds.

    Args:
        out: Output folder.
        first: Name of a model; its label in the summary if the name is ambiguous.
        second: Name of the model to compare with.

    Raises:
        ReportError: If a name is unknown or ambiguous, or nothing can be compared.
    """
    entries = list_entries(read_results(out))
    if not entries:
        raise ReportError(f"{out}: holds no results; name their folder", code="empty", path=out)
    runs_1, runs_2 = (_find_runs(out, entries, name) for name in (first, second))
    rows: list[Comparison] = []
    notes = _notes_of_missing(first, runs_1, runs_2) + _notes_of_missing(second, runs_2, runs_1)
    common = [setting for setting in runs_1 if setting in runs_2]
    for probe, norm in dict.fromkeys(setting[:2] for setting in common):
        compared: list[tuple[Comparison, Values]] = []
        for setting in (setting for setting in common if setting[:2] == (probe, norm)):
            try:
                compared.append(_compare_on(out, setting, runs_1[setting], runs_2[setting]))
            except ReportError as error:
                notes.append(f"not compared: {setting[2]}, {probe}, norm {norm}: {error}")
        rows += [row for row, _ in compared]
        if len(compared) > 1:
            rows.append(_compare_means(compared))
    if not rows:
        raise ReportError(
            f"{out}: {first} and {second} must have a task in common, with one probe, norm and "
            f"state of the set; got none. {'; '.join(notes)}",
            code="missing",
            path=out,
            value=notes,
        )
    return Comparisons(first, second, tuple(rows), tuple(notes))


def compare_clips(
    setting: Setting, first: TestedClips, second: TestedClips
) -> tuple[Comparison, Values]:
    """Compare two models on their common test clips.

    Returns:
        The comparison, and the differences of its draws in points, `(NUM_RESAMPLES,)`.

    Raises:
        ReportError: If they have no common clips, or differ in classes.
    """
    probe, norm, task = setting
    first, second = _align(first, second)
    samples = resample(task, [first, second])
    # Draws with equal scores differ only by rounding, and must count as equal.
    differences: Values = np.round(samples[0] - samples[1], 9)
    num_clips = len(first.names)
    row = _make_row((task, probe, norm), first.score, second.score, differences, num_clips)
    return row, differences


def print_comparisons(comparisons: Comparisons) -> None:
    """Print a line per task on stdout, then the method and the notes."""
    settings = dict.fromkeys((row.probe, row.norm) for row in comparisons.rows)
    for probe, norm in settings:
        say(f"{comparisons.first} against {comparisons.second}, probe {probe}, norm {norm}:")
        for row in comparisons.rows:
            if (row.probe, row.norm) == (probe, norm):
                say(f"  {row.describe(comparisons.first, comparisons.second)}")
    say(f"Paired bootstrap, {NUM_RESAMPLES} draws of the test clips that both were tested on; p is")
    say("twice the share of draws in which the other is at least as good. Of 20 tasks on which")
    say("models are equal, one is expected to come out significant.")
    for note in comparisons.notes:
        say(f"note: {note}")


def _find_runs(
    out: Path, entries: Sequence[Entry], name: str
) -> dict[Setting, dict[State, list[ResultRow]]]:
    """Find the complete runs of a model, by probe, norm and task and then by state of the set."""
    found = [entry for entry in entries if entry.label == name]
    found = found or [entry for entry in entries if entry.model == name]
    if not found:
        names = ", ".join(dict.fromkeys(entry.label for entry in entries))
        raise ReportError(
            f"{out}: a model must be one of {names}; got {name!r}",
            code="unknown",
            path=out,
            value=name,
        )
    runs: dict[Setting, dict[State, list[ResultRow]]] = defaultdict(dict)
    for entry in found:
        for task in dict.fromkeys(row.task for row in entry.rows):
            of_task = runs[entry.setting, entry.norm, task]
            for state, rows in rows_by_state(entry.rows_of(task)).items():
                if state in of_task:
                    labels = dict.fromkeys(entry.label for entry in found)
                    raise ReportError(
                        f"{out}: {name!r} must name one model; it stands for {', '.join(labels)}. "
                        "Name one of these",
                        code="twice",
                        path=out,
                        value=list(labels),
                    )
                of_task[state] = rows
    return runs


def _compare_on(
    out: Path,
    setting: Setting,
    states_1: dict[State, list[ResultRow]],
    states_2: dict[State, list[ResultRow]],
) -> tuple[Comparison, Values]:
    """Compare on the newest common state of a set; also return the draws."""
    common = [state for state in states_1 if state in states_2]
    if not common:
        raise ReportError("they have no complete runs on one state of the set", code="different")
    first, second = (read_tested_clips(out, states[common[-1]]) for states in (states_1, states_2))
    return compare_clips(setting, first, second)


def _compare_means(compared: Sequence[tuple[Comparison, Values]]) -> Comparison:
    """Compare the means over tasks, which are drawn independently."""
    rows = [row for row, _ in compared]
    mean: Values = np.mean([differences for _, differences in compared], axis=0)
    return _make_row(
        (f"mean of {len(rows)} tasks", rows[0].probe, rows[0].norm),
        float(np.mean([row.first for row in rows])),
        float(np.mean([row.second for row in rows])),
        np.round(mean, 9),
        sum(row.num_clips for row in rows),
    )


def _make_row(
    names: tuple[str, str, str], first: float, second: float, differences: Values, num_clips: int
) -> Comparison:
    low, high = percentile_interval(differences)
    p = two_sided_p(differences)
    return Comparison(*names, first, second, low, high, p, num_clips)


def _align(first: TestedClips, second: TestedClips) -> tuple[TestedClips, TestedClips]:
    """Select the clips that both have with the same label, in the same order."""
    place = {clip: at for at, clip in enumerate(zip(second.names, second.labels, strict=True))}
    clips = list(zip(first.names, first.labels, strict=True))
    kept = [number for number, clip in enumerate(clips) if clip in place]
    if not kept or first.classes != second.classes:
        raise ReportError("they have no test clips and classes in common", code="different")
    return first.take(kept), second.take([place[clips[number]] for number in kept])


def _notes_of_missing(
    name: str, runs: dict[Setting, dict[State, list[ResultRow]]], others: Collection[Setting]
) -> list[str]:
    lone = [
        f"{task}, {probe}, norm {norm}"
        for probe, norm, task in runs
        if (probe, norm, task) not in others
    ]
    return [f"only {name} was tested on {'; '.join(lone)}"] if lone else []
