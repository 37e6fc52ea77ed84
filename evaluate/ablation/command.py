"""`python -m evaluate ablate`."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from byola_rq.errors import ConfigError, MissingPackageError
from byola_rq.runtime.terminal import say, warn
from evaluate.options import (
    DataRoot,
    Debug,
    Device,
    Probe,
    Protocol,
    SetNames,
    Tasks,
    UnitSeconds,
    check_sets,
    choose_device,
    one_line_errors,
    print_error,
    usage_error,
)

# Nothing heavy is imported before the command needs it, so that --help is instant.
if TYPE_CHECKING:
    from evaluate.ablation.grid import AblationRun, Grid
    from evaluate.protocol import Settings
    from evaluate.tasks.task import Task


def ablate(
    grid: Annotated[
        Path, typer.Argument(metavar="GRID.yaml", help="Base, reference and variants.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SECTION.KEY=VALUE]...", help="Changes to the base, so to every variant."
        ),
    ] = None,
    *,
    data: Annotated[list[Path], typer.Option(help="Training data, as data.source; repeatable.")],
    out: Annotated[Path, typer.Option(help="Folder of runs and reports; grids may share it.")],
    data_root: DataRoot = None,
    tasks: SetNames = None,
    task: Tasks = None,
    jobs: Annotated[int, typer.Option(min=1, help="Number of concurrent trainings.")] = 1,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds per variant, from run.seed up.")] = 3,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Only the Ith of N shares of the runs.")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue the grid in --out; fail if it is another grid."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only list the runs and their cost.")
    ] = False,
    probe: Annotated[
        str, typer.Option(help=f"Probe: {', '.join([*Probe, *Protocol])}.")
    ] = "logistic",
    limit: Annotated[
        int | None, typer.Option(min=2, help="Maximum number of clips of each class and part.")
    ] = None,
    unit_seconds: UnitSeconds = None,
    device: Device = "auto",
    debug: Debug = False,
) -> None:
    """Pretrain, evaluate and compare variants of a recipe.

    Each variant of the grid is pretrained with several seeds. Each run is one `byola-rq pretrain`
    with its own run.dir below --out, followed by one evaluation. Repeating the call continues it:
    finished runs are not repeated, and after a change of the grid only changed runs are. Several
    calls may share --out and divide the runs. A failed run is reported; the others continue, and
    the exit status is 1.

    \b
    Examples:
      python -m evaluate ablate ablations/bins.yaml --data packed --out abl --dry-run
      python -m evaluate ablate ablations/bins.yaml --data packed --task birds.csv --out abl
      python -m evaluate ablate my.yaml encoder.dim=512 --data packed --task birds.csv --out abl
      python -m evaluate ablate my.yaml --data packed --data-root /data/sets --out abl --jobs 6
      python -m evaluate ablate my.yaml --data packed --task birds.csv --out abl --shard 1/8

    \b
    Written into --out, for a grid named GRID:
      GRID.md, .csv, .png   means over seeds, differences to the reference, segments and hours
      runs/                 a run.dir, a configuration and a log for each variant and seed
      results.csv ...       as written by `python -m evaluate`; `compare` reads them
    """
    with one_line_errors(debug):
        from evaluate.ablation.grid import plan_runs, read_grid

        chosen = choose_device(device)
        if probe not in (known := [*Probe, *Protocol]):
            raise usage_error(f"--probe must be one of {', '.join(known)}; got {probe}", "--probe")
        loaded = read_grid(grid, overrides or [], _as_overrides(data, chosen, jobs))
        planned = plan_runs(loaded, seeds)
        share = _take_share(planned, shard)
        _announce(out, share, must_be_same=resume)
        if not dry_run or task or tasks or data_root:
            check_sets(data_root, task, tasks)
        to_do = _gather(data_root, tasks, task or [], unit_seconds, limit)
        if dry_run:
            from evaluate.ablation.cost import describe_cost, list_states

            for line in (*list_states(out, share), describe_cost(out, share, jobs)):
                say(line)
            return
        settings = _settings(out, probe, chosen, debug=debug)
        num_failed = _do(out, share, to_do, settings, jobs)
        _report(out, loaded, planned, [each.name for each in to_do], probe)
        if num_failed:
            raise typer.Exit(1)


def _as_overrides(data: Sequence[Path], device: str, jobs: int) -> list[str]:
    """Convert the command's options into overrides of the configuration."""
    from byola_rq.runtime.workers import count_cores

    for source in data:
        if "=" not in str(source) and not source.exists():
            raise ConfigError(
                f"--data must exist; {source} does not", code="missing", path=source, key="--data"
            )
    sources = str(data[0]) if len(data) == 1 else json.dumps([str(each) for each in data])
    settled = [f"data.source={sources}", f"run.device={device}"]
    if device == "cpu":
        settled.append(f"run.threads={max(1, count_cores() // jobs)}")
    return settled


