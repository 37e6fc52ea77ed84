"""Content of the map of a folder: positions, clusters, neighbors, pictures and excerpts."""

import base64
import importlib.util
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import soundfile
import torch
import torch.nn.functional as F
from torch import Tensor

from byola_rq.audio.frontend import LogMelSpectrogram
from byola_rq.embed.neighbors import nearest_rows, project
from byola_rq.embed.scaling import FloatArray, Scaling
from byola_rq.errors import AudioError, ConfigError, package_needed
from byola_rq.explore.collection import Collection
from byola_rq.listen.segments import Segment, read_segment
from byola_rq.runtime.prefetch import map_ahead
from byola_rq.runtime.progress import ProgressBar

Method = Literal["auto", "umap", "tsne", "pca"]

NUM_NEIGHBORS = 8
PICTURE_BANDS, PICTURE_FRAMES = 32, 64  # of 16 levels: 1 kB a clip
MIN_EXCERPT_SECONDS, MAX_EXCERPT_SECONDS = 0.3, 3.0  # shorter says nothing to an ear
MAX_TSNE_CLIPS = 10_000  # more take many minutes
MAX_CLUSTERS = 20  # a list of more is hard to read
# Of an excerpt in base64: the picture with what the page says of a clip, and a second of noise.
_BYTES_A_CLIP, _BYTES_A_SECOND = 2_500, 5_000
_OPUS_RATES = (8_000, 12_000, 16_000, 24_000, 48_000)  # Hz; Vorbis, larger, takes any


@dataclass(frozen=True, eq=False)
class SoundMap:
    """Map of clips.

    Attributes:
        method: Method that computed the positions.
        places: Positions in 0 to 1, `(N, 2)`.
        clusters: Number of each clip's cluster, int64 `(N,)`.
        centers: Index of the clip nearest to each cluster's center.
        neighbors: Indices of the nearest other clips, nearest first, int64 `(N, k)`.
        similarities: Cosines of the neighbors, `(N, k)`.
    """

    method: str
    places: FloatArray
    clusters: npt.NDArray[np.int64]
    centers: Sequence[int]
    neighbors: npt.NDArray[np.int64]
    similarities: FloatArray


def draw_map(
    rows: FloatArray, method: Method = "auto", *, seed: int = 0, scaling: Scaling | None = None
) -> SoundMap:
    """Place embeddings in the plane, cluster them, and find the neighbors of each.

    All three use the embeddings standardized and scaled to length 1, like a search.

    Args:
        rows: Embeddings `(N, D)` of at least one clip.
        method: Projection method; `auto` is umap if installed, else tsne, or pca above 10,000
            clips.
        seed: Seed of projection and clustering.
        scaling: Scaling before cosines; by default standardization by `rows`.

    Raises:
        MissingPackageError: If scikit-learn is missing, or umap is but was requested.
    """
    rows = np.array(rows, np.float32)
    scaled = (scaling or Scaling.standardized(rows))(torch.from_numpy(rows))
    scaled_rows = scaled.numpy()
    num_kinds = len(np.unique(scaled_rows.round(4), axis=0))
    chosen = choose_method(method, num_kinds)
    places: FloatArray = np.linspace((0, 0), (1, 0), len(rows))  # in a row, each within reach
    if chosen != "none":
        places = project(scaled_rows, chosen, seed)
    spread = np.maximum(np.ptp(places, axis=0).max(), 1e-12)
    middle = (places.max(axis=0) + places.min(axis=0)) / 2
    clusters, centers = find_clusters(scaled_rows, num_kinds, seed)
    neighbors, similarities = nearest_rows(scaled, min(NUM_NEIGHBORS, len(rows) - 1))
    return SoundMap(
        chosen, 0.5 + (places - middle) / spread, clusters, centers, neighbors, similarities
    )


def choose_method(method: Method, num_kinds: int) -> Literal["umap", "tsne", "pca", "none"]:
    """Resolve `auto` to a method; few different clips have no neighborhoods to preserve."""
    if num_kinds < 3:
        return "none"
    if method != "auto":
        return method
    if num_kinds < 10:
        return "pca"
    if importlib.util.find_spec("umap"):
        return "umap"
    return "tsne" if num_kinds <= MAX_TSNE_CLIPS else "pca"


