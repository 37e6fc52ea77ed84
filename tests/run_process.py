"""Runs in processes of their own, to be disturbed from outside."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from byola_rq.config import Config, load_config
from byola_rq.runs.checkpoint import load_newest_checkpoint
from byola_rq.runs.metrics import read_metrics

SECONDS_AT_MOST = 60  # far more than anything here takes


class Run:
    """`byola-rq pretrain` in a process group of its own."""

    def __init__(self, config: Config, folder: Path) -> None:
        path = folder / f"{config.run.dir.name}.yaml"
        path.write_text(config.to_yaml())
        self.config = config
        self.process = subprocess.Popen(
            [sys.executable, "-m", "byola_rq", "pretrain", str(path)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # As in the tests' own process: the number of threads decides about last bits.
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def wait_for(self, is_there: Callable[[], object]) -> None:
        end = time.monotonic() + SECONDS_AT_MOST
        while not is_there():
            assert self.process.poll() is None, self.process.communicate()[1]
            assert time.monotonic() < end
            time.sleep(0.005)

    def wait_for_steps(self, num: int) -> None:
        path = self.config.run.dir / "metrics.csv"
        self.wait_for(lambda: len(read_metrics(path)) >= num)

    def send(self, number: int) -> None:
        """Send a signal to the whole process group, as terminals and schedulers do."""
        os.killpg(self.process.pid, number)

    def end(self) -> tuple[int, str]:
        """Status and what it said on stderr, once it and all its children are gone."""
        children = self.children()
        _, stderr = self.process.communicate(timeout=SECONDS_AT_MOST)
        end = time.monotonic() + SECONDS_AT_MOST
        while any(is_running(child) for child in children):
            assert time.monotonic() < end
            time.sleep(0.01)
        return self.process.returncode, stderr

    def children(self) -> list[int]:
        try:
            tasks = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
            return [int(each) for each in tasks.read_text().split()]
        except OSError:
            return []

    def saved_step(self) -> int | None:
        checkpoint, damages = load_newest_checkpoint(self.config.run.dir)
        assert not damages
        return None if checkpoint is None else checkpoint.state["step"]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def moved(config: Config, run_dir: Path, *overrides: str) -> Config:
    path = run_dir.with_suffix(".base.yaml")
    path.write_text(config.to_yaml())
    return load_config(path, [f"run.dir={run_dir}", *overrides])


def model_bytes(config: Config) -> bytes:
    return (config.run.dir / "encoder.safetensors").read_bytes()
