"""What commands of `python -m evaluate` take on their command line, and how each reports."""

import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from byola_rq.cli.options import expand_homes
from byola_rq.errors import ByolaRQError
from byola_rq.model.builtin import NAME as BUILTIN

_LISTS = ("--tasks", "--label-fraction")  # options that take several values after their name


class Baseline(StrEnum):
    """A model that has learned nothing."""

    logmel = "logmel"
    random = "random"


class Probe(StrEnum):
    """What is fitted: on the embeddings, or, finetune, with the encoder that makes them."""

    logistic = "logistic"
    adam = "adam"
    knn = "knn"
    finetune = "finetune"


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


DataRoot = Annotated[
    Path | None, typer.Option(help="Folder that holds the published sets.", metavar="DIR")
]
Tasks = Annotated[list[Path] | None, typer.Option(help="Labelled csv; repeat.", metavar="CSV")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
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
LabelFractions = Annotated[
    list[str] | None,
    typer.Option(
        "--label-fraction",
        metavar="SHARE...",
        help="Of the labels of each class so many, the same for every model: several shares, such "
        "as 0.01 0.1 1, make a curve.  [default: 1]",
    ),
]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Decoding threads.  [default: a core each, at most 8]")
]


class RunByDefault(TyperGroup):
    """`python -m evaluate MODEL ...` is `python -m evaluate run MODEL ...`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Name the command where none is named; `~` is the home folder."""
        args = expand_homes(args)
        if args and args[0] not in self.commands and args[0] not in ("--help", "-h"):
            args = ["run", *args]
        if args[:1] in (["run"], ["ablate"]):
            args = spread_lists(args)
        parsed: list[str] = super().parse_args(ctx, args)
        return parsed


def spread_lists(args: Sequence[str]) -> list[str]:
    """`--tasks a b` and `--tasks a,b` as `--tasks a --tasks b`; `--label-fraction` the same way.

    Models are told apart from names: a model file has a dot or slash, and no set is called
    `builtin`. From shares, the first of which may be anything, by not being numbers.
    """
    spread: list[str] = []
    option, is_first = "", False
    for argument in args:
        if option and not argument.startswith("-") and _is_of_list(option, argument, is_first):
            for name in list(filter(None, argument.split(","))) or [argument]:
                spread += [option, name]
            is_first = False
            continue
        if is_first:
            spread.append(option)  # without a value, which is for the parser to say
        option = argument if argument in _LISTS else ""
        is_first = bool(option)
        if not option:
            spread.append(argument)
    return [*spread, option] if is_first else spread


def _is_of_list(option: str, argument: str, is_first: bool) -> bool:
    if option == "--tasks":
        return argument != BUILTIN and not set("./") & set(argument)
    return is_first or set(argument) <= set("0123456789.,e-")


@contextmanager
def one_line_errors(debug: bool) -> Iterator[None]:
    """Wrong input exits 2, a failure at work 1, each with one line; the traceback on demand."""
    from byola_rq.cli.options import take_any_text

    take_any_text()
    try:
        yield
    except typer.Exit:
        raise
    except KeyboardInterrupt:
        print("error: interrupted; what is finished is kept", file=sys.stderr)
        raise typer.Exit(130) from None
    except Exception as error:
        print_error(error, debug)
        exit_code = error.exit_code if isinstance(error, ByolaRQError) else 1
        raise typer.Exit(exit_code) from None


def print_error(error: Exception, debug: bool) -> None:
    """One line on stderr; with `debug` the traceback before it."""
    if debug:
        traceback.print_exception(error)
    message = " ".join(str(error).split())
    if not isinstance(error, ByolaRQError):
        message = f"{type(error).__name__}: {message} (--debug shows where)"
    print(f"error: {message}", file=sys.stderr)


def usage_error(text: str, option: str | None = None) -> ByolaRQError:
    """Arguments that do not go together; the line says where to read on."""
    return ByolaRQError(f"{text}; see python -m evaluate --help", code="usage", key=option)


def choose_device(device: Device) -> str:
    """`cpu` or `cuda`, whatever `auto` is here.

    Raises:
        ByolaRQError: If CUDA is asked for and not there.
    """
    import torch

    if device == Device.cuda and not torch.cuda.is_available():
        raise usage_error(
            "--device must be cpu or auto: torch finds no CUDA device here", "--device"
        )
    chosen = device.value
    if device == Device.auto:
        chosen = "cuda" if torch.cuda.is_available() else "cpu"
    if chosen == "cuda":
        # scipy reads this once, when it is first imported; scikit-learn on a GPU needs it.
        os.environ.setdefault("SCIPY_ARRAY_API", "1")
    return chosen
