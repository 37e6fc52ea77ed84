"""Options that commands of `python -m evaluate` share, and how each reports."""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from byola_rq.errors import ByolaRQError

DataRoot = Annotated[
    Path | None, typer.Option(help="Folder that holds the published sets.", metavar="DIR")
]
Tasks = Annotated[list[Path] | None, typer.Option(help="Labelled csv; repeat.", metavar="CSV")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


class Device(StrEnum):
    """Where embeddings are computed and probes fitted."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


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