def _take_share(runs: Sequence["AblationRun"], shard: str | None) -> Sequence["AblationRun"]:
    if shard is None:
        return runs
    is_share = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", shard)
    number, count = map(int, is_share.groups()) if is_share else (0, 0)
    if not 1 <= number <= count:
        raise usage_error(f"--shard must be I/N with I from 1 to N; got {shard}", "--shard")
    return runs[number - 1 :: count]


def _announce(out: Path, runs: Sequence["AblationRun"], *, must_be_same: bool) -> None:
    """Warn of runs that were trained with another configuration and are trained again."""
    from evaluate.ablation.runs import find_changes, find_place

    changed = {run: found for run in runs if (found := find_changes(out, run))}
    lines = [
        f"{run}: changed since it was begun ({'; '.join(differences)}); it is trained again, "
        f"{place} is kept"
        for run, (place, differences) in changed.items()
    ]
    if must_be_same and lines:
        raise ConfigError(
            f"{out}: --resume needs the grid that was begun there: {lines[0]}",
            code="different",
            path=out,
            key="--resume",
            value=lines,
        )
    if must_be_same and not any(find_place(out, run).exists() for run in runs):
        raise ConfigError(
            f"{out}: --resume needs runs of this grid; found none",
            code="missing",
            path=out,
            key="--resume",
        )
    for line in lines:
        warn(line)


def _gather(
    data_root: Path | None,
    names: Sequence[str] | None,
    csvs: Sequence[Path],
    unit_seconds: float | None,
    limit: int | None,
) -> list["Task"]:
    """Read all tasks; end with the errors of unreadable ones, before hours of training."""
    from evaluate.runner import gather_tasks

    tasks, errors = gather_tasks(
        data_root, names, csvs, unit_seconds=unit_seconds, limit=limit, seed=0
    )
    for error in errors:
        print_error(error, debug=False)
    if errors:
        raise typer.Exit(2)
    return tasks


def _settings(out: Path, probe: str, device: str, *, debug: bool) -> "Settings":
    from byola_rq.runtime.memory import keep_freed_memory
    from byola_rq.runtime.workers import count_cores
    from evaluate.protocol import Settings

    if device == "cpu":
        keep_freed_memory()
    return Settings(
        probes=(probe,),
        norm="task",
        seed=0,
        device=device,
        num_workers=min(8, count_cores()),
        batch_size=None,
        cache=out / "cache",
        debug=debug,
    )


def _do(
    out: Path,
    runs: Sequence["AblationRun"],
    tasks: Sequence["Task"],
    settings: "Settings",
    jobs: int,
) -> int:
    """Train and evaluate the runs; return the number of failures."""
    from evaluate.ablation.evaluation import evaluator
    from evaluate.ablation.work import do_runs
    from evaluate.reports.results import open_folder

    open_folder(out)
    outcome = do_runs(out, runs, evaluator(out, tasks, settings), jobs=jobs)
    for line in outcome.failed:
        warn(f"failed: {line}")
    if outcome.elsewhere:
        names = "; ".join(map(str, outcome.elsewhere))
        warn(f"left to other calls: {names}")
    return len(outcome.failed)


def _report(
    out: Path, grid: "Grid", runs: Sequence["AblationRun"], tasks: Sequence[str], probe: str
) -> None:
    """Write the report in every format, and print it."""
    from evaluate.ablation.chart import write_chart
    from evaluate.ablation.report import make_report
    from evaluate.ablation.tables import to_report, write_report

    report = make_report(out, grid, runs, tasks, probe)
    write_report(out, report)
    for line in to_report(report).splitlines():
        say(line)
    try:
        write_chart(report, out / f"{grid.name}.png")
    except MissingPackageError as error:
        warn(f"no chart: {error}")
