"""Repeated kills of a run, compared with an undisturbed one."""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.survival_runs import Process, digest_results, make_config
from byola_rq.config import Config

# Each clip three times; a checkpoint every two steps of some 50 ms; one loader to start.
THREE_EPOCHS = ("train.epochs=3", "checkpoint.every_steps=2", "checkpoint.keep=2", "data.workers=1")


@dataclass
class Kills:
    """Outcome of the kills."""

    seconds: float  # of the undisturbed run
    expected: dict[str, str]  # digests of the undisturbed run
    num_kills: int = 0
    num_runs: int = 0
    by_phase: Counter[str] = field(default_factory=Counter)
    differences: list[str] = field(default_factory=list)


def kill_often(
    clips: Path,
    folder: Path,
    *,
    times: int,
    seed: int,
    overrides: Sequence[str] = THREE_EPOCHS,
    on_kill: Callable[[Kills], object],
) -> Kills:
    """Kill runs at random moments until they end, `times` times in total, and compare results.

    Moments are uniform between the start of a process and the duration of the undisturbed run. A
    killed run is started again; a run that ends before its moment is compared, and another one
    begins.

    Args:
        clips: Folder of clips to train on.
        folder: Folder for the runs; runs that differ are kept.
        times: Total number of kills.
        seed: Seed of the moments.
        overrides: Overrides of the runs' configuration.
        on_kill: Called after each kill.
    """
    whole = make_config(clips, folder / "whole", overrides)
    seconds = Process(whole, folder).finish()
    kills = Kills(seconds, digest_results(whole.run.dir))
    rng = random.Random(seed)  # noqa: S311  # nothing secret
    while kills.num_kills < times:
        config = make_config(clips, folder / f"run-{kills.num_runs:04d}", overrides)
        process = Process(config, folder)
        while kills.num_kills < times and process.wait_until(rng.uniform(0, seconds)):
            process.kill()
            kills.num_kills += 1
            kills.by_phase[_phase(process, folder)] += 1
            on_kill(kills)
            process = Process(config, folder)
        process.finish()
        kills.num_runs += 1
        _compare(kills, config)
    return kills


def _compare(kills: Kills, config: Config) -> None:
    found = digest_results(config.run.dir)
    kills.differences += [
        f"{config.run.dir}: {name} is {found[name][:12]}, not {digest[:12]}"
        for name, digest in kills.expected.items()
        if found[name] != digest
    ]


def _phase(process: Process, folder: Path) -> str:
    """Return the phase in which a process was killed."""
    run_dir = process.config.run.dir
    begun = run_dir / "config.yaml"  # rewritten by every process
    saved = [path.name for path in run_dir.glob("step-*")]
    last = max(path.name for path in (folder / "whole").glob("step-*"))
    if not begun.exists() or begun.stat().st_mtime < process.started_at:
        return "starting Python and listing clips"
    if any(run_dir.glob(".step-*")):
        return "saving"
    if last in saved:
        return "after the last checkpoint (export)"
    metrics = run_dir / "metrics.csv"
    if not metrics.exists() or metrics.stat().st_mtime < process.started_at:
        return "measuring, building, starting the loader"
    return "training"
