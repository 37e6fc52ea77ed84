"""Runs of a grid on disk: their directories, progress and training processes."""

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from byola_rq.config import flatten, read_values, with_newer_keys
from byola_rq.errors import CheckpointError, TrainingError
from byola_rq.runs.directory import FREE_KEYS
from byola_rq.runs.metrics import read_metrics
from byola_rq.runtime.files import open_own, own_folder, replace_file
from byola_rq.runtime.lock import locked
from evaluate.ablation.grid import AblationRun
from evaluate.reports.records import writing


@dataclass(frozen=True)
class Progress:
    """Progress of a run by its metrics.csv."""

    segments: int
    hours: float  # time of the steps only, over all resumptions
    loss: str


class Training:
    """Process of `byola-rq pretrain`, which saves and ends with this one, however this one ends.

    It has its own process group: Ctrl-C on a terminal reaches only the caller, who stops it once.

    Args:
        run: Run to train.
        run_dir: Directory of the run; configuration and log are written beside it.

    Raises:
        WriteError: If these files cannot be written.
    """

    def __init__(self, run: AblationRun, run_dir: Path) -> None:
        place = run.config.run.model_copy(update={"dir": run_dir})
        config = run.config.model_copy(update={"run": place})
        path = run_dir.with_name(f"{run_dir.name}.yaml")
        self.run = run
        self.run_dir = run_dir
        self.log = path.with_suffix(".log")
        with writing(path):
            replace_file(path, config.to_yaml())
            with open_own(self.log) as log:
                self._log_start = log.tell()
                self._process = subprocess.Popen(  # noqa: S603  # a fixed command
                    [sys.executable, "-m", "byola_rq", "pretrain", str(path), "--stop-at-eof"],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    process_group=0,
                )

    @property
    def has_ended(self) -> bool:
        """True if the process has ended."""
        return self._process.poll() is not None

    def stop(self) -> None:
        """Request that the process finish its step, save and exit."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def wait(self) -> None:
        """Wait until the process has ended."""
        self._process.wait()

    def check(self) -> None:
        """Check that the run is trained.

        Raises:
            TrainingError: If not, with the last line of the log.
        """
        if self._process.returncode == 0 and is_trained(self.run_dir):
            return
        lines = self.log.read_bytes()[self._log_start :].decode(errors="replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "no output")
        raise TrainingError(
            f"{self.run}: not trained: {last.strip()} (status {self._process.returncode}; "
            f"{self.log})",
            path=self.log,
            value=self._process.returncode,
        )


def find_place(out: Path, run: AblationRun) -> Path:
    """Find the run's directory: an existing one, of any grid, or the one to make."""
    found = sorted(path for path in _folder(out).glob(f"*-{run.digest}") if path.is_dir())
    return found[0] if found else _folder(out) / f"{run.stem}-{run.digest}"


def is_trained(run_dir: Path) -> bool:
    """Return True if a run is complete: its model file is written last."""
    return (run_dir / "encoder.safetensors").is_file()


def find_changes(out: Path, run: AblationRun) -> tuple[Path, list[str]] | None:
    """Find a run of the same name with another configuration, and the differences.

    None if there is no such run, or if this run has begun itself.
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
    """Read the progress of a run; zero if its metrics are missing or unreadable."""
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
def locked_run(out: Path, run: AblationRun) -> Iterator[None]:
    """Lock a run, so that other calls do not work on it.

    Raises:
        LockedError: If another call has locked it.
        WriteError: If the folder cannot be written.
    """
    folder = _folder(out)
    with contextlib.ExitStack() as stack:
        with writing(folder):
            own_folder(folder)
            stack.enter_context(locked(folder / f".{run.digest}.lock", patience=0))
        yield


def _folder(out: Path) -> Path:
    return out / "runs"
