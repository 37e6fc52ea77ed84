"""Time from SIGTERM to the end of a run's last process."""

import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.survival_runs import Process, make_config
from byola_rq.config import Config
from byola_rq.runs.checkpoint import load_newest_checkpoint
from byola_rq.runs.metrics import read_metrics

# A checkpoint of 40 MB, steps of some 200 ms on a core, and no end.
SMALL = (
    "encoder.dim=512",
    "byol.hidden_dim=1024",
    "byol.projection_dim=256",
    "train.batch_size=32",
    "train.epochs=100000",
    "checkpoint.every_steps=10",
    "checkpoint.keep=2",
    "data.workers=2",
)
WINDOW = 4.0  # seconds after a process's first step in which its signal comes; includes saves


@dataclass(frozen=True)
class Stop:
    """Outcome of one stop."""

    seconds: float  # until the end of the last process, loaders included
    status: int
    done: int  # steps in metrics.csv
    saved: int  # step of the newest checkpoint
    was_saving: bool  # True if the signal came during a save

    @property
    def is_right(self) -> bool:
        """True if nothing was lost, and the status is correct."""
        return self.status == 128 + signal.SIGTERM and self.saved == self.done


def stop_often(
    clips: Path, folder: Path, *, times: int, seed: int, on_stop: Callable[[Stop], object]
) -> list[Stop]:
    """Stop one run again and again at random moments, resuming it each time."""
    config = make_config(clips, folder / "stopped", SMALL)
    rng = random.Random(seed)  # noqa: S311  # nothing secret
    stops = []
    for _ in range(times):
        stops.append(_stop(config, folder, rng.uniform(0, WINDOW)))
        on_stop(stops[-1])
    return stops


def _stop(config: Config, folder: Path, delay: float) -> Stop:
    run_dir = config.run.dir
    done = len(read_metrics(run_dir / "metrics.csv"))
    process = Process(config, folder)
    try:
        process.wait_for_steps(done + 1)
        process.process.poll()
        time.sleep(delay)
        was_saving = any(run_dir.glob(".step-*"))
        started = time.monotonic()
        os.killpg(process.process.pid, signal.SIGTERM)
        status = process.wait()
        seconds = time.monotonic() - started
    finally:
        process.process.kill()
    checkpoint, _ = load_newest_checkpoint(run_dir)
    return Stop(
        seconds=seconds,
        status=status,
        done=int(read_metrics(run_dir / "metrics.csv")[-1]["step"]),
        saved=0 if checkpoint is None else checkpoint.state["step"],
        was_saving=was_saving,
    )
