"""Speed of bringing segments to the device, and its effect on a step there.

Run from the checkout: python -m benchmarks.device_input --help
"""

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from benchmarks.batch_assembly import BATCH, SEGMENT
from benchmarks.corpus_files import CLIP, write_packed
from benchmarks.harness import (
    Batches,
    Contender,
    Device,
    Out,
    Report,
    Rounds,
    Row,
    compare,
    new_app,
    timed,
)
from benchmarks.loaders import batches_of, delivered, packed_corpus
from byola_rq.corpus.device_batches import DeviceBatches
from byola_rq.corpus.packed_clips import PackedClips
from byola_rq.corpus.resident_clips import ResidentClips
from byola_rq.corpus.segments import SegmentCorpus
from byola_rq.runtime.device import choose_device

app = new_app()

GOAL = 25_000  # segments per second of a step that never waits

_STALE = 12  # skipped before it: more than are ever read ahead
_TOUCHED = 2**30  # bytes touched by a part of a GPU's step

Step = Callable[[], object]


@app.command()
def main(
    *,
    packed_clips: Annotated[int, typer.Option(min=16, help="Clips of 320 kB.")] = 1600,
    folder: Annotated[
        Path | None, typer.Option(help="Folder to pack them in; temporary by default.")
    ] = None,
    device: Device = "auto",
    batches: Batches = 60,
    rounds: Rounds = 5,
    out: Out = None,
) -> None:
    """Bring batches of 256 segments to the device as training does, in two tables.

    \b
    1  segments per second of input alone, as float32 on the device: read by this process, by one
       and two others, and gathered from clips resident there
    2  the same before steps of 10.24 ms, 25,000 segments per second (on a GPU its memory is kept
       busy, on a CPU this process sleeps): `ms seen` is how much longer a step takes than without
       input

    The clips are noise, packed, and in memory from the second round on.

    \b
    Examples:
      python -m benchmarks.device_input
      python -m benchmarks.device_input --device cuda --out device_input.json
    """
    torch.set_num_threads(1)
    place = choose_device(device)
    report = Report("numpy")
    for title, rows in measure_input(place, packed_clips, batches, rounds, folder):
        report.add(title, rows)
    report.save(out)


def measure_input(
    device: torch.device,
    packed_clips: int,
    batches: int,
    rounds: int,
    folder: Path | None = None,
) -> Iterator[tuple[str, list[Row]]]:
    """Measure both tables."""
    with tempfile.TemporaryDirectory(dir=folder) as made:
        generator = np.random.default_rng(0)
        sounds = [generator.integers(-9000, 9000, CLIP).astype(np.int16) for _ in range(16)]
        corpus = packed_corpus(write_packed(Path(made) / "clips", sounds, packed_clips, 16))
        with open_inputs(corpus, device) as inputs:
            yield "1 input alone", compare_inputs(inputs, device, batches, rounds)
            yield "2 behind a step", compare_behind_steps(inputs, device, batches, rounds)


@contextlib.contextmanager
def open_inputs(corpus: SegmentCorpus, device: torch.device) -> Iterator[dict[str, DeviceBatches]]:
    """Open endless batches on the device, by the way they get there."""
    assert isinstance(corpus.clips, PackedClips)
    with contextlib.ExitStack() as opened:  # closed in reverse order
        inputs = {}
        for name, num_workers in (("this process", 0), ("1 process", 1), ("2 processes", 2)):
            inputs[name] = delivered(corpus, num_workers, device)
            opened.callback(inputs[name].close)
            next(inputs[name])  # wait until its processes have started
        resident = ResidentClips(corpus.clips, SEGMENT, device)
        gathered = resident.load_batches(corpus, batches_of(corpus))
        inputs["resident"] = DeviceBatches(gathered, device, resident=resident)
        opened.callback(inputs["resident"].close)
        yield inputs


def compare_inputs(
    inputs: dict[str, DeviceBatches], device: torch.device, num: int, rounds: int
) -> list[Row]:
    """Compare input alone, in segments per second."""
    contenders = {name: taker(batches, device, num) for name, batches in inputs.items()}
    return compare(contenders, unit="segments", rounds=rounds)


def compare_behind_steps(
    inputs: dict[str, DeviceBatches], device: torch.device, num: int, rounds: int
) -> list[Row]:
    """Compare steps at the goal's rate with input, in segments per second and added ms."""
    step = busy_step(device, BATCH / GOAL)
    contenders = {"no input": taker(None, device, num, step)}
    contenders |= {name: taker(batches, device, num, step) for name, batches in inputs.items()}
    rows = compare(contenders, unit="segments", rounds=rounds)
    for row in rows:
        row["ms seen"] = 1e3 * BATCH * (1 / row["segments/s"] - 1 / rows[0]["segments/s"])
    return rows


def taker(
    batches: DeviceBatches | None, device: torch.device, num: int, step: Step | None = None
) -> Contender:
    """Take `num` batches, each followed by a step; without batches, only run the steps."""

    def take(num: int) -> float:
        for _ in range(num):
            if batches is not None:
                batches.make_room()
                next(batches).to(device)
            if step is not None:
                step()
        return num * BATCH

    measured = timed(lambda: take(num), device)

    def contender() -> tuple[float, float]:
        take(_STALE)
        return measured()

    return contender


def busy_step(device: torch.device, seconds: float) -> Step:
    """Return work that keeps a GPU busy for `seconds`; on a CPU it sleeps."""
    if device.type != "cuda":
        return lambda: time.sleep(seconds)
    memory = torch.zeros(_TOUCHED // 4, device=device)

    def work(num: int) -> None:
        for _ in range(num):
            memory.add_(1.0)

    def many() -> float:
        work(100)
        return 100

    timed(many, device)()  # warms up
    pieces, taken = timed(many, device)()
    num = max(round(seconds * pieces / taken), 1)
    return lambda: work(num)


if __name__ == "__main__":
    app()
