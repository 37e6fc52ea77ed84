"""`python -m evaluate`: parses, checks, calls, and turns our errors into one line."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    LabelFractions,
    Norm,
    Out,
    Probe,
    Protocol,
    RunByDefault,
    Seed,
    SplitOfVoxForge,
    Tasks,
    VoxForgeSplit,
    Workers,
    choose_device,
    one_line_errors,
    print_error,
    usage_error,
)

# Nothing heavy is imported before a command needs it, so that --help is instant.
if TYPE_CHECKING:
    from evaluate.models import EmbeddingModel


_HELP = """Measure how much frozen embeddings know of labelled sets: one linear probe on each.

\b
  python -m evaluate [run] --data-root DIR              the built-in encoder on the published sets
  python -m evaluate [run] MODEL... --data-root DIR     other models
  python -m evaluate [run] MODEL... --task CSV          models on a labelled csv of your own
  python -m evaluate inspect --data-root DIR            what is there, and whether it is whole
  python -m evaluate compare A B --out results/         whether A is better than B
  python -m evaluate miniature DIR                      the six published sets in small
  python -m evaluate ablate GRID.yaml --data SOURCE     pretrain variants, evaluate and compare them
"""

_HELP_RUN = """Probe frozen embeddings on labelled sets; the command where none is named.

Published sets are found under --data-root by what they contain, unpacked as their publishers ship
them: NSynth, UrbanSound8K, VoxCeleb1, VoxForge (also packed), Speech Commands V2 with 12 and with
35 labels; ESC-50, GTZAN, CREMA-D, FSD50K. UrbanSound8K and ESC-50 are found as Kaggle ships them
too, and the splits of EVAR's voxforge.csv and cremad.csv in the set's folder are used.

Published scores come from two probes, which --protocol names; a score is ranked among them only
where split, probe and size agree.

A csv names its clips relative to its own folder, one a row, in the columns file_name, label (or
labels: several, joined by commas, ; or |), and split (train, valid, test) or fold (leave one out).
Where no validation clips are given, a tenth of the training clips is drawn.

\b
Examples:
  python -m evaluate --data-root /data
  python -m evaluate builtin a.safetensors --baseline random --baseline logmel --data-root /data
  python -m evaluate a.safetensors b.safetensors --data-root /data --tasks us8k spcv2 --probe adam
  python -m evaluate a.safetensors --data-root /data --protocol byol_a --protocol evar
  python -m evaluate --baseline logmel --baseline random --task birds.csv --out results/
  python -m evaluate a.safetensors --task birds.csv --probe finetune --label-fraction 0.1 1

\b
Written into --out, and added to by the next call:
  results.csv      one row per model, task, fold and seed
  summary.csv      one row per model and probe, with 95 % intervals, beside published scores;
                   also as summary.md, summary.tex and summary.png
  labels.png       score against the share of the labels, where there were several shares
  predictions/     what each run said of each test clip
  cache/           embeddings; delete it when you like
A call that was stopped goes on where it was when it is given again; finished runs are not repeated.
A task is named after its csv (metadata.csv: after its folder); a name of the paper's table
(nsynth, us8k, vc1, voxforge, spcv2_12, spcv2) fills that column.
"""

app = typer.Typer(
    cls=RunByDefault,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help=_HELP,
)


@app.command(help=_HELP_RUN)
def run(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]...",
            help="Model files, ids on the Hugging Face hub, or builtin.  "
            "[default: builtin, where no --baseline is named]",
        ),
    ] = None,
    *,
    data_root: DataRoot = None,
    tasks: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME...",
            help="Of the sets under --data-root only these.  [default: all that are there]",
        ),
    ] = None,
    task: Tasks = None,
    out: Out = Path("results"),
    baseline: Annotated[
        list[Baseline] | None,
        typer.Option(help="A model that has learned nothing, to compare with; repeat for both."),
    ] = None,
    probe: Annotated[
        list[Probe] | None,
        typer.Option(
            help="Fitted on the embeddings, or, finetune, together with the encoder; repeat for "
            "more.  "
            "[default: logistic, where no --protocol is named]"
        ),
    ] = None,
    protocol: Annotated[
        list[Protocol] | None,
        typer.Option(
            help="The probe that published scores come from: BYOL-A's (rate 1e-3, patience 10, one "
            "run) or EVAR's (published rates, patience 20, three runs)."
        ),
    ] = None,
    label_fraction: LabelFractions = None,
    limit: Annotated[
        int | None,
        typer.Option(min=2, help="Clips of each class and part at most, for a quick look."),
    ] = None,
    unit_seconds: Annotated[
        float | None,
        typer.Option(
            help="Length every clip of a --task is cropped or padded to.  "
            "[default: the longest, at most 10]"
        ),
    ] = None,
    norm: Annotated[
        Norm, typer.Option(help="Mean and std of the log-mels: the training clips' or the model's.")
    ] = Norm.task,
    dim: Annotated[
        int, typer.Option(min=1, help="Embedding size of random, where no model file is given.")
    ] = 2048,
    voxforge_split: SplitOfVoxForge = VoxForgeSplit.speaker,
    seed: Seed = 0,
    device: Annotated[
        str,
        typer.Option(
            help="Where embeddings are computed and probes fitted: auto, cpu, cuda, cuda:N or mps."
        ),
    ] = "auto",
    workers: Workers = None,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Clips embedded together.  [default: by their length]"),
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder of embeddings.  [default: cache/ in --out]")
    ] = None,
    debug: Debug = False,
) -> None:
    """Load, check and evaluate; what the options mean stands beside each."""
    with one_line_errors(debug):
        _check_usage(bool(data_root), bool(task), bool(tasks))
        if not (models or baseline):
            models = [BUILTIN]
        chosen_device = choose_device(device)
        from byola_rq.runtime.memory import keep_freed_memory
        from evaluate.protocol import Settings
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
        compared = _load_models(models or [], baseline or [], dim, seed, settings.device)
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
        _report(out)
        if num_failed:
            raise typer.Exit(1)


@app.command()
def inspect(
    *,
    data_root: DataRoot = None,
    task: Tasks = None,
    out: Annotated[
        Path | None, typer.Option(help="csv that every problem is written to.", metavar="CSV")
    ] = None,
    digests: Annotated[
        bool, typer.Option("--digests", help="Also prove that no two parts share an audio file.")
    ] = False,
    voxforge_split: SplitOfVoxForge = VoxForgeSplit.speaker,
    seed: Seed = 0,
    workers: Workers = None,
    debug: Debug = False,
) -> None:
    """Say which sets are there, count them, and list what is missing, doubled or unreadable.

    Needs no model. Exits with 1 if a set that was found is not sound.
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
    first: Annotated[str, typer.Argument(metavar="A", help="Model, as summary.csv names it.")],
    second: Annotated[str, typer.Argument(metavar="B", help="The one it is held against.")],
    *,
    out: Out = Path("results"),
    debug: Debug = False,
) -> None:
    """Say of every task that both have done whether A is better than B, by paired bootstrap."""
    with one_line_errors(debug):
        from evaluate.reports.comparison import compare as compare_models
        from evaluate.reports.comparison import print_comparisons

        print_comparisons(compare_models(out, first, second))


