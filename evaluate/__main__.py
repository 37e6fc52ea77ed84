"""`python -m evaluate`: parses, checks, calls, and turns our errors into one line."""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from byola_rq.cli.options import expand_homes, run_app
from byola_rq.model.builtin import NAME as BUILTIN
from byola_rq.runtime.spinning import bound_spinning
from byola_rq.runtime.terminal import warn

# Nothing heavy is imported before a command needs it, so that --help is instant.
if TYPE_CHECKING:
    from evaluate.models import EmbeddingModel


class Baseline(StrEnum):
    """A model that has learned nothing."""

    logmel = "logmel"
    random = "random"


class Probe(StrEnum):
    """What is fitted on the embeddings."""

    logistic = "logistic"
    adam = "adam"
    knn = "knn"


class Protocol(StrEnum):
    """The probe of a published evaluation, by its authors' rules."""

    byol_a = "byol_a"
    evar = "evar"


class Norm(StrEnum):
    """Whose mean and std standardize the log-mels."""

    task = "task"
    checkpoint = "checkpoint"


class VoxForgeSplit(StrEnum):
    """What stands in one part alone where no csv gives VoxForge's split."""

    speaker = "speaker"
    archive = "archive"


class Device(StrEnum):
    """Where embeddings are computed and probes fitted."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class RunByDefault(TyperGroup):
    """`python -m evaluate MODEL ...` is `python -m evaluate run MODEL ...`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Name the command where none is named; `~` is the home folder."""
        args = expand_homes(args)
        if args and args[0] not in self.commands and args[0] not in ("--help", "-h"):
            args = ["run", *args]
        if args[:1] == ["run"]:
            args = _spread_tasks(args)
        parsed: list[str] = super().parse_args(ctx, args)
        return parsed


_HELP = """Measure how much frozen embeddings know of labelled sets: one linear probe on each.

\b
  python -m evaluate [run] --data-root DIR              the built-in encoder on the published sets
  python -m evaluate [run] MODEL... --data-root DIR     other models
  python -m evaluate [run] MODEL... --task CSV          models on a labelled csv of your own
  python -m evaluate inspect --data-root DIR            what is there, and whether it is whole
  python -m evaluate compare A B --out results/         whether A is better than B
  python -m evaluate miniature DIR                      the six published sets in small
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

\b
Written into --out, and added to by the next call:
  results.csv      one row per model, task, fold and seed
  summary.csv      one row per model and probe, with 95 % intervals, beside published scores;
                   also as summary.md, summary.tex and summary.png
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

DataRoot = Annotated[
    Path | None, typer.Option(help="Folder that holds the published sets.", metavar="DIR")
]
Tasks = Annotated[list[Path] | None, typer.Option(help="Labelled csv; repeat.", metavar="CSV")]
Out = Annotated[Path, typer.Option(help="Folder the results are added to.")]
Seed = Annotated[int, typer.Option(min=0, help="Of every draw. Same seed, same rows.")]
SplitOfVoxForge = Annotated[
    VoxForgeSplit,
    typer.Option(
        "--voxforge-split",
        help="No speaker in two parts, or, as in the published split, no archive. A voxforge.csv "
        "in its folder goes before.",
    ),
]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Decoding threads.  [default: a core each, at most 8]")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


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
            help="Fitted on the embeddings; repeat for more.  "
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
        Device, typer.Option(help="Where embeddings are computed and probes fitted.")
    ] = Device.auto,
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
    with _one_line_errors(debug):
        _check_usage(bool(data_root), bool(task), bool(tasks))
        if not (models or baseline):
            models = [BUILTIN]
        chosen_device = _choose_device(device)
        from byola_rq.runtime.memory import keep_freed_memory
        from evaluate.protocol import Settings
        from evaluate.runner import evaluate, gather_tasks

        if chosen_device == "cpu":
            keep_freed_memory()
        settings = Settings(
            probes=_name_probes(probe or [], protocol or []),
            norm=norm.value,
            seed=seed,
            device=chosen_device,
            num_workers=_num_workers(workers),
            batch_size=batch_size,
            cache=cache or out / "cache",
            debug=debug,
        )
        compared = _load_models(models or [], baseline or [], dim, seed, settings.device)
        if norm == Norm.checkpoint and not models:
            raise _usage_error(
                "--norm checkpoint needs a model; a baseline has no statistics", "--norm"
            )
        to_do, errors = gather_tasks(
            data_root,
            tasks,
            task or [],
            unit_seconds=unit_seconds,
            limit=limit,
            seed=seed,
            by_archive=voxforge_split == VoxForgeSplit.archive,
        )
        for error in errors:
            _print_error(error, debug)
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
    with _one_line_errors(debug):
        if not (data_root or task):
            raise _usage_error("nothing to inspect: name a --data-root or a --task")
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
    with _one_line_errors(debug):
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
    with _one_line_errors(debug):
        from byola_rq.runtime.progress import ProgressBar
        from evaluate.miniature.write import num_clips, write_miniatures

        with ProgressBar("writing miniatures", num_clips()) as bar:
            write_miniatures(folder, seed=seed, on_clip=lambda _: bar.advance())


