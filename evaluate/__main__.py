"""`python -m evaluate`: parses, checks, calls, and turns our errors into one line."""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

# Nothing heavy is imported before a command needs it, so that --help is instant.
if TYPE_CHECKING:
    from evaluate.embeddings import EmbeddingModel


class Baseline(StrEnum):
    """A model that has learned nothing."""

    logmel = "logmel"
    random = "random"


class Probe(StrEnum):
    """What is fitted on the embeddings."""

    logistic = "logistic"
    adam = "adam"


class Norm(StrEnum):
    """Whose mean and std standardize the log-mels."""

    task = "task"
    checkpoint = "checkpoint"


class Device(StrEnum):
    """Where embeddings are computed."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


# The \b lines keep typer from joining the lines of the paragraph below them.
_HELP = """Measure how much frozen embeddings know of a labelled set: one linear probe on each.

The csv names its clips relative to its own folder, one a row, in the columns file_name, label,
and split (train, valid, test) or fold (leave one out). Where no validation clips are given, a
tenth of the training clips is drawn.

\b
Examples:
  python -m evaluate --baseline logmel --baseline random --task birds.csv
  python -m evaluate runs/a/encoder.safetensors --baseline random --task birds.csv
  python -m evaluate a.safetensors b.safetensors --task birds.csv --probe adam --out results/

\b
Written into --out, and added to by the next call:
  results.csv      one row per model, task, fold and seed
  summary.csv      one row per model and probe, with 95 % intervals, beside published scores
  predictions/     what each run said of each test clip
A task is named after its csv (metadata.csv: after its folder); a name of the paper's table
(nsynth, us8k, vc1, voxforge, spcv2_12, spcv2) fills that column.
"""

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command(help=_HELP)
def main(
    models: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[MODEL.safetensors]...",
            help="Model files, from `byola-rq export` or the end of training.",
        ),
    ] = None,
    task: Annotated[
        list[Path] | None,
        typer.Option(help="Labelled csv; repeat for more.", metavar="CSV"),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder the results are added to.")] = Path("results"),
    baseline: Annotated[
        list[Baseline] | None,
        typer.Option(help="A model that has learned nothing, to compare with; repeat for both."),
    ] = None,
    probe: Annotated[
        list[Probe] | None,
        typer.Option(help="Fitted on the embeddings; repeat for both.  [default: logistic]"),
    ] = None,
    unit_seconds: Annotated[
        float | None,
        typer.Option(
            help="Length every clip is cropped or padded to.  [default: the longest, at most 10]"
        ),
    ] = None,
    norm: Annotated[
        Norm, typer.Option(help="Mean and std of the log-mels: the training clips' or the model's.")
    ] = Norm.task,
    dim: Annotated[
        int, typer.Option(min=1, help="Embedding size of random, where no model file is given.")
    ] = 2048,
    seed: Annotated[
        int, typer.Option(min=0, help="Of validation draw, adam, random. Same seed, same rows.")
    ] = 0,
    device: Annotated[Device, typer.Option(help="Where embeddings are computed.")] = Device.auto,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Decoding threads.  [default: a core each, at most 8]")
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Clips embedded together.  [default: by their length]"),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Load, check and evaluate; what the options mean stands beside each."""
    with _one_line_errors(debug):
        from evaluate.labelled_csv import read_labelled_csv
        from evaluate.runner import Settings, evaluate
        from evaluate.tasks import check_names

        _check_usage(bool(models or baseline), bool(task))
        settings = Settings(
            probes=tuple(dict.fromkeys(each.value for each in probe or [Probe.logistic])),
            norm=norm.value,
            seed=seed,
            device=_choose_device(device),
            num_workers=workers or min(8, os.cpu_count() or 1),
            batch_size=batch_size,
        )
        compared = _load_models(models or [], baseline or [], dim, seed, settings.device)
        if norm == Norm.checkpoint and not models:
            raise _usage_error("--norm checkpoint needs a model file; a baseline has no statistics")
        tasks = [read_labelled_csv(path, unit_seconds) for path in task or []]
        check_names(tasks)
        evaluate(compared, tasks, settings, out)


@contextmanager
def _one_line_errors(debug: bool) -> Iterator[None]:
    """Wrong input exits 2, a failure at work 1, each with one line; the traceback on demand."""
    from byola_rq.errors import ByolaRQError

    try:
        yield
    except KeyboardInterrupt:
        print("error: interrupted; finished runs are in results.csv", file=sys.stderr)
        raise typer.Exit(130) from None
    except Exception as error:
        if debug:
            traceback.print_exc()
        message, exit_code = " ".join(str(error).split()), 1
        if isinstance(error, ByolaRQError):
            exit_code = error.exit_code
        else:
            message = f"{type(error).__name__}: {message} (--debug shows where)"
        print(f"error: {message}", file=sys.stderr)
        raise typer.Exit(exit_code) from None


def _usage_error(text: str) -> Exception:
    from byola_rq.errors import ByolaRQError

    return ByolaRQError(f"{text}; see python -m evaluate --help")


def _check_usage(has_model: bool, has_task: bool) -> None:
    if not has_model:
        raise _usage_error("nothing to evaluate: name a model file or a --baseline")
    if not has_task:
        raise _usage_error("nothing to evaluate on: name a --task")


def _choose_device(device: Device) -> str:
    import torch

    if device == Device.cuda and not torch.cuda.is_available():
        raise _usage_error("--device must be cpu or auto: torch finds no CUDA device here")
    if device == Device.auto:
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device.value


def _load_models(
    paths: list[Path], baselines: list[Baseline], dim: int, seed: int, device: str
) -> list["EmbeddingModel"]:
    """The model files, then the baselines in the likeness of the first."""
    from byola_rq.frontend import LogMelSpectrogram
    from evaluate.embeddings import load_model, make_baseline

    models = [load_model(path, device) for path in dict.fromkeys(paths)]
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
    app(prog_name="python -m evaluate")
