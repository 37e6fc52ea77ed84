"""A run that is killed again and again, against one that nothing disturbs."""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.survival_runs import Process, digest_results, make_config
from byola_rq.config import Config

# Every clip three times; a checkpoint every two steps of some 50 ms; a loader to be started.
THREE_EPOCHS = ("train.epochs=3", "checkpoint.every_steps=2", "checkpoint.keep=2", "data.workers=1")


@dataclass
class Kills:
    """What came of them."""

    seconds: float  # of the run that nothing disturbed
    expected: dict[str, str]  # its digests
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
    """Kill runs `times` times in all, each at random moments until it ends, and compare their ends.

    A moment is uniform between the start of a process and the end that the undisturbed run's had.
    A run is started again after each kill; one that ends before its moment came is compared, and
    another one is begun.

    Args:
        clips: Folder to learn from.
        folder: For the runs; those that differ are left in it.
        times: Kills.
        seed: Of the moments.
        overrides: Of the runs' configuration.
        on_kill: Called after each.
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
    """What a killed process was at."""
    run_dir = process.config.run.dir
    begun = run_dir / "config.yaml"  # written anew by every process
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
