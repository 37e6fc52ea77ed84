"""Nearest neighbors and two-dimensional maps of embeddings."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from byola_rq.embed.folder import EMBEDDINGS, embeddings_named, map_embeddings
from byola_rq.embed.scaling import FloatArray, Scaling
from byola_rq.errors import package_needed

Projection = Literal["pca", "tsne", "umap"]

PRODUCT_SIZE = 1 << 26  # cosines in memory: 256 MiB


def read_embeddings(folder: Path) -> tuple[FloatArray, list[Path]]:
    """Read the output of `byola-rq embed`: embeddings `(N, D)` and the clip of each row.

    Raises:
        CorpusError: If the folder does not have both.
    """
    with embeddings_named(folder):
        embeddings, (paths,) = map_embeddings(folder, EMBEDDINGS, "path")
        if len(embeddings) != len(paths):
            raise ValueError(f"{len(paths)} rows of index.csv for an array {embeddings.shape}")
        return np.array(embeddings), [Path(path) for path in paths]


def guess_labels(paths: Sequence[Path]) -> list[str]:
    """Guess a label for each clip: its folder's name, or part of its own if all are in one folder.

    For a name such as `00017_voice-fr.wav` it is the part between number and dash: `voice`.
    """
    if len({path.parent for path in paths}) > 1:
        return [path.parent.name for path in paths]
    return [re.sub(r"^[\d_]+", "", path.stem).split("-")[0] for path in paths]


def find_nearest(embeddings: FloatArray, row: int, num: int) -> list[tuple[int, float]]:
    """Find the rows nearest to a given row, nearest first, with their cosine similarities.

    Every dimension is first standardized over all rows: after a ReLU all dimensions have a large
    positive mean, which brings all cosines near 1.
    """
    scaled = _scale(embeddings)
    similarity = scaled @ scaled[row]
    nearest = (-similarity).argsort(stable=True)
    others = nearest[nearest != row][:num]
    return list(zip(others.tolist(), similarity[others].tolist(), strict=True))


def share_of_like_neighbors(embeddings: FloatArray, labels: Sequence[str]) -> float:
    """Compute the fraction of rows whose nearest neighbor has the same label, 0 to 1."""
    nearest = nearest_rows(_scale(embeddings), 1)[0][:, 0]
    return float(np.mean(np.asarray(labels)[nearest] == np.asarray(labels)))


def nearest_rows(
    scaled: Tensor, num: int, *, on_rows: Callable[[int], None] = lambda _: None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Find each row's nearest other rows by comparing all pairs.

    Args:
        scaled: Rows of length 1, `(N, D)`.
        num: Number of neighbors of a row, below N.
        on_rows: Called with the number of rows of each block that is done.

    Returns:
        Their indices and cosines, nearest first, `(N, num)` each.
    """
    places, similarities = [], []
    at_once = max(PRODUCT_SIZE // len(scaled), 1)
    for first in range(0, len(scaled), at_once):
        product = scaled[first : first + at_once] @ scaled.T
        own = torch.arange(len(product))
        product[own, first + own] = -2.0  # exclude the row itself
        best = product.topk(num)
        places.append(best.indices)
        similarities.append(best.values)
        on_rows(len(product))
    return torch.cat(places).numpy(), torch.cat(similarities).numpy()


def place_on_map(embeddings: FloatArray, method: Projection = "pca", seed: int = 0) -> FloatArray:
    """Compute two coordinates for each row, `(N, 2)`, by `project` after standardization.

    Raises:
        MissingPackageError, ValueError: As `project`.
    """
    return project(_scale(embeddings).numpy(), method, seed)


def project(scaled: FloatArray, method: Projection, seed: int = 0) -> FloatArray:
    """Compute two coordinates, `(N, 2)`, for each row of scaled embeddings `(N, D)`.

    `pca` keeps the two directions of largest variance, and so large distances; `tsne` and `umap`
    keep neighborhoods, and distances between groups mean little.

    Raises:
        MissingPackageError: If scikit-learn, or for `umap` umap-learn, is not installed.
        ValueError: If `method` is unknown.
    """
    if method not in ("pca", "tsne", "umap"):
        raise ValueError(f"method must be one of pca, tsne, umap; got {method!r}")
    with package_needed("a map", "scikit-learn", extra="explore"):
        import sklearn  # submodules are loaded at first use
    if (scaled == scaled[0]).all():  # t-SNE of scikit-learn 1.9 would crash
        return np.zeros((len(scaled), 2))
    if method == "umap":
        with package_needed("a map by umap", "umap-learn", extra="umap"):
            import umap
        mapping = umap.UMAP(metric="cosine", random_state=seed, n_jobs=1)
        return np.asarray(mapping.fit_transform(scaled))
    if method == "pca":
        return np.asarray(sklearn.decomposition.PCA(2, random_state=seed).fit_transform(scaled))
    perplexity = min(30, (len(scaled) - 1) / 3)
    tsne = sklearn.manifold.TSNE(perplexity=perplexity, random_state=seed)
    return np.asarray(tsne.fit_transform(scaled))


def _scale(embeddings: FloatArray) -> Tensor:
    rows = torch.from_numpy(np.asarray(embeddings, np.float32))
    return Scaling.standardized(embeddings)(rows)
