"""Search: nearest clips, the best moment within long clips, and near-duplicates."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from byola_rq.embed.neighbors import nearest_rows
from byola_rq.embed.scaling import ROWS_AT_ONCE, FloatArray, Scaling, blocks
from byola_rq.errors import CorpusError, package_needed
from byola_rq.explore.collection import Collection
from byola_rq.runtime.progress import ProgressBar

FRAMES_AT_ONCE = 16_384  # 22 minutes, 32 MiB at D = 512
MIN_CLIPS = 10  # fewer have no distribution to detect duplicates by
MANY_CLIPS = 200_000  # above, pairs are found by an index, since exact search is quadratic


class Found(NamedTuple):
    """Clip similar to the query; `second` is the position in it, 0 if clips are compared whole."""

    path: str
    second: float
    similarity: float


class Pair(NamedTuple):
    """Pair of clip indices, the smaller first, and their cosine."""

    first: int
    second: int
    similarity: float


@dataclass(frozen=True, eq=False)
class Findings:
    """Results of a search, nearest first.

    Attributes:
        clips: Clips found, at most as many as requested.
        rows: Embeddings of the query and of the clips or stretches found, `(1 + k, D)`.
        scaling: Scaling that the similarities use.
    """

    clips: list[Found]
    rows: Tensor
    scaling: Scaling


def find_clips(query: Tensor, collection: Collection, k: int) -> Findings:
    """Find the `k` clips nearest to a query's embedding `(D,)`, exactly."""
    scaling = Scaling.standardized(collection.rows)
    wanted = scaling(query[None])[0]
    similarity = torch.cat([scaling(block) @ wanted for block in blocks(collection.rows)])
    best = similarity.topk(min(k, len(similarity)))
    places = best.indices.tolist()
    clips = [
        Found(collection.paths[place], 0.0, value)
        for place, value in zip(places, best.values.tolist(), strict=True)
    ]
    rows = torch.from_numpy(np.array(collection.rows[places]))
    return Findings(clips, torch.cat([query[None], rows]), scaling)