@contextmanager
def _one_line_errors(debug: bool) -> Iterator[None]:
    """Wrong input exits 2, a failure at work 1, each with one line; the traceback on demand."""
    from byola_rq.cli.options import is_fault, take_any_text
    from byola_rq.errors import ByolaRQError

    take_any_text()
    try:
        yield
    except typer.Exit:
        raise
    except KeyboardInterrupt:
        warn("error: interrupted; what is finished is kept")
        raise typer.Exit(130) from None
    except BaseException as error:
        if not is_fault(error):
            raise
        _print_error(error, debug)
        exit_code = error.exit_code if isinstance(error, ByolaRQError) else 1
        raise typer.Exit(exit_code) from None


def _print_error(error: BaseException, debug: bool) -> None:
    from byola_rq.cli.options import describe_fault
    from byola_rq.errors import ByolaRQError

    if debug:
        for line in "".join(traceback.format_exception(error)).splitlines():
            warn(line)
    is_ours = isinstance(error, ByolaRQError)
    message = " ".join(str(error).split()) if is_ours else describe_fault(error)
    warn(f"error: {message}")


def _usage_error(text: str, option: str | None = None) -> Exception:
    from byola_rq.errors import ByolaRQError

    return ByolaRQError(f"{text}; see python -m evaluate --help", code="usage", key=option)


def _check_usage(has_root: bool, has_csv: bool, has_names: bool) -> None:
    if not (has_root or has_csv):
        raise _usage_error("nothing to evaluate on: name a --data-root or a --task")
    if has_names and not has_root:
        raise _usage_error(
            "--tasks chooses among the sets under --data-root, which is not given", "--tasks"
        )


def _name_probes(probes: list[Probe], protocols: list[Protocol]) -> tuple[str, ...]:
    named = [each.value for each in (*probes, *protocols)]
    return tuple(dict.fromkeys(named or [Probe.logistic.value]))


def _num_workers(workers: int | None) -> int:
    return workers or min(8, os.cpu_count() or 1)


def _spread_tasks(args: list[str]) -> list[str]:
    """`--tasks a b` and `--tasks a,b` as `--tasks a --tasks b`; models are told apart from names.

    A model file has a dot or slash, and no set is called `builtin`.
    """
    spread: list[str] = []
    is_naming = False
    for argument in args:
        is_model = argument == BUILTIN or set("./") & set(argument)
        if is_naming and not argument.startswith("-") and not is_model:
            for name in filter(None, argument.split(",")):
                spread += ["--tasks", name]
            continue
        is_naming = argument == "--tasks"
        if not is_naming:
            spread.append(argument)
    return spread


def _choose_device(device: Device) -> str:
    import torch

    if device == Device.cuda and not torch.cuda.is_available():
        raise _usage_error(
            "--device must be cpu or auto: torch finds no CUDA device here", "--device"
        )
    chosen = device.value
    if device == Device.auto:
        chosen = "cuda" if torch.cuda.is_available() else "cpu"
    if chosen == "cuda":
        # scipy reads this once, when it is first imported; scikit-learn on a GPU needs it.
        os.environ.setdefault("SCIPY_ARRAY_API", "1")
    return chosen


def _report(out: Path) -> None:
    """The summary in every form, and on the terminal."""
    from byola_rq.errors import MissingPackageError
    from evaluate.reports.chart import write_chart
    from evaluate.reports.summary import summarize, write_summary
    from evaluate.reports.table import print_table, write_tables

    summary = summarize(out)
    write_summary(out, summary)
    write_tables(out, summary)
    for note in summary.notes:
        warn(f"warning: {note}")
    print_table(summary)
    try:
        write_chart(summary, out / "summary.png")
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
