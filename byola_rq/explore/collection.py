"""Collection of embedded clips: read from a folder of embeddings, or embedded on demand."""

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from byola_rq.embed.embedder import Embedder
from byola_rq.embed.folder import (
    EMBEDDINGS,
    FRAMES,
    REJECTED,
    embeddings_named,
    map_embeddings,
)
from byola_rq.embed.job import embed_clips
from byola_rq.embed.scaling import FloatArray
from byola_rq.errors import ConfigError, CorpusError
from byola_rq.runtime.progress import log
from byola_rq.text.parse import read_json

_DECIDING = ("encoder", "frontend", "statistics", "weights_sha256")  # the model, in meta.json
_MAX_SECONDS = 1e10


@dataclass(frozen=True, eq=False)
class Collection:
    """Embedded clips.

    Attributes:
        folder: Folder of the sounds or of the embeddings, as the user gave it.
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
        # Whole paths: the next search may start from another working directory.
        [Path(os.path.abspath(source))],
        folder,
        num_workers=num_workers,
        # The cached embeddings may be outdated: files may have been added or removed since.
        overwrite=out is None,
        frames=frames,
    )
    if embedded.num_rejected:
        log(f"{embedded.num_rejected} clips are left out; see {folder / REJECTED}")
    return replace(read_collection(folder, embedder, frames=frames), folder=source)


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
    with embeddings_named(folder):
        _check_model(folder, read_json(folder / "meta.json"), embedder)
        columns = ("path", "seconds", *(("first_frame", "num_frames") if frames else ()))
        rows, (paths, stated, *places) = map_embeddings(folder, name, *columns)
        seconds = np.array(stated, np.float64)
        first_frames, num_frames = np.array(places, np.int64) if frames else (None, None)
        _check_parts(rows, seconds, first_frames, num_frames)
        if rows.shape[1] != embedder.embedding_dim or rows.dtype != np.float32:
            got = f"{rows.dtype}, {rows.shape[1]}"
            raise ValueError(f"rows must be float32, {embedder.embedding_dim} long; got {got}")
        if any("\0" in path for path in paths):
            raise ValueError("a path must not have a null byte")
    paths = [_path_of(each) for each in paths]
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
    rows: FloatArray,
    seconds: npt.NDArray[np.float64],
    first_frames: npt.NDArray[np.int64] | None,
    num_frames: npt.NDArray[np.int64] | None,
) -> None:
    """Raise `ValueError` if the columns of index.csv do not match the array beside it."""
    counts = np.ones(len(seconds), np.int64) if num_frames is None else num_frames
    ends = np.cumsum(counts)
    firsts = ends - counts if first_frames is None else first_frames
    is_within = bool((counts > 0).all() and (counts <= len(rows)).all())
    if not is_within or ends[-1] != len(rows) or (firsts != ends - counts).any():
        raise ValueError("index.csv and the array beside it do not match")
    if not ((seconds >= 0) & (seconds < _MAX_SECONDS)).all():  # nor NaN
        raise ValueError(f"seconds must be 0 to {_MAX_SECONDS:g}")


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
    """Return the cache folder for embeddings of `source`, in `$XDG_CACHE_HOME` or `~/.cache`.

    Raises:
        ConfigError: If the user has neither.
    """
    identity = [os.path.abspath(source), embedder.description, frames]
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):  # to be ignored, says the XDG specification
        base = os.path.expanduser("~/.cache")
    if not os.path.isabs(base):
        message = "no home folder to keep embeddings in; set XDG_CACHE_HOME, or give --out"
        raise ConfigError(message, code="missing", key="XDG_CACHE_HOME")
    return Path(base) / "byola_rq" / "embeddings" / digest[:16]