def find_moments(
    query: Tensor, collection: Collection, k: int, *, frame_seconds: float
) -> Findings:
    """Find the `k` clips with the stretches nearest to a query, and the start of each stretch.

    A stretch has as many frames as the query and is pooled as the encoder pools a clip. Its
    embedding is therefore that of a separate clip, except that its first and last frames see their
    context. A shorter clip is one stretch. Stretches begin at every frame; mean and scale are
    computed from stretches that overlap by half, or fewer in a very long collection.

    Args:
        query: Frame embeddings of the query, `(T', D)`.
        collection: Collection with frames.
        k: Number of clips to find.
        frame_seconds: Time between frames in seconds.
    """
    num_frames = len(query)
    stride = max(num_frames // 2, len(collection.rows) // ROWS_AT_ONCE, 1)
    coarse = [
        rows for clip in _frames(collection) for _, rows in _stretches(clip, num_frames, stride)
    ]
    scaling = Scaling.standardized(torch.cat(coarse).numpy())
    whole = pool_stretches(query, num_frames, 1)
    wanted = scaling(whole)[0]
    found = []
    for path, clip in zip(collection.paths, _frames(collection), strict=True):
        best = []  # of each block
        for first, rows in _stretches(clip, num_frames, 1):
            similarity, place = (scaling(rows) @ wanted).max(dim=0)
            best.append((float(similarity), first + int(place), rows[place].clone()))
        value, begin, row = max(best, key=lambda each: each[0])
        found.append((Found(path, begin * frame_seconds, value), row))
    found = sorted(found, key=lambda each: -each[0].similarity)[:k]
    rows = torch.stack([whole[0], *(row for _, row in found)])
    return Findings([clip for clip, _ in found], rows, scaling)


def _stretches(frames: FloatArray, num_frames: int, stride: int) -> Iterator[tuple[int, Tensor]]:
    """Iterate over stretches in blocks: the first frame of a block, and its `(stretches, D)`."""
    size = min(num_frames, len(frames))
    step = max(FRAMES_AT_ONCE // stride, 1) * stride
    for first in range(0, len(frames) - size + 1, step):
        block = np.array(frames[first : first + step - stride + size])
        yield first, pool_stretches(torch.from_numpy(block), size, stride)


def pool_stretches(frames: Tensor, num_frames: int, stride: int) -> Tensor:
    """Pool stretches of `num_frames` by maximum plus mean: `(T', D)` -> `(stretches, D)`."""
    size = min(num_frames, len(frames))
    by_dimension = frames.T[None]  # (1, D, T')
    largest = F.max_pool1d(by_dimension, size, stride)
    return (largest + F.avg_pool1d(by_dimension, size, stride))[0].T


def find_duplicates(collection: Collection) -> tuple[list[Pair], float]:
    """Find pairs of clips that are nearer to each other than different sounds of one kind.

    Embeddings are whitened. In a folder without copies, the distance `1 - cosine` of clips to their
    nearest neighbor is roughly log-normal. A pair is reported if its distance lies 5 standard
    deviations below the median. Both are estimated robustly (median absolute deviation), so that
    copies of up to half of the clips do not hide each other.

    Returns:
        The pairs, most similar first, and the smallest cosine at which a pair is reported.

    Raises:
        CorpusError: If there are fewer than 10 clips.
        MissingPackageError: If there are more than 200,000 clips and usearch is not installed.
    """
    if len(collection) < MIN_CLIPS:
        raise CorpusError(
            f"{collection.folder}: finding copies needs at least {MIN_CLIPS} clips; "
            f"got {len(collection)}",
            code="too-short",
            path=collection.folder,
            value=len(collection),
        )
    scaling = Scaling.whitened(collection.rows)
    places, similarities = _nearest(collection.rows, scaling)
    nearest = similarities[:, 0]
    distance = np.log(np.maximum(1 - nearest, 1e-6))  # precision of the cosine of copies in float32
    median = np.median(distance)
    spread = 1.4826 * np.median(np.abs(distance - median))
    threshold = float(1 - np.exp(median - 5 * spread))
    pairs = {
        (min(row, int(other)), max(row, int(other))): float(similarity)
        for row in np.flatnonzero(nearest >= threshold).tolist()
        for other, similarity in zip(places[row], similarities[row], strict=True)
        if similarity >= threshold
    }
    found = [Pair(*clips, similarity) for clips, similarity in pairs.items()]
    return sorted(found, key=lambda pair: -pair.similarity), threshold


def _nearest(
    rows: FloatArray, scaling: Scaling, num: int = 16
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Indices and cosines as `nearest_rows` returns them; of many rows by an index."""
    scaled = torch.cat([scaling(block) for block in blocks(rows)])
    num = min(num, len(scaled) - 1)
    if len(scaled) > MANY_CLIPS:
        return _nearest_by_index(scaled.numpy(), num)
    with ProgressBar("comparing", len(scaled)) as bar:
        return nearest_rows(scaled, num, on_rows=bar.advance)


def _nearest_by_index(
    scaled: npt.NDArray[np.float32], num: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    with package_needed(f"comparing {len(scaled)} clips", "usearch", extra="explore"):
        from usearch.index import Index
    index = Index(ndim=scaled.shape[1], metric="cos", dtype="f32")
    keys = np.arange(len(scaled))
    index.add(keys, scaled)
    matches = index.search(scaled, num + 1)
    found, distances = np.asarray(matches.keys, np.int64), np.asarray(matches.distances)
    # The row itself is among its matches, but with copies not always first.
    is_own = found == keys[:, None]
    is_own[~is_own.any(1), -1] = True
    shape = (len(scaled), num)
    return found[~is_own].reshape(shape), (1 - distances[~is_own]).reshape(shape)


def _frames(collection: Collection) -> Iterator[FloatArray]:
    """Iterate over the frame embeddings of each clip, `(T', D)`, memory-mapped."""
    assert collection.first_frames is not None
    assert collection.num_frames is not None
    for first, count in zip(collection.first_frames, collection.num_frames, strict=True):
        yield collection.rows[first : first + count]
