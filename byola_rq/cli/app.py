"""Command `byola-rq`: its subcommands, and errors as one line."""

import os
import sys
from collections.abc import Callable
from typing import Annotated

import typer

# Heavy modules are imported in the commands that need them, so that --help is instant.
from byola_rq.cli import embed, explore, listen, prepare, train
from byola_rq.cli.options import (
    describe,
    describe_fault,
    expand_homes,
    fail,
    is_fault,
    is_supported_system,
    run_app,
    take_any_text,
)
from byola_rq.errors import ByolaRQError, ConfigError
from byola_rq.runtime.spinning import bound_spinning

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
COMMANDS: dict[str, Callable[..., None]] = {  # in the order of --help
    "embed": embed.embed,
    "search": explore.search,
    "map": explore.map_,
    "classify": explore.classify,
    "listen": listen.listen,
    "views": listen.views,
    "pretrain": train.pretrain,
    "recipes": train.recipes,
    "runs": train.runs,
    "export": embed.export,
    "import-weights": embed.import_weights,
    "prepare": prepare.prepare,
    "info": prepare.info,
    "synthesize": prepare.synthesize,
}
for name, command in COMMANDS.items():
    app.command(name)(command)


@app.command()
def doctor() -> None:
    """Check the installation and suggest fixes."""
    from byola_rq.cli.doctor import print_findings

    if not print_findings():
        raise typer.Exit(1)


@app.callback()
def _root(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    """Audio embeddings learned without labels: BYOL-A with randomized quantization.

    Embed your sounds with the built-in encoder, or pretrain an encoder on your own sounds, and
    evaluate it with linear probes (`python -m evaluate`, in the source checkout).
    """
    if debug:
        os.environ["BYOLA_RQ_DEBUG"] = "1"
    if not is_supported_system() and context.invoked_subcommand != "doctor":
        message = f"byola_rq runs on Linux and macOS, on Windows within WSL; this is {sys.platform}"
        raise ConfigError(message, code="unsupported", key=sys.platform)


def main(arguments: list[str] | None = None) -> None:
    """Run the command; every error is one line on stderr and an exit status.

    An error that is neither a `ByolaRQError` nor from the operating system is a bug; --debug shows
    its traceback.
    """
    take_any_text()
    bound_spinning()
    try:
        given = sys.argv[1:] if arguments is None else arguments
        run_app(app, expand_homes(given), "byola-rq")
    except ByolaRQError as error:
        if error.is_reported:
            sys.exit(error.exit_code)
        fail(str(error), error.exit_code)
    except OSError as error:
        fail(describe(error), 2)
    except KeyboardInterrupt:
        fail("interrupted; the same command resumes from its last checkpoint", 130)
    except BaseException as error:
        if not is_fault(error):
            raise
        fail(describe_fault(error), 1)
