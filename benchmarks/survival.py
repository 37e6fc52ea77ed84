"""Robustness of training runs against kills, damage, signals and bad values, and their memory.

Run from the checkout: python -m benchmarks.survival --help
"""

import contextlib
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.harness import Out, Report, Row, new_app
from benchmarks.survival_damages import damage_often
from benchmarks.survival_kills import THREE_EPOCHS, Kills, kill_often
from benchmarks.survival_memory import Sample, block_medians, fit_slopes, sample_memory
from benchmarks.survival_nonfinite import inject_often
from benchmarks.survival_runs import Process, collect_clips, make_config
from benchmarks.survival_samples import digest_sequences
from benchmarks.survival_signals import Stop, stop_often

app = new_app(no_args_is_help=True)

Data = Annotated[Path | None, typer.Option(help="Folder of real clips; synthesized by default.")]
Clips = Annotated[int, typer.Option(min=16, help="Number of clips, spread over the folder.")]
Seed = Annotated[int, typer.Option(help="Seed of all random choices.")]
Folder = Annotated[
    Path | None, typer.Option(help="Folder for runs, which is kept; temporary by default.")
]

MIB = 2.0**20


@app.command()
def kills(
    *,
    kills: Annotated[int, typer.Option(min=1, help="Total number of kills.")] = 200,
    data: Data = None,
    clips: Clips = 96,
    seed: Seed = 0,
    out: Out = None,
    folder: Folder = None,
) -> None:
    """Kill runs of 3 epochs by SIGKILL at random moments; all must end like an undisturbed run."""
    with _scene(folder, data, clips) as (place, source):
        found = kill_often(source, place, times=kills, seed=seed, on_kill=_tell_kill)
        report = Report()
        rows: list[Row] = [
            {"killed while": name, "kills": n} for name, n in sorted(found.by_phase.items())
        ]
        report.add(f"{found.num_kills} kills of {found.num_runs} runs", rows)
        title = f"differing from the undisturbed run ({found.seconds:.1f} s)"
        rows = [
            {"what": name, "runs": found.num_runs, "differ": _count(found.differences, name)}
            for name in found.expected
        ]
        _finish(report, title, rows, out, found.differences)


@app.command()
def damages(
    *,
    times: Annotated[int, typer.Option(min=1, help="Total number of damages.")] = 1000,
    data: Data = None,
    clips: Clips = 24,
    seed: Seed = 0,
    out: Out = None,
    folder: Folder = None,
) -> None:
    """Damage checkpoints of a run in all ways; every damage must be detected."""
    with _scene(folder, data, clips) as (place, source):
        config = make_config(source, place / "run", THREE_EPOCHS)
        Process(config, place).finish()
        counts, missed = damage_often(config.run.dir, times, seed)
        rows: list[Row] = [
            {"damage": name, "times": n, "unnoticed": _count(missed, name)}
            for name, n in sorted(counts.items())
        ]
        report = Report("safetensors")
        _finish(report, f"{counts.total()} damages", rows, out, missed)


@app.command()
def sigterm(
    *,
    times: Annotated[int, typer.Option(min=1, help="Signals.")] = 50,
    data: Data = None,
    clips: Clips = 96,
    seed: Seed = 0,
    out: Out = None,
    folder: Folder = None,
) -> None:
    """Stop a run with two loaders by SIGTERM; measure the time until its last process ends."""
    with _scene(folder, data, clips) as (place, source):
        stops = stop_often(source, place, times=times, seed=seed, on_stop=_tell_stop)
        seconds = [stop.seconds for stop in stops]
        p50, p99 = np.percentile(seconds, [50, 99])
        rows: list[Row] = [
            {
                "stops": len(stops),
                "met a save": sum(stop.was_saving for stop in stops),
                "p50 s": float(p50),
                "p99 s": float(p99),
                "longest s": max(seconds),
                "wrong status or steps lost": sum(not stop.is_right for stop in stops),
            }
        ]
        wrong = [str(stop) for stop in stops if not stop.is_right]
        report = Report()
        _finish(report, "from SIGTERM to the end of the last process", rows, out, wrong)


