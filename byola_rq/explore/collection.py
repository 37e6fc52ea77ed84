"""Collection of embedded clips: read from a folder of embeddings, or embedded on demand."""

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from byola_rq.embed.embedder import Embedder
from byola_rq.embed.folder import EMBEDDINGS, FRAMES, REJECTED
from byola_rq.embed.job import embed_clips
from byola_rq.errors import CorpusError
from byola_rq.runtime.progress import log
from byola_rq.text.cells import csv_rows
from byola_rq.text.parse import MAX_TEXT_BYTES, read_json, read_text

FloatArray = npt.NDArray[np.floating[Any]]

_DECIDING = ("encoder", "frontend", "statistics", "weights_sha256")  # the model, in meta.json


@dataclass(frozen=True, eq=False)
class Collection:
    """Embedded clips.

    Attributes:
        folder: Folder of the embeddings.
        paths: Path of each clip, as in `index.csv`.
        seconds: Length of each clip in seconds, float64 `(N,)`.
        rows: Embeddings `(N, D)`, or frame embeddings of all clips `(frames, D)`; float32,
            memory-mapped.
        first_frames: Row of each clip's first frame, int64 `(N,)`; None without frames.
        num_frames: Number of frames of each clip, int64 `(N,)`; None without frames.
    """

    folder: Path
    paths: Sequence[str]
    seconds: npt.NDArray[np.float64]
    rows: FloatArray
    first_frames: npt.NDArray[np.int64] | None = None
    num_frames: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.paths)


def is_embedded(source: Path) -> bool:
    """Return True if a folder was written by `byola-rq embed`."""
    return (source / "meta.json").is_file() and (source / "index.csv").is_file()


def open_collection(
    source: Path,
    embedder: Embedder,
    *,
    frames: bool = False,
    out: Path | None = None,
    num_workers: int = 2,
) -> Collection:
    """Read a folder of embeddings, or embed a folder of sounds first.

    Args:
        source: Folder written by `byola-rq embed`, or any source that it accepts.
        embedder: Model of the query, which must also have made the embeddings.
        frames: Use frame embeddings instead of one embedding per clip.
        out: Folder for new embeddings; by default in the user's cache folder, under a name derived
            from `source` and the model.
        num_workers: Number of decoding threads.

    Raises:
        AudioError, CorpusError: If `source` cannot be used, or its embeddings were made by another
            model or have no frames.
    """
    if is_embedded(source):
        return read_collection(source, embedder, frames=frames)
    folder = out or cache_folder(source, embedder, frames=frames)
    embedded = embed_clips(
        embedder,
        [source],
        folder,
        num_workers=num_workers,
        # The cached embeddings may be outdated: files may have been added or removed since.
        overwrite=out is None,
        frames=frames,
    )
    if embedded.num_rejected:
        log(f"{embedded.num_rejected} clips are left out; see {folder / REJECTED}")
    return read_collection(folder, embedder, frames=frames)


def read_collection(folder: Path, embedder: Embedder, *, frames: bool = False) -> Collection:
    """Read embeddings written by `byola-rq embed`.

    Raises:
        CorpusError: If the folder contains anything else, or embeddings of another model.
    """
    name, other = (FRAMES, EMBEDDINGS) if frames else (EMBEDDINGS, FRAMES)
    if not (folder / name).exists() and (folder / other).exists():
        kind = "no frames; embed it with --frames" if frames else "frames alone"
        message = f"{folder}: holds {kind}"
        raise CorpusError(message, code="foreign", path=folder, key="--frames")
    try:
        meta = read_json(folder / "meta.json")
        names, *index = csv_rows(read_text(folder / "index.csv", MAX_TEXT_BYTES)) or [[]]
        column = {key: [row[names.index(key)] for row in index] for key in names}
        paths = [_path_of(each) for each in column["path"]]
        seconds = np.array(column["seconds"], np.float64)
        first_frames = np.array(column["first_frame"], np.int64) if frames else None
        num_frames = np.array(column["num_frames"], np.int64) if frames else None
        rows = np.load(folder / name, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, LookupError) as error:
        message = f"{folder}: not embeddings of `byola-rq embed` ({error})"
        raise CorpusError(message, code="foreign", path=folder) from error
    _check_parts(folder, rows, len(paths), first_frames, num_frames)
    _check_model(folder, meta, embedder)
    return Collection(folder, paths, seconds, rows, first_frames, num_frames)


def _path_of(shown: str) -> str:
    r"""Return a path, of which index.csv has the bytes that are not UTF-8 as `\xff`."""
    if "\\x" not in shown or os.path.lexists(shown):
        return shown
    name = re.sub(
        rb"\\x([89a-f][\da-f])", lambda byte: bytes.fromhex(byte[1].decode()), shown.encode()
    )
    return os.fsdecode(name)


def _check_parts(
    folder: Path,
    rows: FloatArray,
    num_clips: int,
    first_frames: npt.NDArray[np.int64] | None,
    num_frames: npt.NDArray[np.int64] | None,
) -> None:
    """Raise `CorpusError` if index.csv and the array do not match, or if a value is not finite."""
    fits = rows.ndim == 2 and rows.dtype == np.float32 and num_clips > 0
    if first_frames is None or num_frames is None:
        fits = fits and len(rows) == num_clips
    else:
        ends = np.cumsum(num_frames)
        fits = fits and bool((num_frames > 0).all() and (first_frames == ends - num_frames).all())
        fits = fits and len(rows) == int(ends[-1])
    if not fits:
        message = f"{folder}: index.csv and the array beside it do not match"
        raise CorpusError(message, code="damaged", path=folder)
    if not np.isfinite(rows.sum(dtype=np.float64)):
        message = f"{folder}: embeddings must be finite; some are not"
        raise CorpusError(message, code="not-finite", path=folder)


def _check_model(folder: Path, meta: dict[str, Any], embedder: Embedder) -> None:
    own = json.loads(json.dumps(embedder.description))
    differ = [key for key in _DECIDING if meta.get(key) != own[key]]
    if differ:
        raise CorpusError(
            f"{folder}: made by another model ({', '.join(differ)} differ); give that model with "
            "--model, or embed the sounds again",
            code="different",
            path=folder,
            key=differ[0],
        )


def cache_folder(source: Path, embedder: Embedder, *, frames: bool) -> Path:
    """Return the cache folder for embeddings of `source`, in `$XDG_CACHE_HOME` or `~/.cache`."""
    identity = [os.path.realpath(source), embedder.description, frames]
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "byola_rq" / "embeddings" / digest[:16]
