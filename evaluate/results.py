"""results.csv and the predictions beside it: appended whole, read back with every check."""

import csv
import fcntl
import io
import os
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from byola_rq.errors import ByolaRQError
from byola_rq.files import replace_file


class ReportError(ByolaRQError, ValueError):
    """An output folder or results file that cannot be used; the message starts with its path."""


@dataclass(frozen=True)
class ResultRow:
    """One row of results.csv, its columns in this order: a model on a task, one fold, one seed."""

    run_id: str  # one model, task and probe in one call; names its file of predictions
    date: str  # ISO 8601, UTC
    model: str
    weights_sha256: str
    task: str
    split: str  # what divided the clips
    fold: str  # the fold tested on; empty where there is one split
    seed: int
    probe: str
    probe_params: str  # JSON
    metric: str
    score: float  # percent
    n_train: int
    n_valid: int
    n_test: int
    n_classes: int
    n_skipped: int
    embedding_dim: int
    norm: str  # whose mean and std standardized the log-mels: task or checkpoint
    unit_seconds: float
    fit_seconds: float
    embed_seconds: float
    byola_rq: str
    torch: str
    sklearn: str
    device: str


@dataclass(frozen=True)
class PredictionRow:
    """One test clip of a run: its row of predictions/<run_id>.csv."""

    file_name: str
    label: str
    prediction: str
    fold: str
    seed: int


Row = TypeVar("Row", ResultRow, PredictionRow)

_PARSERS: dict[Any, Callable[[str], Any]] = {str: str, int: int, float: float}


def results_path(out: Path) -> Path:
    """The results file of an output folder."""
    return out / "results.csv"


def predictions_path(out: Path, run_id: str) -> Path:
    """The predictions of one run."""
    return out / "predictions" / f"{run_id}.csv"


def open_folder(out: Path) -> None:
    """Make the output folder and see that it can be written and that its results can be read.

    Called before any work, so that hours of it are not lost.

    Raises:
        ReportError: Naming the folder or file.
    """
    probe = out / f".writable-{os.getpid()}"
    try:
        predictions_path(out, "").parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
        if results_path(out).exists():
            results_path(out).open("ab").close()
    except OSError as error:
        raise ReportError(f"{out}: the output folder must be writable: {error.strerror}") from error
    read_results(out)


def append_run(out: Path, rows: Sequence[ResultRow], predictions: Sequence[PredictionRow]) -> None:
    """Write a run's predictions, then append its rows to results.csv.

    In this order a row never lacks its predictions.
    """
    replace_file(predictions_path(out, rows[0].run_id), _to_csv(predictions))
    _append(results_path(out), _to_csv(rows))


def read_results(out: Path) -> list[ResultRow]:
    """All rows of results.csv, oldest first; none where there is no file yet.

    Raises:
        ReportError: If its header or a row is not ours, or its last line is torn.
    """
    path = results_path(out)
    return _read(path, ResultRow) if path.exists() else []


def read_predictions(out: Path, run_id: str) -> list[PredictionRow]:
    """The predictions of one run.

    Raises:
        ReportError: If the file is missing or not ours.
    """
    return _read(predictions_path(out, run_id), PredictionRow)


def _append(path: Path, text: str) -> None:
    # Not written anew and renamed, as other files are: two calls that share a folder would lose
    # each other's rows. One write under a lock, taken back if it did not end, leaves whole rows;
    # only a power cut can tear the last one, and reading finds that.
    with path.open("ab", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        size = os.fstat(file.fileno()).st_size
        _header, rows = text.split("\n", 1)
        data = (text if size == 0 else rows).encode()
        try:
            written = file.write(data)
            os.fsync(file.fileno())
            if written != len(data):
                raise OSError(f"{path}: only {written} of {len(data)} bytes could be written")
        except OSError:
            os.ftruncate(file.fileno(), size)
            raise


def _to_csv(rows: Sequence[ResultRow] | Sequence[PredictionRow]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(field.name for field in fields(rows[0]))
    for row in rows:
        values = astuple(row)
        writer.writerow(round(value, 4) if isinstance(value, float) else value for value in values)
    return text.getvalue()


def _read(path: Path, row_type: type[Row]) -> list[Row]:
    try:
        text = path.read_text(encoding="utf-8")
        records = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except OSError as error:
        raise ReportError(f"{path}: cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ReportError(f"{path}: not a csv of ours: {error}. Move it away") from error
    if not text:
        return []
    names = [field.name for field in fields(row_type)]
    if records[0] != names:
        raise ReportError(
            f"{path}, row 1: the header must be {','.join(names)}; got {','.join(records[0])}. "
            "Move the file away or name another output folder"
        )
    if not text.endswith("\n"):
        raise ReportError(
            f"{path}, row {len(records)}: the last line must be whole; it was cut off after "
            f"{','.join(records[-1])[-40:]!r}. Delete that line"
        )
    return [_parse(path, number, row, row_type) for number, row in enumerate(records[1:], start=2)]


def _parse(path: Path, number: int, record: list[str], row_type: type[Row]) -> Row:
    columns = fields(row_type)
    if len(record) != len(columns):
        raise ReportError(
            f"{path}, row {number}: a row must have {len(columns)} fields; got {len(record)}"
        )
    values = []
    for field, text in zip(columns, record, strict=True):
        try:
            values.append(_PARSERS[field.type](text))
        except ValueError as error:
            raise ReportError(f"{path}, row {number}: {field.name}: {error}") from error
    return row_type(*values)
