"""Cost of other work on the cores, by how threads wait for each other.

Run from the checkout: python -m benchmarks.busy --help
"""

import contextlib
import itertools
import os
import subprocess
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator
from statistics import median
from typing import Annotated

import torch
import typer
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from benchmarks.harness import Out, Report, Row, new_app
from benchmarks.probe import draw_parts
from benchmarks.step import make_training, write_batch
from byola_rq.runtime.memory import keep_freed_memory
from byola_rq.train.step import train_step

app = new_app()

# Of a training step, whose threads are OpenMP's, and of a fit, whose threads are OpenBLAS's.
STEP_WAITS = {
    "as libgomp comes": {},
    "GOMP_SPINCOUNT=10000 (ours)": {"GOMP_SPINCOUNT": "10000"},
    "GOMP_SPINCOUNT=3000": {"GOMP_SPINCOUNT": "3000"},
    "GOMP_SPINCOUNT=30000": {"GOMP_SPINCOUNT": "30000"},
    "OMP_WAIT_POLICY=passive": {"OMP_WAIT_POLICY": "passive"},
    "OMP_NUM_THREADS=1": {"OMP_NUM_THREADS": "1"},
}
FIT_WAITS = {
    "as OpenBLAS comes": {},
    "OPENBLAS_THREAD_TIMEOUT=17 (ours)": {"OPENBLAS_THREAD_TIMEOUT": "17"},
    "OPENBLAS_NUM_THREADS=1": {"OPENBLAS_NUM_THREADS": "1"},
}


@app.command()
def main(
    *,
    seconds: Annotated[float, typer.Option(min=0.1, help="Duration of each measurement.")] = 8.0,
    loops: Annotated[int, typer.Option(min=0, help="Largest number of busy loops.")] = 2,
    rounds: Annotated[int, typer.Option(min=1, help="Measurements of each; the median.")] = 1,
    dim: Annotated[int, typer.Option(min=1, help="Embedding size D of a step.")] = 512,
    batch: Annotated[int, typer.Option(min=2, help="Segments per step.")] = 64,
    clips: Annotated[int, typer.Option(min=10, help="Clips of a fit, of D = 2048.")] = 6000,
    classes: Annotated[int, typer.Option(min=2, help="Classes of a fit.")] = 12,
    only: Annotated[str, typer.Option(help="step or fit; both by default.")] = "",
    child: Annotated[bool, typer.Option("--child", hidden=True)] = False,
    out: Out = None,
) -> None:
    """Train or fit for some seconds, alone and beside busy loops, for each way of waiting.

    \b
    1  segments of training a second with 0, 1, ... busy loops on the machine's cores
    2  lbfgs iterations of a logistic regression a second, likewise

    \b
    Examples:
      python -m benchmarks.busy
      python -m benchmarks.busy --seconds 20 --out busy.json
      python -m benchmarks.busy --only fit --rounds 5
    """
    if child:
        print(
            step_rate(seconds, dim, batch) if only == "step" else fit_rate(seconds, clips, classes)
        )
        return
    report = Report(batch=batch, D=dim)
    sizes = ["--seconds", str(seconds), "--dim", str(dim), "--batch", str(batch)]
    sizes += ["--clips", str(clips), "--classes", str(classes)]
    if only != "fit":
        rows = compare_waits(STEP_WAITS, ["--only", "step", *sizes], loops, rounds)
        report.add("1 a step beside other work, segments/s", rows)
    if only != "step":
        rows = compare_waits(FIT_WAITS, ["--only", "fit", *sizes], loops, rounds)
        report.add(f"2 a fit of {clips:,} clips, {classes} classes, iterations/s", rows)
    report.save(out)


def compare_waits(
    waits: dict[str, dict[str, str]], options: list[str], loops: int, rounds: int
) -> list[Row]:
    """Return a row of median rates for each way of waiting, measured in turn."""
    command = [sys.executable, "-m", "benchmarks.busy", "--child", *options]
    names = ("OMP", "GOMP", "OPENBLAS")
    plain = {name: each for name, each in os.environ.items() if not name.startswith(names)}
    rates: dict[tuple[str, int], list[float]] = defaultdict(list)
    for _ in range(rounds):
        for number, (name, wait) in itertools.product(range(loops + 1), waits.items()):
            with busy_loops(number):
                output = subprocess.run(  # noqa: S603  # our own command
                    command, env=plain | wait, check=True, stdout=subprocess.PIPE, text=True
                ).stdout
            rates[name, number].append(float(output))
    return [
        {"threads wait": name}
        | {f"{number} loops": median(rates[name, number]) for number in range(loops + 1)}
        for name in waits
    ]


def step_rate(seconds: float, dim: int, batch: int) -> float:
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


def fit_rate(seconds: float, clips: int, classes: int) -> float:
    """Iterations of lbfgs per second in this process."""
    keep_freed_memory()
    part = draw_parts(clips, 2048, classes)[0]
    model = LogisticRegression(max_iter=5, tol=0.0)  # never converges: as many steps each time
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(part.features, part.labels)
        started, steps = time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            steps += int(model.fit(part.features, part.labels).n_iter_[0])
    return steps / (time.perf_counter() - started)


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
