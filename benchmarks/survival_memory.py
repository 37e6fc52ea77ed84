"""Resident memory of a training run over its steps."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from scipy.stats import theilslopes

from benchmarks.survival_runs import Process, make_config
from byola_rq.runs.metrics import read_metrics

WARM_UP = 0.1  # share of the steps
BLOCK = 50  # steps; closer samples are not independent
SECONDS_BETWEEN = 1.0  # a sample costs some 10 ms


@dataclass(frozen=True)
class Sample:
    """Memory at one moment, in bytes."""

    step: int
    main: int  # resident, of the training process
    total: int  # of it, plus the private pages of its loaders


@dataclass(frozen=True)
class Slope:
    """Growth in bytes per step with a 95 % interval, and the median memory."""

    name: str
    slope: float
    low: float
    high: float
    median: float


def sample_memory(
    clips: Path, folder: Path, *, steps: int, on_sample: Callable[[Sample], object]
) -> list[Sample]:
    """Sample the memory of a tiny run with two loaders that saves every 100 steps."""
    overrides = (
        f"train.max_steps={steps}",
        "train.epochs=1000000",
        "train.batch_size=4",
        "train.log_every=10",
        "checkpoint.every_steps=100",
        "checkpoint.keep=2",
        "data.workers=2",
    )
    config = make_config(clips, folder / "long", overrides)
    process = Process(config, folder)
    samples: list[Sample] = []
    try:
        while process.process.poll() is None:
            rows = read_metrics(config.run.dir / "metrics.csv")
            if rows and (sample := _look(process, int(rows[-1]["step"]))):
                samples.append(sample)
                on_sample(sample)
            time.sleep(SECONDS_BETWEEN)
        process.finish()
    finally:
        process.process.kill()
    return samples


def block_medians(
    samples: list[Sample], size: int, first: int
) -> list[tuple[int, float, float, int]]:
    """Return first step, median memory of process and total, number of samples, per block."""
    blocks: dict[int, list[Sample]] = {}
    for sample in samples:
        blocks.setdefault(sample.step // size * size, []).append(sample)
    return [
        (
            start,
            statistics.median(each.main for each in block),
            statistics.median(each.total for each in block),
            len(block),
        )
        for start, block in sorted(blocks.items())
        if start >= first
    ]


def fit_slopes(samples: list[Sample]) -> list[Slope]:
    """Fit Theil-Sen slopes to the process and the total, over medians of blocks after warm-up.

    Raises:
        ValueError: If there are too few samples.
    """
    last = samples[-1].step if samples else 0
    blocks = block_medians(samples, BLOCK, first=int(WARM_UP * last))
    if len(blocks) < 4:
        raise ValueError(f"steps must give at least 4 blocks of {BLOCK}; got {len(blocks)}")
    starts = [block[0] for block in blocks]
    slopes = []
    for place, name in ((1, "training process, RSS"), (2, "with loaders' own pages")):
        values = [float(block[place]) for block in blocks]
        fit = theilslopes(values, starts, alpha=0.95)
        slopes.append(Slope(name, fit[0], fit[2], fit[3], statistics.median(values)))
    return slopes


def _look(process: Process, step: int) -> Sample | None:
    main, total = 0, 0
    for pid in process.members():
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
        except OSError:
            continue  # the process has just ended
        sizes = {name: int(rest.split()[0]) * 1024 for name, _, rest in _fields(lines)}
        # Not the proportional share, which depends on other processes of the machine with the same
        # libraries.
        if pid == process.process.pid:
            main = sizes["Rss"]
            total += main
        else:
            total += sizes["Private_Clean"] + sizes["Private_Dirty"]
    return Sample(step, main, total) if main else None


def _fields(lines: list[str]) -> list[tuple[str, str, str]]:
    return [line.partition(":") for line in lines]
