"""Checks that need a GPU, in one run: tests, equality, speed, a profile; one report.

Run from the checkout: python -m benchmarks.gpu_check --help
"""

import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from benchmarks.harness import Contender, Report, Row, compare, new_app, timed
from benchmarks.plain_step import PlainStep
from benchmarks.step import make_training, unfuse, unfuse_first, write_batch
from byola_rq.corpus.segments import SegmentBatch
from byola_rq.runtime.device import Precision
from byola_rq.train.graph import WARM_UP_STEPS, GraphedStep
from byola_rq.train.state import TrainState
from byola_rq.train.step import StepOutcome, train_step

app = new_app()

CUDA = torch.device("cuda")
STEPS = 20  # per measurement

Step = Callable[[SegmentBatch], StepOutcome | Tensor]


@app.command()
def main(
    out: Annotated[Path, typer.Option(help="Folder for report.json and the tests' output.")],
    only: Annotated[
        list[str] | None, typer.Option(help="Sections to run, by name; repeatable.")
    ] = None,
) -> None:
    """Check this package on one CUDA GPU in under four minutes; needs torch and no network.

    Sections: profile, equality, steps, parts, pretrain, tests, sizes, input, losses. If one fails,
    its error is printed, the others continue, and the exit status is 1.

    \b
    Examples:
      python -m benchmarks.gpu_check --out report/
      python -m benchmarks.gpu_check --out report/ --only equality --only steps
    """
    if unknown := set(only or ()) - SECTIONS.keys():
        known = ", ".join(SECTIONS)
        typer.echo(f"error: --only must be among {known}; got {', '.join(unknown)}", err=True)
        raise typer.Exit(2)
    if not torch.cuda.is_available():
        typer.echo("error: this torch sees no CUDA device", err=True)
        raise typer.Exit(1)
    out.mkdir(parents=True, exist_ok=True)
    report = Report("triton")
    failed = []
    for name, section in SECTIONS.items():
        if only and name not in only:
            continue
        started = time.perf_counter()
        try:
            for title, rows in section(out):
                report.add(f"{name}: {title}", rows)
        except Exception as error:  # a failure must not hide the rest
            failed.append(name)
            traceback.print_exc()
            report.add(f"{name}: failed", [{"error": f"{type(error).__name__}: {error}"[:300]}])
        torch.cuda.empty_cache()
        report.save(out / "report.json")
        print(f"[{name}: {time.perf_counter() - started:.1f} s]", flush=True)
    if failed:
        typer.echo(f"error: failed: {', '.join(failed)}", err=True)
        raise typer.Exit(1)


Tables = Iterator[tuple[str, list[Row]]]


def run_tests(out: Path) -> Tables:
    """Run the tests marked `gpu`; skip files that cannot be imported here."""
    command = [
        sys.executable, "-m", "pytest", "-m", "gpu", "-q", "--no-header", "--tb=short",
        "--continue-on-collection-errors", "-p", "no:cacheprovider", "tests",
    ]  # fmt: skip
    ended = subprocess.run(  # noqa: S603  # our own command
        command, capture_output=True, text=True, check=False, timeout=200
    )
    (out / "tests.txt").write_text(ended.stdout + ended.stderr)
    lines = ended.stdout.strip().splitlines()
    failed = [{"test": line[:160]} for line in lines if line.startswith(("FAILED", "ERROR"))]
    yield "closing line", [{"pytest": lines[-1] if lines else ended.stderr[-200:]}]
    if failed:
        yield "not passed", failed


def check_equality(_: Path) -> Tables:
    """Compare 20 replays with 20 eager steps at full size, and two eager runs."""
    states = [make_training(2048, 256, CUDA, "bfloat16") for _ in range(3)]
    steps: list[Step] = [_eager(states[0]), _eager(states[1]), GraphedStep(states[2])]
    batches = [shuffled(number) for number in range(WARM_UP_STEPS + STEPS)]
    losses = [torch.stack([_loss(step(each)) for each in batches]) for step in steps]
    weights = [
        torch.cat([each.flatten().float() for each in state.byol.state_dict().values()])
        for state in states
    ]
    rows: list[Row] = [
        {
            "what": name,
            "losses differ": (losses[0] != losses[other]).sum().item(),
            "weights differ": (weights[0] != weights[other]).sum().item(),
            "most": (weights[0] - weights[other]).abs().max().item(),
        }
        for name, other in (("two eager runs", 1), ("graph against eager", 2))
    ]
    yield f"{STEPS} replays and {WARM_UP_STEPS} steps before them", rows


