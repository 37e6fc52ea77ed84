"""Scores of encoders over the number of segments seen: table and picture.

Run from the checkout: python -m benchmarks.score_curve --help
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.harness import new_app
from byola_rq.embed.embedder import load
from byola_rq.plots.style import COLORS, QUIET, make_figure, save_figure, tidy
from evaluate.models import BASELINES
from evaluate.reports.intervals import Values, percentile_interval
from evaluate.reports.results import ResultRow, read_results
from evaluate.reports.scores import read_tested_clips, resample, rows_by_state

app = new_app(no_args_is_help=True)


@dataclass(frozen=True)
class Point:
    """Encoder with its number of segments, and its score on each task, `mean` last, in percent."""

    name: str
    num_segments: int
    num_seeds: int
    scores: Mapping[str, tuple[float, float, float]]  # value, lower and upper end

    @property
    def mean(self) -> float:
        """Mean over the tasks."""
        return self.scores["mean"][0]


@app.command()
def main(
    results: Annotated[list[Path], typer.Argument(help="Folders written by `python -m evaluate`.")],
    model: Annotated[list[Path], typer.Option(help="Model files that were evaluated; repeatable.")],
    picture: Annotated[Path | None, typer.Option(help="Also draw mean over segments.")] = None,
) -> None:
    """Print scores of `python -m evaluate` for each model, and their mean over all tasks.

    Intervals: 95 %, bootstrap over test clips, with all seeds of a baseline together. The number of
    segments (steps times batch) comes from the model files.

    \b
    Example:
      python -m benchmarks.score_curve results/ --model a.safetensors --model b.safetensors
    """
    num_segments = {}
    for path in model:
        embedder = load(path)
        if not {"steps", "batch_size"} <= embedder.summary.keys():
            raise typer.BadParameter(f"{path}: has no steps and batch size")
        seen = embedder.summary["steps"] * embedder.summary["batch_size"]
        num_segments[embedder.weights_sha256] = seen
    points = keep_whole([point for out in results for point in read_points(out, num_segments)])
    print_table(sorted(points, key=lambda point: (point.num_segments, point.mean)))
    if picture is not None:
        save_figure(draw_curve(points), picture)


def read_points(out: Path, num_segments: Mapping[str, int]) -> list[Point]:
    """Read the encoders of one folder; seeds of a baseline form one point."""
    rows_of: dict[tuple[str, str], list[ResultRow]] = {}
    for row in (each for each in read_results(out) if each.label_fraction == 1):
        digest = "" if row.model in BASELINES else row.weights_sha256
        rows_of.setdefault((row.model, digest), []).append(row)
    unknown = [name for name, digest in rows_of if digest and digest not in num_segments]
    if unknown:
        raise typer.BadParameter(f"{out}: no model file given of {', '.join(unknown)}")
    return [
        _make_point(out, name, rows, num_segments.get(digest, 0))
        for (name, digest), rows in rows_of.items()
    ]


def _make_point(out: Path, name: str, rows: Sequence[ResultRow], num_segments: int) -> Point:
    scores: dict[str, tuple[float, float, float]] = {}
    draws: list[Values] = []
    for task in dict.fromkeys(row.task for row in rows):
        states = list(rows_by_state([row for row in rows if row.task == task]).values())
        if not states:
            continue  # folds are missing
        newest = states[-1]
        draws.append(resample(task, [read_tested_clips(out, newest)])[0])
        value = float(np.mean([row.score for row in newest]))
        scores[task] = (value, *percentile_interval(draws[-1]))
    mean = float(np.mean([value for value, _, _ in scores.values()]))
    scores["mean"] = (mean, *percentile_interval(np.mean(draws, axis=0)))
    return Point(name, num_segments, len({row.weights_sha256 for row in rows}), scores)


def keep_whole(points: Sequence[Point]) -> list[Point]:
    """Keep points with a score on every task; other means are not comparable."""
    tasks = dict.fromkeys(task for point in points for task in point.scores)
    for point in points:
        if lacking := [task for task in tasks if task not in point.scores]:
            print(f"left out: {point.name}, without {', '.join(lacking)}", file=sys.stderr)
    return [point for point in points if point.scores.keys() == tasks.keys()]


def print_table(points: Sequence[Point]) -> None:
    """Print the points as a Markdown table."""
    tasks = list(points[0].scores)
    print(f"| encoder | segments | {' | '.join(tasks)} |\n{'|---' * (len(tasks) + 2)}|")
    for point in points:
        name = f"{point.name}, {point.num_seeds} seeds" if point.num_seeds > 1 else point.name
        scores = [
            f"{value:.1f} ({low:.1f}-{high:.1f})" for value, low, high in point.scores.values()
        ]
        print(f"| {name} | {point.num_segments:,} | {' | '.join(scores)} |")


def draw_curve(points: Sequence[Point]) -> Any:
    """Plot the mean score over segments: a line per name, a horizontal one for a baseline."""
    figure = make_figure(7.5, 4.6)
    axes = figure.subplots()
    most = max(point.num_segments for point in points) / 1e6
    for point in points:
        if not point.num_segments:
            axes.axhline(point.mean, color=QUIET, linewidth=1, linestyle="--")
            axes.text(0, point.mean + 0.15, point.name, color=QUIET, fontsize=9)
    trained = [point for point in points if point.num_segments]
    for number, name in enumerate(dict.fromkeys(point.name for point in trained)):
        curve = sorted(
            (each.num_segments / 1e6, each.mean) for each in trained if each.name == name
        )
        color, marker = COLORS[number % len(COLORS)], "os^D"[number // len(COLORS)]
        axes.plot(*zip(*curve, strict=True), marker=marker, color=color, linewidth=1.4, label=name)
    axes.set_xlim(-0.02 * most, 1.05 * most)
    axes.set_xlabel("segments seen, millions")
    axes.set_ylabel("percent right, mean over the sets")
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    tidy(axes)
    return figure


if __name__ == "__main__":
    app()
