"""A grid's runs on the disk: where each lies, how far it is, and the process that trains it."""

import contextlib
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from byola_rq.config import flatten, read_values, with_newer_keys
from byola_rq.errors import CheckpointError, TrainingError
from byola_rq.runs.directory import FREE_KEYS
from byola_rq.runs.metrics import read_metrics
from byola_rq.runtime.files import replace_file
from byola_rq.runtime.lock import locked
from evaluate.ablation.grid import AblationRun
from evaluate.reports.results import WriteError


@dataclass(frozen=True)
class Progress:
    """How far a run is, as its metrics.csv tells."""

    segments: int
    hours: float  # of its steps alone, all resumptions together
    loss: str


class Training:
    """A `byola-rq pretrain` process.

    Its group is its own: Ctrl-C on a terminal reaches the caller alone, who stops it once.

    Args:
        run: What to train.
        run_dir: Where; its configuration and what it says get files beside it.

    Raises:
        WriteError: If these cannot be written.
    """

    def __init__(self, run: AblationRun, run_dir: Path) -> None:
        place = run.config.run.model_copy(update={"dir": run_dir})
        config = run.config.model_copy(update={"run": place})
        path = run_dir.with_name(f"{run_dir.name}.yaml")
        self.run = run
        self.run_dir = run_dir
        self.log = path.with_suffix(".log")
        try:
            replace_file(path, config.to_yaml())
            with self.log.open("ab") as log:
                self._log_start = log.tell()
                self._process = subprocess.Popen(  # noqa: S603  # our own command
                    [sys.executable, "-m", "byola_rq", "pretrain", str(path)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    process_group=0,
                )
        except OSError as error:
            raise WriteError(
                f"{path}: cannot be written: {error.strerror or error}. Make room and call again "
                "to go on",
                code="unwritable",
                path=path,
            ) from error

    @property
    def has_ended(self) -> bool:
        """Whether the process is gone."""
        return self._process.poll() is not None

    def stop(self) -> None:
        """Let it finish its step, save and end."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)

    def wait(self) -> None:
        """Until it is gone."""
        self._process.wait()

    def check(self) -> None:
        """See that the run is trained.

        Raises:
            TrainingError: If not, with the last line it said.
        """
        if self._process.returncode == 0 and is_trained(self.run_dir):
            return
        said = self.log.read_bytes()[self._log_start :].decode(errors="replace").split("\n")
        last = next((line for line in reversed(said) if line.strip()), "it said nothing")
        raise TrainingError(
            f"{self.run}: not trained: {last.strip()} (status {self._process.returncode}; "
            f"{self.log})",
            path=self.log,
            value=self._process.returncode,
        )


def find_place(out: Path, run: AblationRun) -> Path:
    """The run's directory: the one there is, of whatever grid, or the one to make."""
    found = sorted(path for path in _folder(out).glob(f"*-{run.digest}") if path.is_dir())
    return found[0] if found else _folder(out) / f"{run.stem}-{run.digest}"


def is_trained(run_dir: Path) -> bool:
    """Whether a run is at its end: the model file comes last."""
    return (run_dir / "encoder.safetensors").is_file()


def find_changes(out: Path, run: AblationRun) -> tuple[Path, list[str]] | None:
    """The run of this name with another configuration, and in what it differs.

    None where there is none, or the run itself has begun.
    """
    if find_place(out, run).exists():
        return None
    pattern = re.compile(rf"{re.escape(run.stem)}-[0-9a-f]{{{len(run.digest)}}}")
    found = [path for path in _folder(out).glob("*") if pattern.fullmatch(path.name)]
    found = [path for path in found if (path / "config.yaml").is_file()]
    if not found:
        return None
    newest = max(found, key=lambda path: (path / "config.yaml").stat().st_mtime)
    before = flatten(with_newer_keys(read_values(newest / "config.yaml")))
    now = flatten(run.config.model_dump(mode="json"))
    differences = [
        f"{key} was {before.get(key)}, is {now.get(key)}"
        for key in sorted((before.keys() | now.keys()) - (FREE_KEYS - {"data.source"}))
        if before.get(key) != now.get(key)
    ]
    return newest, differences or ["data.source has other content"]


def read_progress(run_dir: Path, batch_size: int) -> Progress:
    """How far a run is; at its start where there is nothing yet, or nothing that can be read."""
    rows: list[dict[str, str]] = []
    with contextlib.suppress(CheckpointError, OSError):
        rows = read_metrics(run_dir / "metrics.csv")
    seconds, last_step = 0.0, 0
    for row in rows:
        step = int(row["step"])
        seconds += (step - last_step) * batch_size / float(row["segments_per_second"])
        last_step = step
    loss = rows[-1]["loss"] if rows else "nan"
    return Progress(last_step * batch_size, seconds / 3600, loss)


@contextlib.contextmanager
def held(out: Path, run: AblationRun) -> Iterator[None]:
    """Keep other calls from the run.

    Raises:
        LockedError: If another one is at work on it.
        WriteError: If the folder cannot be written.
    """
    folder = _folder(out)
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(folder / f".{run.digest}.lock", patience=0))
        except OSError as error:
            raise WriteError(
                f"{folder}: cannot be written: {error.strerror or error}",
                code="unwritable",
                path=folder,
            ) from error
        yield


def _folder(out: Path) -> Path:
    return out / "runs"
