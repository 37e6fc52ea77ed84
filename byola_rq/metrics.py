"""metrics.csv: one row per logging interval, continued by a resumed run."""

import csv
import io
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from byola_rq.errors import CheckpointError
from byola_rq.files import replace_file


@dataclass(frozen=True)
class Metrics:
    """One row: means over the steps since the row before, taken after `step` steps."""

    step: int
    epoch: float  # clips seen per clip of the corpus
    loss: float
    learning_rate: float  # of the last of these steps
    ema_decay: float  # likewise
    embedding_std: float  # over the batch, mean over dimensions; towards 0 it has collapsed
    segments_per_second: float
    wait_share: float  # of the time, spent waiting for data
    seconds: float  # since this process started training


COLUMNS = [field.name for field in fields(Metrics)]


class MetricsFile:
    """Append rows to `path`; rows after `last_step`, which a resumed run repeats, are dropped."""

    def __init__(self, path: Path, last_step: int) -> None:
        self.path = path
        rows = [row for row in read_metrics(path) if int(row["step"]) <= last_step]
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
        replace_file(path, text.getvalue())

    def append(self, metrics: Metrics) -> None:
        """Write one row; it is in the file when this returns."""
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, COLUMNS).writerow(
                {name: _short(value) for name, value in asdict(metrics).items()}
            )


def read_metrics(path: Path) -> list[dict[str, str]]:
    """Rows of a metrics.csv; none where there is no file yet. A torn last row is left out.

    Raises:
        CheckpointError: If the file is not a metrics.csv of this format.
    """
    if not path.exists():
        return []
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != COLUMNS:
            raise CheckpointError(f"{path}: columns must be {', '.join(COLUMNS)}")
        return [row for row in reader if None not in row.values()]


def _short(value: float) -> int | float | str:
    return value if isinstance(value, int) else f"{value:.6g}"
