"""What lies near what: nearest neighbours and a map of embeddings."""

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from byola_rq.errors import CorpusError, MissingPackageError

FloatArray = npt.NDArray[np.floating[Any]]


def read_embeddings(folder: Path) -> tuple[FloatArray, list[Path]]:
    """What `byola-rq embed` wrote: embeddings `(N, D)` and the clip of each row.

    Raises:
        CorpusError: If the folder does not hold both.
    """
    try:
        embeddings = np.load(folder / "embeddings.npy", allow_pickle=False)
        with (folder / "index.csv").open(newline="", encoding="utf-8") as file:
            paths = [Path(row["path"]) for row in csv.DictReader(file)]
    except (OSError, ValueError, KeyError) as error:
        raise CorpusError(f"{folder}: not embeddings of `byola-rq embed` ({error})") from error
    return embeddings, paths


def guess_labels(paths: Sequence[Path]) -> list[str]:
    """A label for each clip: its folder's name, or its own where all lie in one folder.

    Of a name such as `00017_voice-fr.wav` that is what stands between number and dash: `voice`.
    """
    if len({path.parent for path in paths}) > 1:
        return [path.parent.name for path in paths]
    return [re.sub(r"^[\d_]+", "", path.stem).split("-")[0] for path in paths]


def find_nearest(embeddings: FloatArray, row: int, num: int) -> list[tuple[int, float]]:
    """The rows nearest to one, nearest first, and their cosines with it.

    Every dimension is first shifted and scaled to mean 0 and std 1 over all rows: the dimensions
    of an encoder that ends in a ReLU share a large mean, which makes all cosines near 1.
    """
    directions = _directions(embeddings)
    cosines = directions @ directions[row]
    order = [int(other) for other in np.argsort(-cosines, kind="stable") if other != row]
    return [(other, float(cosines[other])) for other in order[:num]]


def share_of_like_neighbours(embeddings: FloatArray, labels: Sequence[str]) -> float:
    """The share of rows whose nearest neighbour has their own label, 0 to 1."""
    directions = _directions(embeddings)
    cosines = directions @ directions.T
    np.fill_diagonal(cosines, -np.inf)
    nearest = cosines.argmax(axis=1)
    return float(np.mean([labels[row] == labels[other] for row, other in enumerate(nearest)]))


def place_on_map(
    embeddings: FloatArray, method: Literal["pca", "tsne"] = "pca", seed: int = 0
) -> FloatArray:
    """Two coordinates for each row, `(N, 2)`.

    `pca` keeps the two directions of largest spread, and with them large distances; `tsne` keeps
    who is near whom, and distances between groups say nothing.

    Raises:
        MissingPackageError: If `tsne` is asked for and scikit-learn is not installed.
        ValueError: If `method` is unknown.
    """
    scaled = _scaled(embeddings)
    if method == "pca":
        left, spread, _ = np.linalg.svd(scaled, full_matrices=False)
        return np.asarray(left[:, :2] * spread[:2])
    if method != "tsne":
        raise ValueError(f"method must be one of pca, tsne; got {method!r}")
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise MissingPackageError(
            "t-SNE needs scikit-learn, which is not installed; `pip install 'byola_rq[evaluate]'`"
        ) from error
    perplexity = min(30, (len(scaled) - 1) / 3)
    return np.asarray(TSNE(perplexity=perplexity, random_state=seed).fit_transform(scaled))


def _scaled(embeddings: FloatArray) -> FloatArray:
    spread = embeddings.std(axis=0)
    return np.asarray((embeddings - embeddings.mean(axis=0)) / np.where(spread > 0, spread, 1))


def _directions(embeddings: FloatArray) -> FloatArray:
    scaled = _scaled(embeddings)
    lengths = np.linalg.norm(scaled, axis=1, keepdims=True)
    return np.asarray(scaled / np.where(lengths > 0, lengths, 1))