def race_steps(_: Path) -> Tables:
    """Compare a plain step with ours, eager and as a graph, with and without the fused block."""
    for precision in ("bfloat16", "tf32", "float32"):
        segments = write_batch(256).to(CUDA)
        contenders = {
            name: timed(partial(repeat, step, segments), CUDA)
            for name, step in make_contenders(256, 2048, precision).items()
        }
        rounds = 3 if precision == "bfloat16" else 1
        rows = compare(contenders, unit="segments", rounds=rounds)
        yield f"batch 256, D = 2048, {precision}", rows
        contenders.clear()
        torch.cuda.empty_cache()


def make_contenders(batch: int, dim: int, precision: Precision) -> dict[str, Step]:
    """Return steps by name, all from the same weights."""
    plain, eager, graph, unfused, modules = (
        make_training(dim, batch, CUDA, precision) for _ in range(5)
    )
    unfuse_first(unfused.byol)
    unfuse(modules.byol)
    return {
        "plain, torch's options": _plain(plain),
        "eager": _eager(eager),
        "graph": GraphedStep(graph),
        "graph, first block unfused": GraphedStep(unfused),
        "graph, torch's modules": GraphedStep(modules),
    }


def scale(_: Path) -> Tables:
    """Compare plain and graphed steps by batch size and D."""
    sizes = [(batch, 2048) for batch in (64, 128, 512, 1024)]
    rows: list[Row] = []
    for batch, dim in [*sizes, *((256, dim) for dim in (512, 1024, 3072))]:
        segments = write_batch(batch).to(CUDA)
        memory: dict[str, float] = {}
        contenders: dict[str, Contender] = {}
        for name, make in (("plain", _plain), ("graph", GraphedStep)):
            torch.cuda.empty_cache()
            before = torch.cuda.memory_reserved()
            step: Step = make(make_training(dim, batch, CUDA, "bfloat16"))
            repeat(step, segments, WARM_UP_STEPS + 2)
            memory[name] = (torch.cuda.memory_reserved() - before) / 2**20
            contenders[name] = timed(partial(repeat, step, segments), CUDA)
        plain_row, graph_row = compare(contenders, unit="segments", rounds=1)
        rows.append(
            {
                "batch": batch,
                "D": dim,
                "plain segments/s": plain_row["segments/s"],
                "graph segments/s": graph_row["segments/s"],
                "ratio": graph_row["ratio"],
                "plain MiB": memory["plain"],
                "graph MiB": memory["graph"],
            }
        )
    yield "bfloat16", rows


def time_parts(_: Path) -> Tables:
    """Time frontend, views and augmentations alone, each as a graph."""
    from benchmarks.crop import by_loop
    from benchmarks.quantize import one_mask_per_bin
    from byola_rq import RandomizedQuantization, RandomResizedCrop

    state = make_training(2048, 256, CUDA, "bfloat16")
    waveform, key, _replaced = write_batch(256).to(CUDA)
    with torch.no_grad():
        log_mel = state.statistics.standardize(state.frontend(waveform))[:, None]
        crop, quantize = RandomResizedCrop().to(CUDA), RandomizedQuantization(5).to(CUDA)
        works: dict[str, Callable[[], object]] = {
            "frontend": lambda: state.frontend(waveform),
            "both views, post-norm too": lambda: state.views(log_mel, key),
            "quantization": lambda: quantize(log_mel, key),
            "quantization, one mask per bin": lambda: one_mask_per_bin(log_mel, 5),
            "crop": lambda: crop(log_mel, key),
            "crop, a loop over samples": lambda: by_loop(log_mel, crop.draw(log_mel, key)),
            "a copy of the log-mels": log_mel.clone,
        }
        rows = [
            {"part": name, "called, ms": milliseconds(work), "device, ms": device_time(work)}
            for name, work in works.items()
        ]
    yield "256 segments, median", rows


def milliseconds(work: Callable[[], object]) -> float:
    """Median time of successive calls in milliseconds, launches included."""
    from triton.testing import do_bench  # type: ignore[import-untyped]

    return float(do_bench(work, warmup=20, rep=60, return_mode="median"))


def device_time(work: Callable[[], object]) -> float:
    """Time of all kernels of a call in milliseconds, by torch's profiler."""
    work()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        for _ in range(5):
            work()
        torch.cuda.synchronize()
    return float(sum(each.self_device_time_total for each in profiler.key_averages())) / 5e3


