"""Commands `byola-rq pretrain`, `recipes` and `runs`."""

from pathlib import Path
from typing import Annotated

import typer

from byola_rq.cli.options import Overrides, load_config, print_once
from byola_rq.runtime.signals import terminate_at_end_of_input
from byola_rq.runtime.terminal import say, warn


def pretrain(
    config: Overrides = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Recipe instead of a CONFIG.yaml; see `byola-rq recipes`."
        ),
    ] = None,
    reset: Annotated[
        bool,
        typer.Option("--reset", help="Start anew; the run in run.dir is moved to run.dir.1 ..."),
    ] = False,
    profile: Annotated[
        int | None,
        typer.Option(min=1, help="Measure the stages of this many steps, and trace a few."),
    ] = None,
    stop_at_eof: Annotated[
        bool,
        typer.Option(
            "--stop-at-eof",
            help="Stop as after SIGTERM once standard input ends, as a pipe does with its writer.",
        ),
    ] = False,
) -> None:
    """Pretrain an encoder on unlabeled clips.

    Any key of config.yaml can be changed on the command line. The same command resumes from the
    last checkpoint. The run directory gets config.yaml (as resolved), metrics.csv, checkpoints, and
    at the end encoder.safetensors.

    Exit status: 143, 0 or 130 after SIGTERM, SIGUSR1 or Ctrl-C, which save first; 75 if the run
    hung (run.stall_minutes). Start it with torchrun for several GPUs or machines; see
    docs/clusters.md.

    \b
    Examples:
      byola-rq pretrain data.source=/data/my_sounds run.dir=runs/a
      byola-rq pretrain --recipe short data.source=/data/my_sounds run.dir=runs/short
      byola-rq pretrain data.source=clips.csv run.dir=runs/b encoder.dim=512 train.max_steps=200
      byola-rq prepare /data/audioset packed
      byola-rq pretrain my.yaml data.source=packed run.device=cuda run.precision=bfloat16
      byola-rq pretrain data.source=/data/x 'views.augmentations=[mixup, random_resized_crop]'
      torchrun --nproc-per-node 8 -m byola_rq pretrain my.yaml data.source=packed
    """
    if stop_at_eof:
        terminate_at_end_of_input()
    loaded = load_config(config, recipe)
    from byola_rq.train.loop import pretrain

    print_once(pretrain(loaded, reset=reset, profile=profile))


def recipes(
    name: Annotated[str | None, typer.Argument(help="Recipe to print.")] = None,
) -> None:
    """List the recipes, or print one as a CONFIG.yaml.

    `byola-rq pretrain --recipe NAME` uses one. Scores are accuracies in percent on ESC-10, Speech
    Commands and spoken digits, and the mean over five more sets (docs/pretraining.md).

    \b
    Examples:
      byola-rq recipes
      byola-rq recipes general > my.yaml
    """
    from byola_rq.recipes.catalog import NAMES, load_recipe, read_recipe

    if name is not None:
        for line in (read_recipe(name).header + load_recipe(name).to_yaml()).splitlines():
            say(line)
        return
    for recipe in map(read_recipe, NAMES):
        say(f"{recipe.name:9} {recipe.summary} ({recipe.source}): {recipe.scores}")


def runs(
    run: Annotated[list[Path], typer.Argument(help="Directories of runs, or folders of them.")],
    picture: Annotated[
        Path | None, typer.Option(help="Also draw the runs' curves (.png, .pdf, .svg).")
    ] = None,
) -> None:
    """Compare runs: progress, metrics, configurations.

    Metrics are those of the last row of metrics.csv. `skipped` counts all steps whose loss or
    gradient was not finite. An embedding std near 0 or an effective rank near 1 indicates
    collapse. High waiting time means that data is read too slowly.

    \b
    Examples:
      byola-rq runs runs/a
      byola-rq runs runs/a runs/b --picture curves.png
      byola-rq runs runs
    """
    from byola_rq.runs.history import find_runs
    from byola_rq.runs.table import describe_runs

    found, notes = find_runs(run)
    for note in notes:
        warn(f"warning: {note}")
    for line in describe_runs(found):
        say(line)
    if picture is not None:
        from byola_rq.plots.curves import save_curves_picture

        save_curves_picture(picture, {each.name: each.metrics for each in found})
        say(picture)
