"""Comparison of runs as text: progress, metrics, configuration differences."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from byola_rq.runs.checkpoint import checkpoint_path
from byola_rq.runs.history import RecordedRun

_NOT_THERE = "-"
_PROGRESS = (
    "run",
    "steps",
    "epoch",
    "loss",
    "embedding std",
    "effective rank",
    "segments/s",
    "waiting",
    "skipped",
    "last checkpoint",
)
_SCORES = ("validation", "best checkpoint")
# (seconds from which a unit is used, seconds of the unit, its name).
_UNITS = ((2 * 86400, 86400, "days"), (2 * 3600, 3600, "h"), (120, 60, "min"), (0, 1, "s"))


def describe_runs(runs: Sequence[RecordedRun], now: float | None = None) -> Iterator[str]:
    """Compare runs: progress, latest metrics, validation scores, configuration differences.

    Args:
        runs: Runs, at least one.
        now: Time for the age of checkpoints, in seconds since 1970; None uses the clock.

    Yields:
        Lines of text.
    """
    now = time.time() if now is None else now
    has_scores = any(run.newest("validation") is not None or run.best for run in runs)
    progress = [[*_PROGRESS, *(_SCORES if has_scores else ())]]
    kinds = [["run", "encoder", "D", "augmentations"]]
    for run in runs:
        progress.append([*_progress(run, now), *(_scores(run) if has_scores else ())])
        augmentations = _text(run.config["views.augmentations"]) or "none"
        kinds.append(
            [run.name, run.config["encoder.name"], str(run.config["encoder.dim"]), augmentations]
        )
    yield from _align(progress, right=[*range(1, 9), 10])
    yield ""
    yield from _align(kinds, right=[2])
    if len(runs) > 1:
        yield ""
        differences = list(_differences(runs))
        if differences:
            yield from _align([["differs", "value", "runs"], *differences])
        else:
            yield "their configurations are the same"


def _progress(run: RecordedRun, now: float) -> list[str]:
    step, num_steps = run.last("step") or 0, run.num_steps
    steps = f"{step:.0f}/{'?' if num_steps is None else num_steps}"
    if num_steps:
        steps += f" ({int(100 * step / num_steps)} %)"
    rate, wait = run.last("segments_per_second"), run.last("wait_share")
    return [
        run.name,
        steps,
        _number(run.last("epoch"), ".2f"),
        _number(run.last("loss"), ".4f"),
        _number(run.last("embedding_std"), ".3g"),
        _number(run.last("effective_rank"), ".1f"),
        _number(rate, ".0f" if rate and rate >= 100 else ".3g"),
        _NOT_THERE if wait is None else f"{100 * wait:.0f} %",
        _number(run.sum("skipped_steps"), ".0f"),
        _last_checkpoint(run.path, now),
    ]


def _scores(run: RecordedRun) -> list[str]:
    """Format the last score, and the best with its checkpoint."""
    score, best = run.newest("validation"), run.best
    found = f"{checkpoint_path(run.path, best.step).name}, {best.score:.1f} %" if best else "none"
    return [_NOT_THERE if score is None else f"{score:.1f} %", found]


def _last_checkpoint(folder: Path, now: float) -> str:
    """Format name and age of the newest checkpoint; digests are verified on loading."""
    found = [
        (int(path.name.removeprefix("step-")), path)
        for path in folder.glob("step-*")
        if path.name.removeprefix("step-").isdecimal()
    ]
    while found:
        _, path = max(found)
        try:
            seconds = max(now - (path / "manifest.json").stat().st_mtime, 0.0)
        except OSError:  # just pruned, or damaged
            found.remove(max(found))
            continue
        size, name = next((size, name) for least, size, name in _UNITS if seconds >= least)
        return f"{path.name}, {seconds / size:.0f} {name} ago"
    return "none"


def _differences(runs: Sequence[RecordedRun]) -> Iterator[list[str]]:
    """Iterate over (key, value, runs that have it) for every key whose values differ."""
    for key in sorted({key for run in runs for key in run.config}):
        groups: dict[str, list[str]] = {}
        for run in runs:
            value = run.config.get(key, _NOT_THERE)
            groups.setdefault(_text(value), []).append(run.name)
        if len(groups) > 1 and key != "run.dir":
            for number, (text, names) in enumerate(groups.items()):
                yield ["" if number else key, text, ", ".join(names)]


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _number(value: float | None, form: str) -> str:
    return _NOT_THERE if value is None else format(value, form)


def _align(rows: list[list[str]], right: Sequence[int] = ()) -> Iterator[str]:
    """Format rows with columns as wide as their widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.rjust(width) if place in right else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()
