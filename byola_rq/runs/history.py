"""Reading of run directories: configuration, metrics and best checkpoint."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from byola_rq.config import flatten, with_newer_keys
from byola_rq.errors import CheckpointError
from byola_rq.runs.best import Best, read_best
from byola_rq.runs.checkpoint import checkpoint_path
from byola_rq.text.parse import MAX_TEXT_BYTES, read_text, read_yaml
from byola_rq.text.shown import quoted

FloatArray = npt.NDArray[np.float64]

# Keys that the comparison of runs shows.
_NEEDED_KEYS: dict[str, tuple[type, ...]] = {
    "encoder.name": (str,),
    "encoder.dim": (int,),
    "views.augmentations": (list,),
    "train.epochs": (int,),
    "train.batch_size": (int,),
    "train.segments": (int, type(None)),
    "train.max_steps": (int, type(None)),
}


_MAX_STEPS = 10**15  # exact in float64


@dataclass(frozen=True)
class RecordedRun:
    """Content of a run's directory; a process may be writing to it."""

    path: Path
    name: str
    config: dict[str, Any]  # section.key -> value
    metrics: dict[str, FloatArray]  # column of metrics.csv -> value of each row; NaN where empty
    notes: list[str]  # damage found
    best: Best | None = None  # best validation score

    def last(self, column: str) -> float | None:
        """Return the value in the last row; None if there is no row or no such column."""
        values = self.metrics.get(column, np.empty(0))
        return float(values[-1]) if len(values) else None

    def newest(self, column: str) -> float | None:
        """Return the last value that is not NaN; None if there is none."""
        values = self.metrics.get(column, np.empty(0))
        values = values[~np.isnan(values)]
        return float(values[-1]) if len(values) else None

    def sum(self, column: str) -> float | None:
        """Sum all rows, ignoring NaN; None if there is no row or no such column."""
        values = self.metrics.get(column, np.empty(0))
        return float(np.nansum(values)) if len(values) else None

    @property
    def num_steps(self) -> int | None:
        """Number of steps of the whole run; None if it cannot be determined.

        Computed from the epoch if no other key sets the length. metrics.csv has six digits of it:
        accurate within 0.001 %.
        """
        segments, batch_size = self.config["train.segments"], self.config["train.batch_size"]
        if segments is not None:
            return -(-int(segments) // max(int(batch_size), 1))  # rounded up
        max_steps: int | None = self.config["train.max_steps"]
        step, epoch = self.last("step"), self.last("epoch")
        if step is None or epoch is None or not epoch > 0:
            return max_steps
        expected = min(self.config["train.epochs"], _MAX_STEPS) * step / epoch
        num_steps = int(min(max(expected, step), _MAX_STEPS))
        return min(num_steps, max_steps or num_steps)


def find_runs(paths: Sequence[Path]) -> tuple[list[RecordedRun], list[str]]:
    """Read the runs in `paths`: each a run.dir, or a folder of them.

    Returns:
        The runs, in the given order and by name within a folder, each once; and a line for all
        damage that was skipped.

    Raises:
        CheckpointError: If a path is neither, or a run's configuration cannot be read.
    """
    runs: dict[Path, RecordedRun] = {}
    refused: list[CheckpointError] = []
    for path in paths:
        folders = _run_folders(path)
        for folder in folders:
            try:
                runs.setdefault(folder.resolve(), _read_run(folder))
            except CheckpointError as error:
                if folder == path:
                    raise
                refused.append(error)
    if refused and not runs:
        raise refused[0]
    if not runs:
        raise CheckpointError("at least one RUN must be named; got none", code="missing", key="RUN")
    named = _with_names(list(runs.values()))
    left_out = [f"{error}; this run is left out" for error in refused]
    return named, left_out + [note for run in named for note in run.notes]


def read_columns(path: Path) -> tuple[dict[str, FloatArray], list[str]]:
    """Read a metrics.csv with any columns.

    Returns:
        Column -> one number per row, NaN for empty cells; no columns if there is no file yet or it
        is not a metrics.csv. And a line for everything left out: damaged rows, and an incomplete
        last one (the run is writing it, or was killed then).
    """
    try:
        text = read_text(path, MAX_TEXT_BYTES, errors="replace")
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    except FileNotFoundError:
        return {}, []
    except (OSError, ValueError) as error:
        return {}, [f"{path}: cannot be read ({error})"]
    # Text after the last line end is incomplete, even if it looks complete.
    header, *lines = text.split("\n")[:-1] or [""]
    names = header.split(",")
    if not {"step", "loss"} <= set(names) or len(set(names)) < len(names):
        return {}, [f"{path}: must start with the names of its columns; got {header[:60]!r}"]
    rows, damaged = [], []
    for number, line in enumerate(lines, start=2):
        row = _parse_row(line, len(names))
        step = row[names.index("step")] if row else math.nan
        if row is None or not step.is_integer() or not 0 <= step <= _MAX_STEPS:
            damaged.append(str(number))
        else:
            rows.append(row)
    columns = np.array(rows, np.float64).reshape(-1, len(names)).T
    notes = []
    if damaged:
        which = ", ".join(damaged[:5]) + (", ..." if len(damaged) > 5 else "")
        notes.append(
            f"{path}: {len(damaged)} of {len(lines)} rows are damaged and left out (line {which})"
        )
    if not text.endswith("\n"):
        notes.append(f"{path}: the last row is incomplete and left out")
    return dict(zip(names, columns, strict=True)), notes


def _parse_row(line: str, num_columns: int) -> list[float] | None:
    """Parse the numbers of a row, NaN for empty cells; None if it is damaged."""
    cells = line.split(",")
    if len(cells) != num_columns:
        return None
    try:
        return [float(cell) if cell else np.nan for cell in cells]
    except ValueError:
        return None


def _run_folders(path: Path) -> list[Path]:
    try:
        if (path / "config.yaml").is_file():
            return [path]
        folders = sorted(each.parent for each in path.glob("*/config.yaml"))
    except OSError as error:
        message = f"{path}: cannot be read ({error})"
        raise CheckpointError(message, code="unreadable", path=path) from error
    if not folders:
        what = "a folder without one" if path.is_dir() else "a file" if path.exists() else "nothing"
        raise CheckpointError(
            f"{path}: RUN must be the run.dir of a run, which holds a config.yaml, or a folder of "
            f"such; got {what}",
            code="foreign" if path.exists() else "missing",
            path=path,
            key="RUN",
        )
    return folders


def _read_run(folder: Path) -> RecordedRun:
    path = folder / "config.yaml"
    try:
        values = read_yaml(path)
    except (OSError, ValueError) as error:
        message = f"{path}: not a configuration that can be read ({error})"
        raise CheckpointError(message, code="unreadable", path=path) from error
    config = flatten(with_newer_keys(values)) if isinstance(values, dict) else {}
    for key, types in _NEEDED_KEYS.items():
        value = config.get(key)
        is_huge = isinstance(value, int) and abs(value) >= 2**63
        if not isinstance(value, types) or key not in config or is_huge:
            message = f"{path}: must be the configuration of a run; its {key} is {quoted(value)}"
            raise CheckpointError(message, code="value", path=path, key=key, value=value)
    metrics, notes = read_columns(folder / "metrics.csv")
    best, best_notes = _find_best(folder)
    return RecordedRun(folder, folder.resolve().name, config, metrics, notes + best_notes, best)


def _find_best(folder: Path) -> tuple[Best | None, list[str]]:
    """Read best.json, and lines about its damage; digests are verified on loading."""
    try:
        best = read_best(folder)
    except CheckpointError as error:
        return None, [str(error)]
    # The manifest is checked, as for the newest checkpoint.
    if best is None or (checkpoint_path(folder, best.step) / "manifest.json").is_file():
        return best, []
    path = checkpoint_path(folder, best.step)
    return best, [f"{path}: is missing; {folder / 'best.json'} names it as the best"]


def _with_names(runs: list[RecordedRun]) -> list[RecordedRun]:
    """Name runs after their folders, or after their paths if folder names repeat."""
    names = [run.name for run in runs]
    return [replace(run, name=str(run.path)) if names.count(run.name) > 1 else run for run in runs]
