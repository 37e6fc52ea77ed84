"""`python -m evaluate`: the command line of the evaluation."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from byola_rq.cli.options import run_app
from byola_rq.model.builtin import NAME as BUILTIN
from byola_rq.runtime.spinning import bound_spinning
from byola_rq.runtime.terminal import warn
from evaluate.ablation.command import ablate
from evaluate.options import (
    Baseline,
    DataRoot,
    Debug,
    Device,
    LabelFractions,
    Norm,
    Out,
    Probe,
    Protocol,
    RunByDefault,
    Seed,
    SetNames,
    SplitOfVoxForge,
    Tasks,
    UnitSeconds,
    VoxForgeSplit,
    Workers,
    check_sets,
    choose_device,
    one_line_errors,
    print_error,
    usage_error,
)

# Nothing heavy is imported before a command needs it, so that --help is instant.

_HELP = """Evaluate embeddings on labeled sets with linear probes.

\b
  python -m evaluate [run] --data-root DIR              the built-in encoder on the published sets
  python -m evaluate [run] MODEL... --data-root DIR     other models
  python -m evaluate [run] MODEL... --task CSV          models on your own csv of labeled clips
  python -m evaluate inspect --data-root DIR            find data sets, check that they are complete
  python -m evaluate compare A B --out results/         test whether A is better than B
  python -m evaluate miniature DIR                      write miniatures of the six published sets
  python -m evaluate ablate GRID.yaml --data SOURCE     pretrain, evaluate and compare variants
"""

_HELP_RUN = """Evaluate models on labeled sets with probes. The default command.

Published sets are found under --data-root by their contents, unpacked as published: NSynth,
UrbanSound8K, VoxCeleb1, VoxForge (also packed), Speech Commands V2 with 12 and with 35 labels;
ESC-50, GTZAN, CREMA-D, FSD50K. The Kaggle copies of UrbanSound8K and ESC-50 are found too. EVAR's
splits are used if its voxforge.csv or cremad.csv is in the set's folder.

Published scores come from two probes, selected by --protocol; a score is ranked among them only if
split, probe and size agree.

A csv has one clip per row: file_name, relative to the csv's folder; label (or labels: several,
joined by commas, ; or |); and split (train, valid, test) or fold (leave one out). Without
validation clips, a tenth of the training clips is drawn.

\b
Examples:
  python -m evaluate --data-root /data
  python -m evaluate builtin a.safetensors --baseline random --baseline logmel --data-root /data
  python -m evaluate a.safetensors b.safetensors --data-root /data --tasks us8k spcv2 --probe adam
  python -m evaluate a.safetensors --data-root /data --protocol byol_a --protocol evar
  python -m evaluate --baseline logmel --baseline random --task birds.csv --out results/
  python -m evaluate a.safetensors --task birds.csv --probe finetune --label-fraction 0.1 1

\b
Written into --out, where later calls add to it:
  results.csv      one row per model, task, fold and seed
  summary.csv      one row per model and probe, with 95 % intervals and published scores;
                   also as summary.md, summary.tex and summary.png
  labels.png       score against share of the labels, if there are several shares
  predictions/     predictions of each run for each test clip
  cache/           embeddings; may be deleted between calls
