"""Commands under test, and functions of the library that read folders."""

from collections.abc import Callable
from pathlib import Path

# Imported once, before any fork.
import evaluate.runner  # noqa: F401
from byola_rq.cli.app import main
from byola_rq.cli.options import fail
from byola_rq.embed.neighbors import read_embeddings
from byola_rq.errors import ByolaRQError
from evaluate.__main__ import app
from tests.slow.hostile.misbehavior import misbehave


def _neighbors(words: list[str]) -> None:
    """Read embeddings as notebooks do; report errors as a command does."""
    try:
        embeddings, paths = read_embeddings(Path(words[1]))
    except ByolaRQError as error:
        fail(str(error), error.exit_code)
    print(embeddings.shape, len(paths))


COMMANDS: dict[str, Callable[[list[str]], object]] = {
    "byola-rq": main,
    "evaluate": lambda words: app(args=words[1:], prog_name="python -m evaluate"),
    "read_embeddings": _neighbors,
    "misbehave": misbehave,
}
