"""Retrieval of clips with the same label: mean average precision, by scaling of embeddings.

Run from the checkout: python -m benchmarks.retrieval --help
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
import typer
from torch import Tensor

from benchmarks.harness import new_app
from byola_rq.audio.io import read_audio
from byola_rq.embed.embedder import Embedder, load
from byola_rq.embed.scaling import Scaling
from evaluate.models import BASELINES, describe_bands
from evaluate.tasks.labelled_csv import read_labelled_csv

Features = npt.NDArray[np.float32]

app = new_app(no_args_is_help=True)

SCALINGS: dict[str, Callable[[Features], Tensor]] = {
    "none": torch.from_numpy,
    "standardized": lambda rows: Scaling.standardized(rows)(torch.from_numpy(rows)),
    "whitened": lambda rows: Scaling.whitened(rows)(torch.from_numpy(rows)),
}


@app.command()
def main(
    task: Annotated[list[Path], typer.Argument(help="Labeled csv files.")],
    model: Annotated[
        list[str],
        typer.Option(help="Model file, `builtin`, `random` or `logmel`; repeatable."),
    ],
) -> None:
    """Print the mean average precision of retrieving clips with a query's label, in percent.

    Every clip is a query once, among all other clips of its set, regardless of part.

    \b
    Example:
      python -m benchmarks.retrieval esc10/metadata.csv --model builtin --model random
    """
    print("| task | model | " + " | ".join(SCALINGS) + " |")
    print("|---" * (2 + len(SCALINGS)) + "|")
    for path in task:
        labeled = read_labelled_csv(path)
        labels = np.unique([clip.label for clip in labeled.clips], return_inverse=True)[1]
        for name in model:
            features = embed_paths(name, [clip.path for clip in labeled.clips])
            cells = [
                f"{100 * retrieval_map(scale(features).numpy(), labels):.1f}"
                for scale in SCALINGS.values()
            ]
            print(f"| {labeled.name} | {name} | " + " | ".join(cells) + " |", flush=True)


def embed_paths(model: str, paths: Sequence[Path]) -> Features:
    """Embed whole files, `(N, D)`, by a model, or by a baseline of the built-in's size."""
    if model not in BASELINES:
        return np.asarray(load(model).embed_files(paths).numpy())
    builtin = load()
    if model == "random":
        twin = Embedder.untrained(builtin.encoder_name, builtin.embedding_dim)
        return np.asarray(twin.with_statistics(builtin.statistics).embed_files(paths).numpy())
    frontend = builtin.frontend
    bands = [
        describe_bands(frontend(read_audio(each, frontend.sample_rate)[None])) for each in paths
    ]
    return np.asarray(torch.cat(bands).numpy())


def retrieval_map(rows: Features, labels: npt.NDArray[Any]) -> float:
    """Mean average precision by cosine of every row among all others, `(N, D)`."""
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    precisions = []
    for query, similarity in enumerate(rows @ rows.T):
        order = np.argsort(-similarity, kind="stable")
        is_same = (labels[order] == labels[query])[order != query]
        if is_same.any():
            ranks = np.flatnonzero(is_same) + 1
            precisions.append(np.mean(np.arange(1, len(ranks) + 1) / ranks))
    return float(np.mean(precisions))


if __name__ == "__main__":
    app()