def find_clusters(
    scaled: FloatArray, num_kinds: int, seed: int
) -> tuple[npt.NDArray[np.int64], list[int]]:
    """Cluster rows `(N, D)` by k-means; return each row's cluster, and the row nearest each center.

    The number of clusters is the square root of N / 2, 2 to 20 and at most the number of different
    rows; silhouettes would choose 2 for any folder.

    Raises:
        MissingPackageError: If scikit-learn is not installed.
    """
    with package_needed("a map", "scikit-learn", extra="explore"):
        from sklearn.cluster import KMeans
    count = min(max(round((len(scaled) / 2) ** 0.5), 2), MAX_CLUSTERS, num_kinds)
    fitted = KMeans(count, n_init=3, random_state=seed).fit(scaled)
    return fitted.labels_.astype(np.int64), fitted.transform(scaled).argmin(axis=0).tolist()


@dataclass(frozen=True)
class Excerpt:
    """Excerpt of a clip in base64: `sound` is an Ogg file, `picture` its log-mel."""

    start_seconds: float
    sound: str
    picture: str


def excerpt_seconds(num_clips: int, megabytes: float) -> float:
    """Return the length of excerpts, 0.3 to 3 seconds, for a page of `megabytes`.

    Raises:
        ConfigError: If so many clips do not fit.
    """
    bytes_a_clip = _BYTES_A_CLIP + MIN_EXCERPT_SECONDS * _BYTES_A_SECOND
    if num_clips * bytes_a_clip > megabytes * 1e6:
        needed, fitting = num_clips * bytes_a_clip / 1e6, int(megabytes * 1e6 / bytes_a_clip)
        raise ConfigError(
            f"--megabytes must be at least {needed:.0f} for {num_clips} clips; got {megabytes:g}, "
            f"which hold {fitting} (--limit)",
            code="too-large",
            key="--megabytes",
            value=megabytes,
        )
    left = megabytes * 1e6 / num_clips - _BYTES_A_CLIP
    return min(left / _BYTES_A_SECOND, MAX_EXCERPT_SECONDS)


def read_excerpts(
    collection: Collection,
    frontend: LogMelSpectrogram,
    seconds: float,
    starts: Sequence[float | None],
    *,
    num_workers: int = 2,
) -> list[Excerpt | None]:
    """Read an excerpt of each clip; None for clips that cannot be read.

    Args:
        collection: Clips to read.
        frontend: Frontend of the pictures.
        seconds: Length of an excerpt in seconds.
        starts: Start of each excerpt in seconds; None for the loudest place of the first minute.
        num_workers: Number of decoding threads.
    """
    rate = frontend.sample_rate

    def read(place: int) -> Excerpt | None:
        own_seconds = np.fmin(seconds, collection.seconds[place])
        num_samples = max(round(own_seconds * rate), frontend.min_samples)
        try:
            segment = read_segment(Path(collection.paths[place]), rate, num_samples, starts[place])
        except (AudioError, OSError):
            return None
        return _encode(segment, frontend)  # in a thread too: it takes longer than decoding

    excerpts: list[Excerpt | None] = []
    with ProgressBar("reading excerpts", len(collection)) as bar:
        for excerpt in map_ahead(read, range(len(collection)), num_workers):
            excerpts.append(excerpt)
            bar.advance(1)
    return excerpts


def _encode(segment: Segment, frontend: LogMelSpectrogram) -> Excerpt:
    peak = max(float(segment.waveform.abs().max()), 1e-4)
    ogg = io.BytesIO()
    waveform = (segment.waveform * min(0.9 / peak, 100.0)).numpy()  # make quiet clips audible
    codec = "OPUS" if segment.sample_rate in _OPUS_RATES else "VORBIS"
    soundfile.write(ogg, waveform, segment.sample_rate, format="OGG", subtype=codec)
    return Excerpt(segment.start_seconds, _base64(ogg.getvalue()), _picture(segment, frontend))


def _picture(segment: Segment, frontend: LogMelSpectrogram) -> str:
    """Quantize the log-mel to 16 levels of its range, lowest band first, two values per byte."""
    log_mel = frontend(segment.waveform)
    small: Tensor = F.adaptive_avg_pool2d(log_mel[None], (PICTURE_BANDS, PICTURE_FRAMES))[0]
    high = small.max()
    low = torch.maximum(small.min(), high - 14.0)  # nat: 60 dB
    levels = ((small - low) / (high - low).clamp(min=1e-6) * 15).round().clamp(0, 15).byte()
    pairs = levels.flatten().reshape(-1, 2).numpy()
    return _base64((pairs[:, 0] << 4 | pairs[:, 1]).tobytes())


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
