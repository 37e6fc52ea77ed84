"""Delivery of batches to the device, and the time that training waits for them."""

import contextlib
import csv
from pathlib import Path

import torch

from benchmarks.batch_assembly import BATCH
from benchmarks.harness import Contender, Row, compare, timed
from benchmarks.loaders import delivered, packed_corpus
from byola_rq.audio.io import SAMPLE_RATE
from byola_rq.config import default_config_path, load_config
from byola_rq.train.loop import pretrain

_BATCHES = 40  # per turn


def compare_delivery(packed: Path, rounds: int, device: torch.device) -> list[Row]:
    """Compare delivery of packed segments to the device as float32, in segments per second."""
    corpus = packed_corpus(packed)
    loaders = contextlib.ExitStack()  # closed in reverse order

    def contender(num_workers: int) -> Contender:
        batches = delivered(corpus, num_workers, device)
        loaders.callback(batches.close)

        def work() -> float:
            for _ in range(_BATCHES):
                next(batches).to(device)
            return _BATCHES * BATCH

        measured = timed(work, device)

        def after_what_was_read_ahead() -> tuple[float, float]:
            for _ in range(6):
                next(batches)
            return measured()

        return after_what_was_read_ahead

    names = {"no process": 0, "1 process": 1, "2 processes": 2}
    with loaders:
        contenders = {name: contender(number) for name, number in names.items()}
        return compare(contenders, unit="segments", rounds=rounds)


def measure_waiting(
    sources: dict[str, Path], folder: Path, *, steps: int, overrides: list[str]
) -> list[Row]:
    """Measure the share of time that `byola-rq pretrain` waits for data, by form of its clips."""
    rows: list[Row] = []
    for name, source in sources.items():
        for num_workers in (0, 1):
            run = folder / f"{name} {num_workers}"
            config = load_config(
                default_config_path(),
                [
                    f"data.source={source}",
                    f"run.dir={run}",
                    f"data.workers={num_workers}",
                    f"frontend.sample_rate={SAMPLE_RATE}",
                    f"train.max_steps={2 * steps}",
                    f"train.log_every={steps}",
                    "train.epochs=10000",
                    "checkpoint.every_steps=1000000",
                    *overrides,
                ],
            )
            pretrain(config)
            with (run / "metrics.csv").open(encoding="utf-8", newline="") as file:
                last = list(csv.DictReader(file))[-1]  # the first half is warm-up
            rows.append(
                {
                    "name": name,
                    "processes": num_workers,
                    "segments/s": float(last["segments_per_second"]),
                    "share of waiting": float(last["wait_share"]),
                }
            )
    return rows
