"""results.csv: appended atomically, checked when read."""

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

from byola_rq.runtime.files import (
    is_own,
    link_error,
    open_own,
    own_folder,
    replace_file,
    whole_file,
)
from byola_rq.runtime.lock import locked
from byola_rq.text.cells import csv_text
from evaluate.reports.predictions import PredictionRow, add_predictions, predictions_path
from evaluate.reports.records import (
    ReportError,
    header_error,
    parse_record,
    read_records,
    writing,
)


@dataclass(frozen=True)
class ResultRow:
    """Row of results.csv, its columns in this order: a model on a task, one fold, one seed."""

    run_id: str  # digest of all that decides a run, and the name of its file of predictions
    date: str  # ISO 8601, UTC
    model: str
    weights_sha256: str
    task: str
    split: str  # rule that divided the clips
    fold: str  # the fold tested on; empty if there is a single split
    seed: int
    probe: str
    probe_params: str  # JSON
    metric: str  # accuracy or mAP
    score: float  # percent
    n_train: int
    n_valid: int
    n_test: int
    n_classes: int
    n_skipped: int
    embedding_dim: int
    norm: str  # source of the mean and std of the log-mels: task or checkpoint
    unit_seconds: float
    fit_seconds: float
    embed_seconds: float
    byola_rq: str
    torch: str
    sklearn: str
    device: str
    model_version: str = ""  # release of the built-in encoder
    label_fraction: float = 1.0  # share of the training and validation clips used
    n_unlabelled: int = 0  # training and validation clips not used

    @property
    def num_clips(self) -> int:
        """Number of clips of all parts of the set."""
        return self.n_train + self.n_valid + self.n_test + self.n_unlabelled

    @property
    def limit(self) -> str:
        """Number of clips per class that the run was limited to; empty without a limit."""
        return self.split.partition("; limit ")[2]


SUMMARY_NAMES = ("model", "probe", "source")  # the columns before the scores
_RESULT_COLUMNS = [field.name for field in fields(ResultRow)]
_FIRST_ADDED = "model_version"  # older files end before this or a later column
_PARSERS: dict[Any, Callable[[str], Any]] = {str: str, int: int, float: float}


def results_path(out: Path) -> Path:
    """Return the results file of an output folder."""
    return out / "results.csv"


def summary_path(out: Path) -> Path:
    """Return the csv of the summary of an output folder."""
    return out / "summary.csv"


def open_folder(out: Path) -> None:
    """Make the output folder; check that it is writable and that its tables are ours.

    Called before any work, so that hours of it are not lost.

    Raises:
        ReportError: If it cannot be used; the message names the folder or file.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        if (out / "cache").is_symlink():
            raise link_error(out / "cache")
        for folder in (out, own_folder(predictions_path(out, "").parent)):
            with whole_file(folder / ".writable"):
                pass
            (folder / ".writable").unlink(missing_ok=True)  # a concurrent call may remove it
        if results_path(out).exists():
            open_own(results_path(out)).close()
    except OSError as error:
        raise ReportError(
            f"{out}: the output folder must be writable: {error.strerror}",
            code="unwritable",
            path=out,
        ) from error
    read_results(out)
    path, names = summary_path(out), ",".join(SUMMARY_NAMES)
    if is_own(path):  # a link is replaced, unread
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            found = file.read(80)
        if not found.startswith(names):
            raise ReportError(
                f"{path}: would be replaced, and is not of this program: it must begin with "
                f"{names}; got {found!r}. Move it away or name another output folder",
                code="exists",
                path=path,
            )


def finished(out: Path, run_id: str) -> set[tuple[str, int]]:
    """Return the (fold, seed) pairs of a run that are in results.csv.

    Raises:
        ReportError: If results.csv is not valid.
    """
    return {(row.fold, row.seed) for row in read_results(out) if row.run_id == run_id}


def append_fold(
    out: Path,
    rows: Sequence[ResultRow],
    predictions: Sequence[PredictionRow],
    classes: Sequence[str] = (),
) -> None:
    """Append one run's results of one fold: its predictions, then its rows of results.csv.

    In this order a row never lacks its predictions; predictions that a killed call left without a
    row are replaced. If another call has finished the same (fold, seed), its results are kept.

    Args:
        out: Output folder.
        rows: Rows of results.csv, one per seed.
        predictions: Predictions of every test clip and seed.
        classes: Class names of the scores of a multi-label task; empty otherwise.

    Raises:
        WriteError: If a file cannot be written, as on a full disk. Earlier results are kept.
        ReportError: If results.csv or the predictions are not valid.
    """
    path = results_path(out)
    run_id = rows[0].run_id
    with writing(path), locked(out / ".lock", patience=-1):
        done = finished(out, run_id)
        new_rows = [row for row in rows if (row.fold, row.seed) not in done]
        if new_rows:
            added = {(row.fold, row.seed) for row in new_rows}
            new_predictions = [p for p in predictions if (p.fold, p.seed) in added]
            add_predictions(predictions_path(out, run_id), new_predictions, classes)
            _append_rows(path, new_rows)


def read_results(out: Path) -> list[ResultRow]:
    """Read results.csv, oldest row first; empty if there is no file yet.

    Raises:
        ReportError: If the header or a row is not valid, or the last line is incomplete.
    """
    path = results_path(out)
    records = read_records(path) if path.exists() else []
    header = records[0] if records else _RESULT_COLUMNS
    num_oldest = _RESULT_COLUMNS.index(_FIRST_ADDED)
    if len(header) < num_oldest or header != _RESULT_COLUMNS[: len(header)]:
        raise header_error(path, header, _RESULT_COLUMNS)
    columns = [(each.name, _PARSERS[each.type]) for each in fields(ResultRow)[: len(header)]]
    return [
        ResultRow(*parse_record(path, number, record, columns))
        for number, record in enumerate(records[1:], start=2)
    ]


def _append_rows(path: Path, rows: Sequence[ResultRow]) -> None:
    # The whole file is rewritten: rows of an older file have fewer columns.
    values = (
        [_round(value) for value in astuple(row)] for row in (*read_results(path.parent), *rows)
    )
    replace_file(path, csv_text([_RESULT_COLUMNS, *values]))


def _round(value: object) -> object:
    return round(value, 4) if isinstance(value, float) else value