@app.command()
def memory(
    *,
    steps: Annotated[int, typer.Option(min=500, help="Steps of the run.")] = 5000,
    data: Data = None,
    clips: Clips = 96,
    out: Out = None,
    folder: Folder = None,
) -> None:
    """Sample the memory of a run over its steps; it must grow by less than 1 % over a run."""
    with _scene(folder, data, clips) as (place, source):
        samples = sample_memory(source, place, steps=steps, on_sample=_tell_sample)
        report = Report()
        rows: list[Row] = [
            {
                "from step": start,
                "samples": count,
                "training process MiB": main / MIB,
                "with loaders MiB": total / MIB,
            }
            for start, main, total, count in block_medians(samples, steps // 10, first=0)
        ]
        report.add("medians", rows)
        slopes = fit_slopes(samples)
        rows = [
            {
                "memory": each.name,
                "bytes/step": each.slope,
                "low": each.low,
                "high": each.high,
                "at most, of all": f"{each.high * steps / each.median:.2%}",
            }
            for each in slopes
        ]
        grows = [each.name for each in slopes if each.high * steps > 0.01 * each.median]
        _finish(report, "slope after the warm-up, 95 % interval (Theil-Sen)", rows, out, grows)


@app.command()
def nonfinite(
    *,
    values: Annotated[int, typer.Option(min=4, help="Total number of values.")] = 40,
    data: Data = None,
    clips: Clips = 24,
    seed: Seed = 0,
    out: Out = None,
    folder: Folder = None,
) -> None:
    """Inject non-finite values into clips, segments, losses and gradients."""
    with _scene(folder, data, clips) as (place, source):
        injections = inject_often(source, place, values=values, seed=seed)
        kinds = Counter((each.place, each.value) for each in injections)
        rows: list[Row] = []
        for (where, value), count in sorted(kinds.items()):
            group = [each for each in injections if (each.place, each.value) == (where, value)]
            row = {"place": where, "value": value, "times": count}
            row["rejected or skipped"] = sum(each.is_caught for each in group)
            row["changed something"] = sum(bool(each.changed) for each in group)
            rows.append(row)
        wrong = [str(each) for each in injections if not each.is_right]
        report = Report()
        _finish(report, f"{len(injections)} values that are not finite", rows, out, wrong)


@app.command()
def samples(
    *,
    steps: Annotated[int, typer.Option(min=2, help="Steps of 8 clips.")] = 60,
    data: Data = None,
    clips: Clips = 60,
    out: Out = None,
    folder: Folder = None,
) -> None:
    """Digest all samples and their random draws, for 1 and 2 processes and 0, 1, 2 loaders."""
    with _scene(folder, data, clips) as (place, source):
        ways = [(processes, workers) for processes in (1, 2) for workers in (0, 1, 2)]
        found = digest_sequences(source, place, steps=steps, ways=ways)
        rows: list[Row] = [
            {"read by": each.name, "samples": each.samples, "SHA-256": each.digest[:16]}
            for each in found
        ]
        first = found[0]
        wrong = [each.name for each in found if each.digest != first.digest]
        report = Report()
        _finish(report, f"samples of {steps} steps", rows, out, wrong)


@contextlib.contextmanager
def _scene(folder: Path | None, data: Path | None, clips: int) -> Iterator[tuple[Path, Path]]:
    """Return a folder for runs, and the folder of their clips."""
    with contextlib.ExitStack() as stack:
        place = folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        place.mkdir(parents=True, exist_ok=True)
        yield place, collect_clips(data, place / "clips", clips)


def _finish(
    report: Report, title: str, rows: list[Row], out: Path | None, wrong: list[str]
) -> None:
    """Add the last table, save the file, and exit with status 1 if anything is wrong."""
    report.add(title, rows)
    report.save(out)
    for line in wrong:
        _log(f"WRONG: {line}")
    if wrong:
        raise typer.Exit(1)


def _count(lines: Sequence[str], text: str) -> int:
    return sum(text in line for line in lines)


def _tell_kill(kills: Kills) -> None:
    _log(f"kill {kills.num_kills}, run {kills.num_runs + 1}, {len(kills.differences)} differences")


def _tell_stop(stop: Stop) -> None:
    _log(f"{stop.seconds:.2f} s after step {stop.done}, status {stop.status}")


def _tell_sample(sample: Sample) -> None:
    if sample.step % 500 == 0:
        _log(f"step {sample.step}: {sample.main / MIB:.1f} MiB, {sample.total / MIB:.1f} in all")


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    app()
