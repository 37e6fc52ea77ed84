"""What commands of `python -m evaluate` take on their command line, and how each reports."""

import os
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from byola_rq.cli.options import describe_fault, expand_homes, is_fault, take_any_text
from byola_rq.errors import ByolaRQError
from byola_rq.model.builtin import NAME as BUILTIN
from byola_rq.runtime.terminal import warn

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
Device = Annotated[
    str,
    typer.Option(
        help="Where embeddings are computed and probes fitted: auto, cpu, cuda, cuda:N or mps."
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
        print_error(error, debug)
        exit_code = error.exit_code if isinstance(error, ByolaRQError) else 1
        raise typer.Exit(exit_code) from None


def print_error(error: BaseException, debug: bool) -> None:
    """One line on stderr; with `debug` the traceback before it."""
    if debug:
        for line in "".join(traceback.format_exception(error)).splitlines():
            warn(line)
    is_ours = isinstance(error, ByolaRQError)
    message = " ".join(str(error).split()) if is_ours else describe_fault(error)
    warn(f"error: {message}")


def usage_error(text: str, option: str | None = None) -> ByolaRQError:
    """Arguments that do not go together; the line says where to read on."""
    return ByolaRQError(f"{text}; see python -m evaluate --help", code="usage", key=option)


def choose_device(name: str) -> str:
    """Name the torch device that `--device` stands for here.

    Raises:
        ConfigError: If there is no such device.
    """
    from byola_rq.runtime import device

    chosen = device.choose_device(name, key="--device")
    if chosen.type == "cuda":
        # scipy reads this once, when it is first imported; scikit-learn on a GPU needs it.
        os.environ.setdefault("SCIPY_ARRAY_API", "1")
    return str(chosen)