def pretrain_runs(_: Path) -> Tables:
    """Run `byola-rq pretrain` on a packed corpus of synthesized sounds; read its metrics.csv."""
    import csv

    import numpy as np

    from benchmarks.corpus_files import write_packed
    from byola_rq.synthesis.generate import KINDS, make_clip

    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        sounds = [
            (make_clip(KINDS[n % len(KINDS)], seed=n, seconds=10.0) * 32767).astype(np.int16)
            for n in range(16)
        ]
        packed = write_packed(Path(folder) / "packed", sounds, 1600)
        for name, overrides in RUNS.items():
            run_dir = Path(folder) / name
            command = [
                sys.executable, "-m", "byola_rq", "pretrain", f"data.source={packed}",
                f"run.dir={run_dir}", "train.epochs=100000", "train.log_every=100",
                "train.max_steps=600", "checkpoint.every_steps=1000", *overrides,
            ]  # fmt: skip
            started = time.perf_counter()
            ended = subprocess.run(  # noqa: S603  # our own command
                command, capture_output=True, text=True, check=False
            )
            if ended.returncode:
                rows.append({"run": name, "error": ended.stderr[-300:]})
                continue
            metrics = list(csv.DictReader((run_dir / "metrics.csv").open()))
            rates = sorted(float(row["segments_per_second"]) for row in metrics[1:])
            rows.append(
                {
                    "run": name,
                    "segments/s": rates[len(rates) // 2],
                    "low": rates[0],
                    "high": rates[-1],
                    "wait share": float(metrics[-1]["wait_share"]),
                    "loss": float(metrics[-1]["loss"]),
                    "seconds in all": time.perf_counter() - started,
                }
            )
    yield "segments/s of rows of 100 steps", [{**dict.fromkeys(rows[0]), **row} for row in rows]


RUNS: dict[str, list[str]] = {
    "graph, clips on the GPU": ["data.resident=true"],
    "graph, loaders": ["data.resident=false"],
}


def profile_kernels(_: Path) -> Tables:
    """Sum the kernels of one replayed step by name."""
    step = GraphedStep(make_training(2048, 256, CUDA, "bfloat16"))
    segments = write_batch(256).to(CUDA)
    repeat(step, segments, WARM_UP_STEPS + 2)
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        repeat(step, segments, 5)
        torch.cuda.synchronize()
    found = sorted(profiler.key_averages(), key=lambda each: -each.self_device_time_total)
    total = sum(each.self_device_time_total for each in found) / 5e3
    launches = sum(each.count for each in found) / 5
    yield "a step", [{"kernel ms": total, "launches": launches}]
    yield (
        "kernels",
        [
            {
                "ms": each.self_device_time_total / 5e3,
                "launches": each.count / 5,
                "kernel": each.key[:110],
            }
            for each in found[:60]
        ],
    )


def compare_losses(_: Path) -> Tables:
    """Compare losses over 300 steps on changing batches, eager and as a graph."""
    batches = [shuffled(number) for number in range(24)]
    curves: dict[str, list[float]] = {}
    for name, make in (("eager", _eager), ("graph", GraphedStep)):
        step: Step = make(make_training(512, 256, CUDA, "bfloat16"))
        losses = [_loss(step(batches[number % 24])) for number in range(300)]
        curves[name] = torch.stack(losses).view(10, 30).mean(1).tolist()
    rows = [
        {"steps up to": 30 * (tenth + 1), **{name: curve[tenth] for name, curve in curves.items()}}
        for tenth in range(10)
    ]
    yield "mean loss, D = 512, bfloat16", rows


def shuffled(number: int) -> SegmentBatch:
    """Return the same sounds, rotated in time, with new keys."""
    waveform, key, _ = BATCHES.setdefault(0, write_batch(256).to(CUDA))
    return SegmentBatch(waveform.roll(613 * number, dims=1), key + 1000 * number)


BATCHES: dict[int, SegmentBatch] = {}


def _plain(state: TrainState) -> Step:
    return PlainStep(state, is_tuned=True)


def _eager(state: TrainState) -> Step:
    return partial(train_step, state)


def _loss(outcome: Any) -> Tensor:
    loss: Tensor = outcome if isinstance(outcome, Tensor) else outcome.loss
    return loss.clone()


def repeat(step: Step, segments: SegmentBatch, times: int = STEPS) -> float:
    """Run steps one after the other; return their number of segments."""
    for _ in range(times):
        step(segments)
    return times * len(segments.key)


def run_input(_: Path) -> Tables:
    """Measure batches on their way to the device."""
    from benchmarks.device_input import measure_input

    yield from measure_input(CUDA, packed_clips=800, batches=60, rounds=2)


SECTIONS: dict[str, Callable[[Path], Tables]] = {
    "profile": profile_kernels,
    "equality": check_equality,
    "steps": race_steps,
    "parts": time_parts,
    "pretrain": pretrain_runs,
    "tests": run_tests,
    "sizes": scale,
    "input": run_input,
    "losses": compare_losses,
}


if __name__ == "__main__":
    app()
