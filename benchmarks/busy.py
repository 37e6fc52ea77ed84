"""Cost of other work on the cores for a training step, by how threads wait for each other.

Run from the checkout: python -m benchmarks.busy --help
"""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Annotated

import torch
import typer

from benchmarks.harness import Out, Report, Row, new_app
from benchmarks.step import make_training, write_batch
from byola_rq.runtime.memory import keep_freed_memory
from byola_rq.train.step import train_step

app = new_app()

WAITS = {
    "as libgomp comes": {},
    "GOMP_SPINCOUNT=10000 (ours)": {"GOMP_SPINCOUNT": "10000"},
    "GOMP_SPINCOUNT=3000": {"GOMP_SPINCOUNT": "3000"},
    "GOMP_SPINCOUNT=30000": {"GOMP_SPINCOUNT": "30000"},
    "OMP_WAIT_POLICY=passive": {"OMP_WAIT_POLICY": "passive"},
    "OMP_NUM_THREADS=1": {"OMP_NUM_THREADS": "1"},
}


@app.command()
def main(
    *,
    seconds: Annotated[float, typer.Option(min=0.1, help="Duration of each measurement.")] = 8.0,
    dim: Annotated[int, typer.Option(min=1, help="Embedding size D.")] = 512,
    batch: Annotated[int, typer.Option(min=2, help="Segments per step.")] = 64,
    loops: Annotated[int, typer.Option(min=0, help="Largest number of busy loops.")] = 2,
    child: Annotated[bool, typer.Option("--child", hidden=True)] = False,
    out: Out = None,
) -> None:
    """Train for some seconds, alone and beside busy loops, for each way of waiting.

    \b
    1  segments a second with 0, 1, ... busy loops on the machine's cores

    \b
    Examples:
      python -m benchmarks.busy
      python -m benchmarks.busy --seconds 20 --out busy.json
    """
    if child:
        print(measure(seconds, dim, batch))
        return
    command = [
        sys.executable, "-m", "benchmarks.busy", "--child", "--seconds", str(seconds),
        "--dim", str(dim), "--batch", str(batch),
    ]  # fmt: skip
    report = Report(batch=batch, D=dim)
    rows: list[Row] = []
    plain = {
        name: each for name, each in os.environ.items() if not name.startswith(("OMP", "GOMP"))
    }
    for name, wait in WAITS.items():
        row: Row = {"threads wait": name}
        for number in range(loops + 1):
            with busy_loops(number):
                output = subprocess.run(  # noqa: S603  # our own command
                    command, env=plain | wait, check=True, stdout=subprocess.PIPE, text=True
                ).stdout
            row[f"{number} loops, segments/s"] = float(output)
        rows.append(row)
    report.add("1 a step beside other work", rows)
    report.save(out)


def measure(seconds: float, dim: int, batch: int) -> float:
    """Segments per second of training in this process."""
    keep_freed_memory()
    state = make_training(dim, batch, torch.device("cpu"), "float32")
    segments = write_batch(batch)
    train_step(state, segments)
    started, steps = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        train_step(state, segments)
        steps += 1
    return steps * batch / (time.perf_counter() - started)


@contextlib.contextmanager
def busy_loops(number: int) -> Iterator[None]:
    """Run other processes that never wait."""
    loop = [sys.executable, "-c", "while True: pass"]
    others = [subprocess.Popen(loop) for _ in range(number)]  # noqa: S603  # our own command
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


if __name__ == "__main__":
    app()
