"""Options, error reporting and helpers shared by the commands."""

import errno
import io
import os
import shlex
import signal
import sys
import traceback
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from byola_rq.errors import ConfigError
from byola_rq.runtime.terminal import say, warn
from byola_rq.text.shown import one_line, shown

if TYPE_CHECKING:
    from byola_rq.config import Config

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[CONFIG.yaml] [SECTION.KEY=VALUE]...",
        help="Configuration (the paper's by default), then changes to it.",
    ),
]


Model = Annotated[
    str,
    typer.Option(
        metavar="PATH|HUB_ID|builtin", help="Model file, or owner/name on the Hugging Face hub."
    ),
]

Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
Workers = Annotated[int, typer.Option(min=1, help="Decoding threads.")]


class Precision(StrEnum):
    """Precision of the encoder."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"


def is_supported_system() -> bool:
    """Return whether the package supports this system: Linux, macOS or the like."""
    return hasattr(signal, "pthread_sigmask")


def take_any_text() -> None:
    r"""Make stdout and stderr escape characters outside their encoding as `\xfc`.

    Closed ones discard what is written: the next file opened would get their descriptor.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115  for good
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def describe(error: OSError) -> str:
    """Describe an error of the operating system in one line: file, reason, remedy."""
    reason = one_line(error.strerror or str(error) or type(error).__name__)
    if error.errno in (errno.EMFILE, errno.ENFILE):
        reason += "; raise the limit with `ulimit -n 4096`"
    names = [os.fsdecode(each) for each in (error.filename, error.filename2) if each is not None]
    return ": ".join((" -> ".join(names), reason)) if names else reason


def describe_fault(error: BaseException) -> str:
    """Describe an unexpected error in one line, with a hint at --debug."""
    if isinstance(error, OSError):
        return describe(error)
    reason = "out of memory" if isinstance(error, MemoryError) else one_line(error)
    return f"{type(error).__name__}: {reason} (--debug shows where)"


def is_fault(error: BaseException) -> bool:
    """Return whether it is an error rather than a deliberate exit."""
    # Panics of safetensors, written in Rust, are not subclasses of Exception.
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def run_app(app: typer.Typer, arguments: list[str], name: str) -> NoReturn:
    """Run a command and exit with its status; usage errors are printed with escaped text.

    Args:
        app: Application with the command.
        arguments: Arguments of the command line, without the program's name.
        name: Name of the program.
    """
    # ClickException, which typer has vendored under several names.
    wrong_use: type[Exception] = typer.BadParameter.__mro__[2]
    try:
        status = app(args=arguments, prog_name=name, standalone_mode=False)
    except typer.Abort:
        fail("aborted", 1)
    except wrong_use as error:
        text = io.StringIO()
        if type(error).__name__ != "NoArgsIsHelpError":  # whose message is the help
            error.message = shown(error.message)  # type: ignore[attr-defined]
        error.show(text)  # type: ignore[attr-defined]
        for line in text.getvalue().splitlines():
            warn(line)
        sys.exit(error.exit_code)  # type: ignore[attr-defined]
    sys.exit(status if isinstance(status, int) else 0)


def fail(message: str, status: int) -> NoReturn:
    """Exit with an error of one or several lines, preceded by its traceback with --debug."""
    if os.environ.get("BYOLA_RQ_DEBUG"):
        for line in traceback.format_exc().splitlines():
            warn(line)
    for line in f"error: {message}".split("\n"):
        warn(line)
    sys.exit(status)


def print_once(result: object) -> None:
    """Print the common result of all processes of a job, on rank 0 only."""
    if os.environ.get("RANK", "0") == "0":
        say(result)


def expand_homes(arguments: list[str]) -> list[str]:
    """Expand `~` where a shell does not: in quotes, and after an equals sign."""
    expanded = []
    for argument in arguments:
        name, equals, value = os.path.expanduser(argument).partition("=")
        expanded.append(name + equals + os.path.expanduser(value))
    return expanded


def this_command() -> str:
    """Return the command line that was given, to print on what it makes."""
    return shlex.join(["byola-rq", *sys.argv[1:]])


def load_config(arguments: list[str] | None, recipe: str | None = None) -> "Config":
    """Load CONFIG.yaml (by default that of the recipe, or config.yaml) and apply overrides."""
    from byola_rq import config
    from byola_rq.recipes.catalog import load_recipe

    path, *overrides = [argument for argument in arguments or [] if argument] or [""]
    if not path or "=" in path:
        overrides = [path, *overrides] if path else []
        if recipe is not None:
            return load_recipe(recipe, overrides)
        path = str(config.default_config_path())
    elif recipe is not None:
        raise ConfigError(
            f"--recipe must be given instead of {path}, not beside it; got {recipe}",
            code="usage",
            key="--recipe",
            value=recipe,
        )
    return config.load_config(Path(path), overrides)
