"""Writing of metrics.csv: one row per logging interval, continued by a resumed run."""

import math
import re
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
    """Row of metrics.csv after `step` steps: means over the steps since the previous row."""

    step: int
    epoch: float  # clips seen per clip of the corpus
    loss: float  # without skipped steps; nan if all were skipped
    learning_rate: float  # of the last of these steps
    ema_decay: float  # likewise
    embedding_std: float  # over the batch, mean over dimensions; near 0 indicates collapse
    effective_rank: float  # of the batch's embeddings; near 1 they vary in one direction only
    skipped_steps: int  # number of these steps whose loss or gradient was not finite
    segments_per_second: float
    wait_share: float  # fraction of the time spent waiting for data
    seconds: float  # since this process started training
    validation: float = math.nan  # accuracy of the probe at this step, percent; nan: none was due


COLUMNS = [field.name for field in fields(Metrics)]


class StepTable:
    """Csv file with rows about steps; rows that cannot be written are kept for the next try.

    Args:
        path: Path of the file, created with its first row.
        columns: Names of the columns, including `step`.
        last_step: Rows after this step, which a resumed run repeats, are dropped.

    Raises:
        CheckpointError: If the file has other columns, or cannot be written.
    """

    def __init__(self, path: Path, columns: Sequence[str], last_step: int) -> None:
        self.path = path
        self.columns = columns
        rows = [row for row in _read_rows(path, columns) if int(row["step"]) <= last_step]
        self._size = 0  # of the complete rows in the file, in bytes
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
            OSError: If they cannot be written. The rows are kept, and the next call writes them.
        """
        is_first = not (self._size or self._unwritten)
        self._unwritten += self._format(rows, with_header=is_first)
        if not self._unwritten:
            return
        content = self._unwritten.encode()
        with open_own(self.path) as file:
            if file.tell() > self._size:  # an incomplete row of a failed call
                file.truncate(self._size)
            file.write(content)
        self._size += len(content)
        self._unwritten = ""

    def _format(self, rows: Iterable[Mapping[str, Any]], *, with_header: bool) -> str:
        cells = [[_short(row.get(name, "")) for name in self.columns] for row in rows]
        return csv_text([self.columns, *cells] if cells and with_header else cells, "\r\n")


def read_metrics(path: Path) -> list[dict[str, str]]:
    """Read rows of a metrics.csv; empty if there is no file. Damaged rows are left out.

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
    named = [dict(zip(found, row, strict=True)) for row in rows if len(row) == len(found)]
    # After a power failure a row may hold anything.
    return [row for row in named if re.fullmatch(r"[0-9]{1,18}", row["step"])]


def _short(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value
