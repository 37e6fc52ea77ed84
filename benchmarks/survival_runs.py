"""Small training runs in separate processes, to be disturbed from outside."""

import atexit
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from byola_rq.config import Config, default_config_path, load_config
from byola_rq.corpus.segments import find_clips
from byola_rq.runs.checkpoint import load_newest_checkpoint
from byola_rq.runs.metrics import read_metrics
from byola_rq.synthesis.generate import write_corpus

ROOT = Path(__file__).resolve().parent.parent

# The paper's recipe with networks so small that a step takes about 50 ms on one core.
TINY = (
    "encoder.dim=16",
    "byol.hidden_dim=32",
    "byol.projection_dim=16",
    "train.batch_size=8",
    "train.log_every=1",
    "run.device=cpu",
)
SECONDS_AT_MOST = 300  # far more than any step here takes


class Process:
    """`byola-rq pretrain` in its own process group."""

    def __init__(self, config: Config, folder: Path) -> None:
        path = folder / f"{config.run.dir.name}.yaml"
        path.write_text(config.to_yaml(), encoding="utf-8")
        self.config = config
        # A file, since a pipe would fill up.
        self._stderr = folder / f"{config.run.dir.name}.stderr"
        self.started = time.monotonic()
        self.started_at = time.time()  # same clock as file times
        with self._stderr.open("w") as stderr:
            self.process = subprocess.Popen(  # noqa: S603  # nothing from outside is in it
                [sys.executable, "-m", "byola_rq", "pretrain", str(path)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,
                # The number of threads affects the last bits.
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            )

        atexit.register(self._leave_nothing)  # even after Ctrl-C

    def wait_until(self, moment: float) -> bool:
        """Wait until `moment` seconds after the start; return True if it still runs."""
        try:
            self.process.wait(max(self.started + moment - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            return True
        return False

    def wait_for_steps(self, num: int) -> None:
        """Wait until metrics.csv has `num` rows.

        Raises:
            RuntimeError: If the process ends before that.
        """
        while len(read_metrics(self.config.run.dir / "metrics.csv")) < num:
            self._check_running()
            time.sleep(0.01)

    def kill(self) -> None:
        """Send SIGKILL to all its processes, and wait until they are gone."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.wait()

    def wait(self) -> int:
        """Wait until the process and its children are gone; return its status."""
        status = self.process.wait(SECONDS_AT_MOST)
        end = time.monotonic() + SECONDS_AT_MOST
        while any(self.members()):
            if time.monotonic() > end:
                raise RuntimeError(f"{self.config.run.dir}: its processes do not end")
            time.sleep(0.002)
        return status

    def finish(self) -> float:
        """Wait for its end; return the seconds since its start.

        Raises:
            RuntimeError: If it fails.
        """
        status = self.wait()
        seconds = time.monotonic() - self.started
        if status != 0:
            raise RuntimeError(f"{self.config.run.dir}: exit {status}: {self.said()}")
        return seconds

    def members(self) -> Iterator[int]:
        """Yield the process ids of its running processes, including loaders."""
        for path in Path("/proc").glob("[0-9]*"):
            try:
                fields = (path / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            state, group = fields[0], int(fields[2])
            if group == self.process.pid and state not in "ZX":
                yield int(path.name)

    def said(self) -> str:
        """Return the end of its stderr."""
        return self._stderr.read_text(errors="replace")[-1000:]

    def _leave_nothing(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)

    def _check_running(self) -> None:
        if self.process.poll() is not None:
            raise RuntimeError(
                f"{self.config.run.dir}: ended early, with {self.process.returncode}: {self.said()}"
            )


def collect_clips(data: Path | None, folder: Path, num_clips: int) -> Path:
    """Collect clips in a folder: spread over `data`, or else synthesized."""
    if data is None:
        write_corpus(folder, num_clips=num_clips, seed=5, seconds=(1.0, 2.0))
        return folder
    found = sorted({source.path.resolve() for source in find_clips([data])[0]})
    folder.mkdir(parents=True)
    for number in range(min(num_clips, len(found))):
        path = found[number * len(found) // min(num_clips, len(found))]
        (folder / f"{number:05d}_{path.name}").symlink_to(path)
    return folder


def make_config(clips: Path, run_dir: Path, overrides: Sequence[str] = ()) -> Config:
    """Make the configuration of a tiny run."""
    first = (f"data.source={clips}", f"run.dir={run_dir}", *TINY)
    return load_config(default_config_path(), (*first, *overrides))


def digest_results(run_dir: Path) -> dict[str, str]:
    """SHA-256 of the results of a finished run: model file, tensors, steps and losses."""
    checkpoint, _ = load_newest_checkpoint(run_dir)
    if checkpoint is None:
        raise RuntimeError(f"{run_dir}: no checkpoint in it")
    tensors = hashlib.sha256()
    for group in (checkpoint.model, checkpoint.optimizer):
        for name in sorted(group):
            value = group[name].contiguous()
            tensors.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            tensors.update(value.reshape(-1).numpy().tobytes())
    rows = [(row["step"], row["loss"]) for row in read_metrics(run_dir / "metrics.csv")]
    return {
        "encoder.safetensors": _digest((run_dir / "encoder.safetensors").read_bytes()),
        "tensors of the last checkpoint": tensors.hexdigest(),
        "steps and losses of metrics.csv": _digest(repr(rows).encode()),
    }


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
