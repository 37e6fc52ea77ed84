"""What an outcome can be of: the commands, and functions of the library that read folders."""

from collections.abc import Callable
from pathlib import Path

# Imported once, before any fork.
import byola_rq.embed.job
import byola_rq.export.onnx
import byola_rq.export.published_weights
import byola_rq.export.run
import byola_rq.listen.build
import byola_rq.packing.inventory
import byola_rq.packing.prepare
import byola_rq.plots.curves
import byola_rq.runs.table
import byola_rq.train.loop
import evaluate.inspection
import evaluate.reports.comparison
import evaluate.reports.mistakes
import evaluate.runner  # noqa: F401
from byola_rq.cli.app import main
from byola_rq.cli.options import fail
from byola_rq.embed.neighbors import read_embeddings
from byola_rq.errors import ByolaRQError
from evaluate.__main__ import app


def _neighbors(words: list[str]) -> None:
    """What notebooks do with embeddings, its errors told as a command's."""
    try:
        embeddings, paths = read_embeddings(Path(words[1]))
    except ByolaRQError as error:
        fail(str(error), error.exit_code)
    print(embeddings.shape, len(paths))


COMMANDS: dict[str, Callable[[list[str]], object]] = {
    "byola-rq": main,
    "evaluate": lambda words: app(args=words[1:], prog_name="python -m evaluate"),
    "read_embeddings": _neighbors,
}