@app.command()
def miniature(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the sets are written.")],
    *,
    seed: Seed = 0,
    debug: Debug = False,
) -> None:
    """Write the six published sets in small: synthesized sounds, the publishers' own layouts.

    A few minutes of sound in all; --data-root DIR then evaluates them. A set that is already
    there is left alone.
    """
    with one_line_errors(debug):
        from byola_rq.runtime.progress import ProgressBar
        from evaluate.miniature.write import num_clips, write_miniatures

        with ProgressBar("writing miniatures", num_clips()) as bar:
            write_miniatures(folder, seed=seed, on_clip=lambda _: bar.advance())


app.command()(ablate)


def _check_usage(has_root: bool, has_csv: bool, has_names: bool) -> None:
    if not (has_root or has_csv):
        raise usage_error("nothing to evaluate on: name a --data-root or a --task")
    if has_names and not has_root:
        raise usage_error(
            "--tasks chooses among the sets under --data-root, which is not given", "--tasks"
        )


def _name_probes(probes: list[Probe], protocols: list[Protocol]) -> tuple[str, ...]:
    named = [each.value for each in (*probes, *protocols)]
    return tuple(dict.fromkeys(named or [Probe.logistic.value]))


def _check_finetune(probes: tuple[str, ...], baselines: list[Baseline]) -> None:
    if Probe.finetune in probes and Baseline.logmel in baselines:
        if len(probes) == 1:
            raise usage_error(
                "--probe finetune trains an encoder; --baseline logmel has none", "--probe"
            )
        warn("warning: logmel has no encoder, so finetune leaves it out")


def _num_workers(workers: int | None) -> int:
    return workers or min(8, os.cpu_count() or 1)


def _report(out: Path) -> None:
    """The summary in every form, and on the terminal."""
    from byola_rq.errors import MissingPackageError
    from evaluate.reports.chart import write_chart
    from evaluate.reports.label_curve import write_label_curve
    from evaluate.reports.summary import summarize, write_summary
    from evaluate.reports.table import print_table, write_tables

    summary = summarize(out)
    write_summary(out, summary)
    write_tables(out, summary)
    for note in summary.notes:
        warn(f"warning: {note}")
    print_table(summary)
    try:
        write_chart(summary.with_all_labels(), out / "summary.png")
        write_label_curve(summary, out / "labels.png")
    except MissingPackageError as error:
        warn(f"no chart: {error}")


def _load_models(
    names: list[str], baselines: list[Baseline], dim: int, seed: int, device: str
) -> list["EmbeddingModel"]:
    """The models, then the baselines in the likeness of the first."""
    from byola_rq.audio.frontend import LogMelSpectrogram
    from evaluate.models import load_model, make_baseline

    models = [load_model(name, device) for name in dict.fromkeys(names)]
    encoder_name, frontend = "audio_ntt_2020", LogMelSpectrogram()
    if models:
        encoder_name, frontend = models[0].encoder_name, models[0].frontend
        dim = models[0].embedding_dim
    for baseline in dict.fromkeys(baselines):
        models.append(
            make_baseline(
                baseline.value,
                encoder_name=encoder_name,
                dim=dim,
                frontend=frontend,
                seed=seed,
                device=device,
            )
        )
    return models


if __name__ == "__main__":
    bound_spinning()
    run_app(app, sys.argv[1:], "python -m evaluate")
