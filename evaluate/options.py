"""Options and error reporting of the commands of `python -m evaluate`."""

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
from byola_rq.text.shown import one_line

_LISTS = ("--tasks", "--label-fraction")  # options that take several values after their name


class Baseline(StrEnum):
    """Untrained model to compare with."""

    logmel = "logmel"
    random = "random"


class Probe(StrEnum):
    """Probe fitted on the embeddings, or, finetune, together with the encoder."""

    logistic = "logistic"
    adam = "adam"
    knn = "knn"
    finetune = "finetune"


class Protocol(StrEnum):
    """Probe of a published evaluation, by its authors' rules."""

    byol_a = "byol_a"
    evar = "evar"


class Norm(StrEnum):
    """Source of the mean and std that standardize the log-mels."""

    task = "task"
    checkpoint = "checkpoint"


class VoxForgeSplit(StrEnum):
    """Group of VoxForge that is kept in one part, if no csv gives the split."""

    speaker = "speaker"
    archive = "archive"


DataRoot = Annotated[
    Path | None, typer.Option(help="Folder that holds the published sets.", metavar="DIR")
]
Tasks = Annotated[
    list[Path] | None, typer.Option(help="Csv of labeled clips; repeatable.", metavar="CSV")
]
SetNames = Annotated[
    list[str] | None,
    typer.Option(
        "--tasks",
        metavar="NAME...",
        help="Names of sets under --data-root to evaluate on.  [default: all found]",
    ),
]
UnitSeconds = Annotated[
    float | None,
    typer.Option(
        help="Length in seconds to which clips of a --task are cropped or padded.  "
        "[default: the longest, at most 10]"
    ),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Out = Annotated[Path, typer.Option(help="Folder that results are added to.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of every draw; equal seeds, equal results.")]
SplitOfVoxForge = Annotated[
    VoxForgeSplit,
    typer.Option(
        "--voxforge-split",
        help="Keep each speaker in one part, or, as in the published split, each archive. A "
        "voxforge.csv in the set's folder takes precedence.",
    ),
]
LabelFractions = Annotated[
    list[str] | None,
    typer.Option(
        "--label-fraction",
        metavar="SHARE...",
        help="Share of the labels of each class, the same for every model; several shares, such "
        "as 0.01 0.1 1, give a curve.  [default: 1]",
    ),
]
Device = Annotated[
    str,
    typer.Option(help="Device of embeddings and probes: auto, cpu, cuda, cuda:N or mps."),
]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Decoding threads.  [default: one per core, at most 8]")
]


class RunByDefault(TyperGroup):
    """Command group that runs `run` if no command is named: `python -m evaluate MODEL ...`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Insert `run` if no command is named; expand `~` to the home folder."""
        args = expand_homes(args)
        if args and args[0] not in self.commands and args[0] not in ("--help", "-h"):
            args = ["run", *args]
        if args[:1] in (["run"], ["ablate"]):
            args = spread_lists(args)
        parsed: list[str] = super().parse_args(ctx, args)
        return parsed


def spread_lists(args: Sequence[str]) -> list[str]:
    """Expand `--tasks a b` and `--tasks a,b` to `--tasks a --tasks b`; also `--label-fraction`.

    After `--tasks`, a model is recognized by a dot or slash, or as `builtin`. After
    `--label-fraction`, a model is what is not a number, except for the first value.
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
            spread.append(option)  # without a value: the parser reports it
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
    """Print errors as one line: exit with 2 for wrong input, 1 for failures; optional traceback."""
    take_any_text()
    try:
        yield
    except typer.Exit:
        raise
    except KeyboardInterrupt:
        warn("error: interrupted; finished results are kept")
        raise typer.Exit(130) from None
    except BaseException as error:
        if not is_fault(error):
            raise
        print_error(error, debug)
        exit_code = error.exit_code if isinstance(error, ByolaRQError) else 1
        raise typer.Exit(exit_code) from None


def print_error(error: BaseException, debug: bool) -> None:
    """Print an error as one line on stderr; with `debug` after its traceback."""
    if debug:
        for line in "".join(traceback.format_exception(error)).splitlines():
            warn(line)
    is_expected = isinstance(error, ByolaRQError)
    message = one_line(error) if is_expected else describe_fault(error)
    warn(f"error: {message}")


def usage_error(text: str, option: str | None = None) -> ByolaRQError:
    """Make the error of arguments that do not fit together, with a pointer to --help."""
    return ByolaRQError(f"{text}; see python -m evaluate --help", code="usage", key=option)


def check_sets(
    data_root: Path | None, csvs: Sequence[Path] | None, names: Sequence[str] | None
) -> None:
    """Check that `--data-root` and `--task` name something to evaluate on.

    Raises:
        ByolaRQError: If nothing, or if `--tasks` has no folder to choose from.
    """
    if not (data_root or csvs):
        raise usage_error("nothing to evaluate on: name a --data-root or a --task", "--task")
    if names and not data_root:
        raise usage_error(
            "--tasks chooses among the sets under --data-root, which is not given", "--tasks"
        )


def choose_device(name: str) -> str:
    """Return the name of the torch device that `--device` selects.

    Raises:
        ConfigError: If there is no such device.
    """
    from byola_rq.runtime import device

    chosen = device.choose_device(name, key="--device")
    if chosen.type == "cuda":
        # scikit-learn on a GPU needs it, and scipy reads it only when first imported.
        os.environ.setdefault("SCIPY_ARRAY_API", "1")
    return str(chosen)