Repeating an interrupted call continues it; finished runs are not repeated. A model is named after
its file (encoder.safetensors in a folder: after the folder), a task after its csv (metadata.csv:
after its folder). A task with a name of the paper's table (nsynth, us8k, vc1, voxforge, spcv2_12,
spcv2) fills that column.
"""

app = typer.Typer(
    cls=RunByDefault,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=_HELP,
)


@app.command(help=_HELP_RUN)
def run(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]...",
            help="Model files, ids on the Hugging Face hub, or builtin.  "
            "[default: builtin, unless a --baseline is given]",
        ),
    ] = None,
    *,
    data_root: DataRoot = None,
    tasks: SetNames = None,
    task: Tasks = None,
    out: Out = Path("results"),
    baseline: Annotated[
        list[Baseline] | None,
        typer.Option(help="Untrained model to compare with; repeatable."),
    ] = None,
    probe: Annotated[
        list[Probe] | None,
        typer.Option(
            help="Probe of the embeddings, or finetune, which trains the encoder too; repeatable.  "
            "[default: logistic, unless a --protocol is given]"
        ),
    ] = None,
    protocol: Annotated[
        list[Protocol] | None,
        typer.Option(
            help="Probe of published scores: BYOL-A's (LR 1e-3, patience 10, one run) or EVAR's "
            "(published rates, patience 20, three runs)."
        ),
    ] = None,
    label_fraction: LabelFractions = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=2, help="Maximum number of clips of each class and part, for a quick run."
        ),
    ] = None,
    unit_seconds: UnitSeconds = None,
    norm: Annotated[
        Norm,
        typer.Option(help="Mean and std of log-mels: of the training clips or the model's own."),
    ] = Norm.task,
    dim: Annotated[
        int, typer.Option(min=1, help="Embedding size of random, if no model is given.")
    ] = 2048,
    voxforge_split: SplitOfVoxForge = VoxForgeSplit.speaker,
    seed: Seed = 0,
    device: Device = "auto",
    workers: Workers = None,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Clips per batch.  [default: chosen by their length]"),
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder of embeddings.  [default: cache/ in --out]")
    ] = None,
    debug: Debug = False,
) -> None:
    """Check the options, evaluate every model on every task, and write the summary."""
    with one_line_errors(debug):
        check_sets(data_root, task, tasks)
        if not (models or baseline):
            models = [BUILTIN]
        chosen_device = choose_device(device)
        from byola_rq.runtime.memory import keep_freed_memory
        from evaluate.models import load_models
        from evaluate.protocol import Settings
        from evaluate.reports.write import write_reports
        from evaluate.runner import evaluate, gather_tasks
        from evaluate.tasks.few_labels import parse_fractions

        if chosen_device == "cpu":
            keep_freed_memory()
        settings = Settings(
            probes=_name_probes(probe or [], protocol or []),
            label_fractions=parse_fractions(label_fraction or []),
            norm=norm.value,
            seed=seed,
            device=chosen_device,
            num_workers=_num_workers(workers),
            batch_size=batch_size,
            cache=cache or out / "cache",
            debug=debug,
        )
        _check_finetune(settings.probes, baseline or [])
        compared = load_models(
            models or [], baseline or [], dim=dim, seed=seed, device=settings.device
        )
        if norm == Norm.checkpoint and not models:
            raise usage_error(
                "--norm checkpoint needs a model; a baseline has no statistics", "--norm"
            )
        to_do, errors = gather_tasks(
            data_root,
            tasks,
            task or [],
            unit_seconds=unit_seconds,
            limit=limit,
            seed=seed,
            label_fractions=settings.label_fractions,
            by_archive=voxforge_split == VoxForgeSplit.archive,
        )
        for error in errors:
            print_error(error, debug)
        if not to_do:
            raise typer.Exit(2)
        num_failed = len(errors) + evaluate(compared, to_do, settings, out)
        write_reports(out)
        if num_failed:
            raise typer.Exit(1)


@app.command()
def inspect(
    *,
    data_root: DataRoot = None,
    task: Tasks = None,
    out: Annotated[
        Path | None, typer.Option(help="Csv to write all problems to.", metavar="CSV")
    ] = None,
    digests: Annotated[
        bool, typer.Option("--digests", help="Also prove that no two parts share an audio file.")
    ] = False,
    voxforge_split: SplitOfVoxForge = VoxForgeSplit.speaker,
    seed: Seed = 0,
    workers: Workers = None,
    debug: Debug = False,
) -> None:
    """Find data sets and check every clip.

    Counts clips and lists missing, duplicate and unreadable ones. Needs no model. Exits with
    status 1 if it finds a problem that could change a score.
    """
    with one_line_errors(debug):
        if not (data_root or task):
            raise usage_error("nothing to inspect: name a --data-root or a --task")
        from evaluate.inspection import inspect as inspect_sets

        if not inspect_sets(
            data_root,
            task or [],
            seed=seed,
            num_workers=_num_workers(workers),
            with_digests=digests,
            out=out,
            by_archive=voxforge_split == VoxForgeSplit.archive,
        ):
            raise typer.Exit(1)


@app.command()
def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="Name of a model in summary.csv.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Name of the model to compare with.")],
    *,
    out: Out = Path("results"),
    debug: Debug = False,
) -> None:
    """Test on every common task whether A is better than B.

    The test is a paired bootstrap over the test clips.
    """
    with one_line_errors(debug):
        from evaluate.reports.comparison import compare as compare_models
        from evaluate.reports.comparison import print_comparisons

        print_comparisons(compare_models(out, first, second))


@app.command()
def miniature(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write the sets to.")],
    *,
    seed: Seed = 0,
    debug: Debug = False,
) -> None:
    """Write synthetic miniatures of the six published sets.

    A few minutes of synthetic sound in the publishers' layouts, to evaluate with --data-root DIR.
    Existing miniatures are kept.
    """
    with one_line_errors(debug):
        from byola_rq.runtime.progress import ProgressBar
        from evaluate.miniature.write import num_clips, write_miniatures

        with ProgressBar("writing miniatures", num_clips()) as bar:
            write_miniatures(folder, seed=seed, on_clip=lambda _: bar.advance())


app.command()(ablate)


def _name_probes(probes: list[Probe], protocols: list[Protocol]) -> tuple[str, ...]:
    named = [each.value for each in (*probes, *protocols)]
    return tuple(dict.fromkeys(named or [Probe.logistic.value]))


def _check_finetune(probes: tuple[str, ...], baselines: list[Baseline]) -> None:
    if Probe.finetune in probes and Baseline.logmel in baselines:
        if len(probes) == 1:
            raise usage_error(
                "--probe finetune trains an encoder; --baseline logmel has none", "--probe"
            )
        warn("warning: logmel has no encoder, so finetune skips it")


def _num_workers(workers: int | None) -> int:
    from byola_rq.runtime.workers import count_cores

    return workers or min(8, count_cores())


if __name__ == "__main__":
    bound_spinning()
    run_app(app, sys.argv[1:], "python -m evaluate")
