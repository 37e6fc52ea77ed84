"""Report of a grid: means over seeds, differences to the reference, costs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evaluate.ablation.grid import AblationRun, Grid
from evaluate.ablation.runs import find_place, read_progress
from evaluate.ablation.statistics import Estimate, SeedScores, estimate
from evaluate.reports.records import ReportError
from evaluate.reports.results import ResultRow, read_results
from evaluate.reports.scores import TestedClips, read_tested_clips, resample, rows_by_state

MEAN = "mean"  # name of the mean over tasks


@dataclass(frozen=True)
class Line:
    """Results of one variant.

    Attributes:
        variant: Name of the variant.
        num_seeds: Number of seeds that were evaluated on every task.
        segments: Number of training segments of all these seeds.
        hours: Hours of training of all these seeds.
        scores: Mean over seeds by task, in percent; with `MEAN` if there are several tasks.
        differences: Differences to the reference by task, in points; empty for the reference.
    """

    variant: str
    num_seeds: int
    segments: int
    hours: float
    scores: dict[str, Estimate]
    differences: dict[str, Estimate]


@dataclass(frozen=True)
class AblationReport:
    """Results of a grid so far."""

    grid: Grid
    probe: str
    lines: tuple[Line, ...]  # without variants that have no seed yet
    notes: tuple[str, ...]

    @property
    def tasks(self) -> tuple[str, ...]:
        """Columns: tasks, and `MEAN` if there are several."""
        return tuple(self.lines[0].scores) if self.lines else ()

    def describe_differences(self) -> tuple[list[str], list[str]]:
        """Describe each difference to the reference: significant ones, and the others.

        Differences of a variant with one seed are left out: they have no p-value.
        """
        sentences: tuple[list[str], list[str]] = ([], [])
        for line in self.lines:
            for task, difference in line.differences.items():
                if difference.p is None:
                    continue
                sentence = f"{task}: {line.variant}, {format_difference(difference)}"
                sentences[0 if difference.is_significant else 1].append(sentence)
        return sentences


def make_report(
    out: Path, grid: Grid, runs: Sequence[AblationRun], tasks: Sequence[str], probe: str
) -> AblationReport:
    """Gather the results of a grid in an output folder.

    A seed counts only if it was evaluated on every task.

    Raises:
        ReportError: If results cannot be read, or runs have no common test clips.
    """
    results = [row for row in read_results(out) if row.probe == probe]
    found = {task: _newest_alike(out, runs, task, results) for task in tasks}
    tested: dict[AblationRun, dict[str, TestedClips]] = {}
    notes = []
    for run in runs:
        missing = [task for task in tasks if run not in found[task]]
        if missing:
            notes.append(f"not counted: {run}: no result on {', '.join(missing)}")
        else:
            tested[run] = {task: read_tested_clips(out, found[task][run]) for task in tasks}
    scores = _score_seeds(tested, tasks)
    if scores and grid.reference not in scores:
        notes.append(f"no differences: {grid.reference}, the reference, has no result yet")
    lines = [
        _make_line(
            out,
            variant.name,
            [run for run in tested if run.variant == variant.name],
            scores[variant.name],
            {} if variant.name == grid.reference else scores.get(grid.reference, {}),
        )
        for variant in grid.variants
        if variant.name in scores
    ]
    if any(line.num_seeds < 2 for line in lines):
        notes.append(
            "the interval of a variant with one seed covers only the test clips, and its "
            "differences have no significance"
        )
    return AblationReport(grid, probe, tuple(lines), tuple(notes))


def format_difference(difference: Estimate) -> str:
    """Format a difference in points, with its interval and p."""
    p = "one seed" if difference.p is None else _format_p(difference.p)
    return f"{difference.value:+.1f} ({difference.low:z.1f} to {difference.high:z.1f}; {p})"


def _format_p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _newest_alike(
    out: Path, runs: Sequence[AblationRun], task: str, results: Sequence[ResultRow]
) -> dict[AblationRun, list[ResultRow]]:
    """Select each run's complete results on the state of a task that was evaluated last."""
    states = {}
    for run in runs:
        model = find_place(out, run).name
        rows = [row for row in results if (row.model, row.task) == (model, task)]
        states[run] = rows_by_state(rows)
    place = {row: number for number, row in enumerate(results)}
    pairs = [pair for of_run in states.values() for pair in of_run.items()]
    newest, _ = max(pairs, key=lambda pair: place[pair[1][-1]], default=((), []))
    return {run: of_run[newest] for run, of_run in states.items() if newest in of_run}


def _score_seeds(
    tested: dict[AblationRun, dict[str, TestedClips]], tasks: Sequence[str]
) -> dict[str, dict[str, SeedScores]]:
    """Compute scores and draws by variant and task, on the test clips common to all runs."""
    runs = list(tested)
    if not runs:
        return {}
    values, draws = [], []
    for task in tasks:
        aligned = _align(task, [of[task] for of in tested.values()])
        values.append([each.score for each in aligned])
        draws.append(resample(task, aligned))
    by_name = list(zip(tasks, values, draws, strict=True))
    if len(tasks) > 1:  # tasks are drawn independently, so draws are averaged
        by_name.append((MEAN, list(np.mean(values, axis=0)), np.mean(draws, axis=0)))
    scores: dict[str, dict[str, SeedScores]] = {}
    for variant in dict.fromkeys(run.variant for run in runs):
        index = [number for number, run in enumerate(runs) if run.variant == variant]
        scores[variant] = {
            name: SeedScores(np.asarray(of_runs)[index], drawn[index])
            for name, of_runs, drawn in by_name
        }
    return scores


def _align(task: str, tested: Sequence[TestedClips]) -> list[TestedClips]:
    """Select the common test clips, in the same order."""
    places = [
        {clip: at for at, clip in enumerate(zip(of.names, of.labels, strict=True))} for of in tested
    ]
    common = [clip for clip in places[0] if all(clip in each for each in places)]
    if not common or len({of.classes for of in tested}) > 1:
        raise ReportError(
            f"{task}: all runs must be evaluated on the same clips and classes; call again to "
            "evaluate those of another state",
            code="different",
            value=task,
        )
    return [
        of.take([place[clip] for clip in common]) for of, place in zip(tested, places, strict=True)
    ]


def _make_line(
    out: Path,
    variant: str,
    runs: Sequence[AblationRun],
    scores: Mapping[str, SeedScores],
    reference: Mapping[str, SeedScores],
) -> Line:
    """Estimate a variant's means by task, and its differences to `reference` unless empty."""
    progress = [read_progress(find_place(out, run), run.config.train.batch_size) for run in runs]
    return Line(
        variant=variant,
        num_seeds=len(runs),
        segments=sum(each.segments for each in progress),
        hours=sum(each.hours for each in progress),
        scores={task: estimate(of_task) for task, of_task in scores.items()},
        differences={task: estimate(scores[task], reference[task]) for task in reference},
    )
