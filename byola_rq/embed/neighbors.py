"""Nearest neighbors and two-dimensional maps of embeddings."""

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from byola_rq.errors import CorpusError, package_needed
from byola_rq.runtime.array_files import find_array
from byola_rq.text.cells import csv_columns
from byola_rq.text.parse import MAX_TEXT_BYTES, read_text

FloatArray = npt.NDArray[np.floating[Any]]

LEAST_STD = 1e-20  # a dimension with less does not vary
_MAX_VALUE = 1e15  # sums of squares are finite in float32


def read_embeddings(folder: Path) -> tuple[FloatArray, list[Path]]:
    """Read the output of `byola-rq embed`: embeddings `(N, D)` and the clip of each row.

    Raises:
        CorpusError: If the folder does not have both.
    """
    with embeddings_named(folder):
        embeddings, (paths,) = map_embeddings(folder, "embeddings.npy", "path")
        if len(embeddings) != len(paths):
            raise ValueError(f"{len(paths)} rows of index.csv for an array {embeddings.shape}")
        return np.array(embeddings), [Path(path) for path in paths]


def map_embeddings(
    folder: Path, file_name: str, *columns: str
) -> tuple[FloatArray, list[list[str]]]:
    """Memory-map embeddings `(rows, D)` written by `byola-rq embed`; read columns of index.csv.

    Raises:
        OSError, ValueError: If the array is no such array or one of the columns is missing.
    """
    array = find_array(folder / file_name)
    if array.dtype.kind != "f" or len(array.shape) != 2 or 0 in array.shape:
        raise ValueError(f"embeddings must be floating point (rows, D); got {array}")
    read = csv_columns(read_text(folder / "index.csv", MAX_TEXT_BYTES), *columns)
    embeddings = array.map()
    if not (embeddings.min() > -_MAX_VALUE and embeddings.max() < _MAX_VALUE):  # nor NaN
        raise ValueError(f"embeddings must be finite and below {_MAX_VALUE:g}")
    return embeddings, read


@contextlib.contextmanager
def embeddings_named(folder: Path) -> Iterator[None]:
    """Convert errors in the block, which reads embeddings, into a `CorpusError` of the folder."""
    try:
        yield
    except CorpusError:
        raise
    except (OSError, ValueError, OverflowError) as error:
        message = f"{folder}: not embeddings of `byola-rq embed` ({error})"
        raise CorpusError(message, code="foreign", path=folder) from error


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

    Raises:
        MissingPackageError: If scikit-learn is not installed.
    """
    scaled = _scale(embeddings)
    others = np.delete(np.arange(len(scaled)), row)
    search = _import_sklearn().neighbors.NearestNeighbors(metric="cosine").fit(scaled[others])
    (distances,), (places,) = search.kneighbors(scaled[[row]], min(num, len(others)))
    return list(zip(others[places].tolist(), (1 - distances).tolist(), strict=True))


def share_of_like_neighbors(embeddings: FloatArray, labels: Sequence[str]) -> float:
    """Compute the fraction of rows whose nearest neighbor has the same label, 0 to 1.

    Raises:
        MissingPackageError: If scikit-learn is not installed.
    """
    search = _import_sklearn().neighbors.NearestNeighbors(n_neighbors=1, metric="cosine")
    nearest = search.fit(_scale(embeddings)).kneighbors(return_distance=False)[:, 0]  # not itself
    return float(np.mean(np.asarray(labels)[nearest] == np.asarray(labels)))


def place_on_map(
    embeddings: FloatArray, method: Literal["pca", "tsne", "umap"] = "pca", seed: int = 0
) -> FloatArray:
    """Compute two coordinates for each row, `(N, 2)`.

    `pca` keeps the two directions of largest variance, and so large distances; `tsne` and `umap`
    keep neighborhoods, and distances between groups mean little.

    Raises:
        MissingPackageError: If scikit-learn, or for `umap` umap-learn, is not installed.
        ValueError: If `method` is unknown.
    """
    if method not in ("pca", "tsne", "umap"):
        raise ValueError(f"method must be one of pca, tsne, umap; got {method!r}")
    sklearn, scaled = _import_sklearn(), _scale(embeddings)
    if not scaled.any():  # all rows are equal: t-SNE of scikit-learn 1.9 would crash
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


def _scale(embeddings: FloatArray) -> FloatArray:
    """Standardize each dimension; one that varies no more than float32 rounds becomes 0."""
    mean, std = (each(embeddings, axis=0, dtype=np.float64) for each in (np.mean, np.std))
    varies = std > 1e-7 * np.abs(mean) + LEAST_STD
    scaled: FloatArray = ((embeddings - mean) / np.where(varies, std, 1.0)).astype(np.float32)
    return scaled * varies


def _import_sklearn() -> Any:
    with package_needed("a map or search of neighbors", "scikit-learn", extra="explore"):
        import sklearn  # submodules are loaded at first use
    return sklearn
