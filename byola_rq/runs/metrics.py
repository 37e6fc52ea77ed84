"""metrics.csv: one row per logging interval, continued by a resumed run."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from byola_rq.errors import CheckpointError
from byola_rq.runtime.files import open_own, replace_file
from byola_rq.text.cells import csv_rows, csv_text
from byola_rq.text.parse import MAX_TEXT_BYTES, read_text


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """One row: means over the steps since the row before, taken after `step` steps."""

    step: int
    epoch: float  # clips seen per clip of the corpus
    loss: float  # skipped steps left out; nan where all were skipped
    learning_rate: float  # of the last of these steps
    ema_decay: float  # likewise
    embedding_std: float  # over the batch, mean over dimensions; towards 0 it has collapsed
    effective_rank: float  # of the batch's embeddings; towards 1 they differ in one direction only
    skipped_steps: int  # of these steps, those whose loss or gradient was not finite
    segments_per_second: float
    wait_share: float  # of the time, spent waiting for data
    seconds: float  # since this process started training
    validation: float = math.nan  # accuracy of the probe at this step, percent; nan: none was due


COLUMNS = [field.name for field in fields(Metrics)]


class StepTable:
    """A csv file whose rows say something about a step; a disk that refuses loses none of them.

    Args:
        path: Of the file; there is none before it has a row.
        columns: Its columns, `step` among them.
        last_step: Rows after it, which a resumed run repeats, are dropped.

    Raises:
        CheckpointError: If the file has other columns, or cannot be written.
    """

    def __init__(self, path: Path, columns: Sequence[str], last_step: int) -> None:
        self.path = path
        self.columns = columns
        rows = [row for row in _read_rows(path, columns) if int(row["step"]) <= last_step]
        self._size = 0  # of what is whole in the file, in bytes
        self._unwritten = ""
        if rows:
            text = self._format(rows, with_header=True)
            try:
                replace_file(path, text)
            except OSError as error:
                message = f"{path}: cannot be written ({error})"
                raise CheckpointError(message, code="unwritable", path=path) from error
            self._size = len(text.encode())
        else:
            path.unlink(missing_ok=True)

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write rows; they are in the file when this returns.

        Raises:
            OSError: If the disk refuses. The rows are kept, and the next call writes them too.
        """
        is_first = not (self._size or self._unwritten)
        self._unwritten += self._format(rows, with_header=is_first)
        if not self._unwritten:
            return
        content = self._unwritten.encode()
        with open_own(self.path) as file:
            if file.tell() > self._size:  # half a row, left of a try that failed
                file.truncate(self._size)
            file.write(content)
        self._size += len(content)
        self._unwritten = ""

    def _format(self, rows: Iterable[Mapping[str, Any]], *, with_header: bool) -> str:
        cells = [[_short(row.get(name, "")) for name in self.columns] for row in rows]
        return csv_text([self.columns, *cells] if cells and with_header else cells, "\r\n")


def read_metrics(path: Path) -> list[dict[str, str]]:
    """Rows of a metrics.csv; none where there is no file yet. A torn last row is left out.

    Raises:
        CheckpointError: If the file is not a metrics.csv of this format.
    """
    return _read_rows(path, COLUMNS)


def _read_rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    if not path.exists():
        return []
    try:
        text = read_text(path, MAX_TEXT_BYTES)
        whole = text[: text.rfind("\n") + 1]
        found, *rows = csv_rows(whole) or [[]]
    except (OSError, ValueError) as error:
        message = f"{path}: cannot be read ({error})"
        raise CheckpointError(message, code="unreadable", path=path) from error
    if whole and set(found) != set(columns):
        message = f"{path}: columns must be {', '.join(columns)}"
        raise CheckpointError(message, code="malformed", path=path, value=found)
    return [dict(zip(found, row, strict=True)) for row in rows if len(row) == len(found)]


def _short(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value
