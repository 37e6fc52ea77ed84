"""Format of a packed corpus on disk: files, index, opening and verification."""

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from byola_rq.corpus.bounded_table import read_bounded
from byola_rq.errors import Code, CorpusError
from byola_rq.runtime.array_files import find_array
from byola_rq.runtime.files import text_name
from byola_rq.text.parse import check_shape, open_file, read_json
from byola_rq.text.shown import one_line

FORMAT = "byola_rq packed corpus"
FORMAT_VERSION = 1
INDEX, REJECTED = "index.parquet", "rejected.csv"

# Rows are ordered by (shard, offset); offset and num_samples count samples of the shard.
INDEX_SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("source", pa.string()),
        ("shard", pa.int32()),
        ("offset", pa.int64()),
        ("num_samples", pa.int64()),
        ("original_rate", pa.int32()),
        ("labels", pa.string()),
    ]
)

_BLOCK_BYTES = 2**22
_INFO_SHAPE = {
    "sample_rate": int,
    "clips": int,
    "hours": float,
    "rejected": int,
    "duplicates": int,
    "shards": int,
    "files": {str: {"bytes": int, "sha256": str}},
    "options": dict,
}


@dataclass(frozen=True)
class PackedCorpus:
    """Opened corpus; clip i is `shards[shard[i]][offset[i] : offset[i] + num_samples[i]]`."""

    folder: Path
    _: KW_ONLY
    info: dict[str, Any]  # corpus.json
    shard: npt.NDArray[np.int32]  # (clips,)
    offset: npt.NDArray[np.int64]  # (clips,)
    num_samples: npt.NDArray[np.int64]  # (clips,)
    shards: list[npt.NDArray[np.int16]]  # memory maps, one-dimensional

    def __len__(self) -> int:
        return len(self.shard)

    def clip(self, index: int) -> npt.NDArray[np.int16]:
        """Samples of one clip, int16 `(S,)`, memory-mapped."""
        start = int(self.offset[index])
        shard = self.shards[int(self.shard[index])]
        samples: npt.NDArray[np.int16] = shard[start : start + int(self.num_samples[index])]
        return samples

    def read_column(self, name: str) -> list[Any]:
        """Read a column of the index as Python values, for example `clip_id` or `labels`."""
        values: list[Any] = read_index(self.folder, [name])[name].to_pylist()
        return values


def shard_name(shard: int) -> str:
    """File name of a shard."""
    return f"pcm-{shard:05d}.npy"


def is_packed(path: Path) -> bool:
    """Return whether a folder holds a packed corpus, of any format version or damaged."""
    try:
        return bool(read_json(path / "corpus.json").get("format") == FORMAT)
    except FileNotFoundError:
        return False
    except (OSError, ValueError):
        return os.path.exists(path / INDEX)  # opening it names the damage


def read_info(folder: Path) -> dict[str, Any]:
    """Read `corpus.json`.

    Raises:
        CorpusError: If the folder holds no packed corpus, or one of another format version.
    """
    try:
        info: dict[str, Any] = read_json(folder / "corpus.json")
    except (OSError, ValueError) as error:
        code: Code = "missing" if isinstance(error, FileNotFoundError) else "malformed"
        raise CorpusError(
            f"{folder}: no packed corpus ({error})", code=code, path=folder
        ) from error
    if info.get("format") != FORMAT:
        message = f"{folder}: no packed corpus (its corpus.json has another format)"
        raise CorpusError(message, code="foreign", path=folder)
    if info.get("format_version") != FORMAT_VERSION:
        raise CorpusError(
            f"{folder}: format version must be {FORMAT_VERSION}; got "
            f"{info.get('format_version')}. Pack it again with this version of byola_rq",
            code="newer",
            path=folder,
            key="format version",
            value=info.get("format_version"),
        )
    try:
        check_shape(info, _INFO_SHAPE)
        if not 0 <= info["shards"] <= len(info["files"]):
            raise ValueError(f"shards must be the shards among files; got {info['shards']}")
    except ValueError as error:
        path = folder / "corpus.json"
        message = f"{path}: not what `prepare` writes ({error})"
        raise CorpusError(message, code="malformed", path=path) from error
    _check_names(folder, info)
    return info


def read_index(folder: Path, columns: list[str] | None = None) -> pa.Table:
    """Read all or some columns of `index.parquet`.

    Raises:
        CorpusError: If it is missing or damaged, or has other columns or empty cells.
    """
    path = folder / INDEX
    try:
        if path.exists() and not path.is_file():
            raise OSError("must be a regular file")
        with text_name(path) as readable:
            table = read_bounded(readable, columns)
        if any(column.null_count for column in table.columns):
            raise ValueError("its cells must not be empty")
        return table.cast(pa.schema([INDEX_SCHEMA.field(name) for name in table.column_names]))
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        message = f"{path}: not an index that can be read ({one_line(error)})"
        raise CorpusError(message, code="unreadable", path=path) from error


def open_packed(folder: Path) -> PackedCorpus:
    """Open a packed corpus without reading samples.

    Raises:
        CorpusError: If there is none, it has another format version, a file is missing or differs
            in size from corpus.json, or the index does not fit the shards. `find_damage` verifies
            the digests.
    """
    folder = Path(folder)
    info = read_info(folder)
    for name, expected in info["files"].items():
        path = folder / name
        if problem := _check_size(path, expected["bytes"]):
            raise CorpusError(
                f"{path}: {problem}. `byola-rq prepare --verify {folder}` lists all damage",
                code="damaged" if path.exists() else "missing",
                path=path,
            )
    names = ["shard", "offset", "num_samples"]
    index = read_index(folder, names)
    if any(index[name].null_count for name in names):
        message = f"{folder / INDEX}: every row must have {', '.join(names)}; some are null"
        raise CorpusError(message, code="malformed", path=folder / INDEX)
    shard, offset, num_samples = (index[name].to_numpy() for name in names)
    shards = [_map_shard(folder / shard_name(number)) for number in range(info["shards"])]
    corpus = PackedCorpus(
        folder, info=info, shard=shard, offset=offset, num_samples=num_samples, shards=shards
    )
    _check_fit(corpus)
    return corpus


def find_damage(folder: Path, on_bytes: Callable[[int], object] = lambda _: None) -> Iterator[str]:
    """Compare every file's size and SHA-256 with corpus.json; yield a line per damaged file.

    A shard's line also names its clips. `on_bytes` is called with the number of bytes read.

    Raises:
        CorpusError: If the folder holds no packed corpus of this format version.
    """
    info = read_info(folder)
    for name, expected in info["files"].items():
        path = folder / name
        problem = _check_size(path, expected["bytes"])
        if not problem and digest_file(path, on_bytes) != expected["sha256"]:
            problem = "its SHA-256 is not that of corpus.json: its content has changed"
        if problem:
            yield f"{name}: {problem}{_clips_in(folder, name)}"


def digest_file(path: Path, on_bytes: Callable[[int], object] = lambda _: None) -> str:
    """Compute the SHA-256 of a file; `on_bytes` is called with the length of each block."""
    digest = hashlib.sha256()
    with open_file(path) as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
            on_bytes(len(block))
    return digest.hexdigest()


def _check_names(folder: Path, info: dict[str, Any]) -> None:
    """Check the files' names: others could lead out of the folder."""
    names, num_shards = set(info["files"]), info["shards"]
    shards = map(shard_name, range(min(num_shards, len(names))))
    if names == {INDEX, REJECTED, *shards} and num_shards == len(names) - 2:
        return
    odd = sorted(names ^ {INDEX, REJECTED, *shards})
    path = folder / "corpus.json"
    raise CorpusError(
        f"{path}: its files must be {INDEX}, {REJECTED} and {num_shards} shards, as it says; got "
        f"{len(names)}" + (f", and {odd[0]!r} is none of them or missing" if odd else ""),
        code="malformed",
        path=path,
        value=odd,
    )


def _check_size(path: Path, num_bytes: int) -> str | None:
    try:
        status = path.stat()
    except OSError as error:
        return f"missing ({error.strerror})"
    if not stat.S_ISREG(status.st_mode):
        return "must be a regular file"
    size = status.st_size
    return None if size == num_bytes else f"its size must be {num_bytes} bytes; got {size}"


def _map_shard(path: Path) -> npt.NDArray[np.int16]:
    try:
        array = find_array(path)
    except (OSError, ValueError) as error:
        message = f"{path}: not a shard that can be read ({one_line(error)})"
        raise CorpusError(message, code="unreadable", path=path) from error
    if array.dtype != np.int16 or len(array.shape) != 1:
        raise CorpusError(
            f"{path}: a shard must be one-dimensional int16; got {array}",
            code="malformed",
            path=path,
            value=array.dtype,
        )
    return array.map()


def _check_fit(corpus: PackedCorpus) -> None:
    """Check that every row is within its shard, and that their number is that of corpus.json."""
    folder, shard, offset = corpus.folder, corpus.shard, corpus.offset
    if len(corpus) != corpus.info["clips"]:
        raise CorpusError(
            f"{folder}: index.parquet must have {corpus.info['clips']} rows, as corpus.json says; "
            f"got {len(corpus)}",
            code="damaged",
            path=folder,
            key="index.parquet",
            value=len(corpus),
        )
    lengths = np.array([len(samples) for samples in corpus.shards], np.int64)
    is_known = (shard >= 0) & (shard < len(lengths))
    room = np.where(is_known, lengths[np.where(is_known, shard, 0)], -1) if len(lengths) else -1
    # Compared without a sum, which could overflow int64.
    num_samples = corpus.num_samples
    is_inside = is_known & (offset >= 0) & (num_samples > 0) & (num_samples <= room - offset)
    if not is_inside.all():
        row = int(np.flatnonzero(~is_inside)[0])
        place = (int(shard[row]), int(offset[row]), int(offset[row]) + int(num_samples[row]))
        raise CorpusError(
            f"{folder}: row {row} of index.parquet must lie within a shard; got shard "
            f"{place[0]}, samples {place[1]} to {place[2]}",
            code="damaged",
            path=folder,
            key=f"row {row}",
            value=place,
        )


def _clips_in(folder: Path, name: str) -> str:
    """Name the clips of a damaged shard, if the index can be read."""
    if not name.endswith(".npy"):
        return ""
    try:
        index = read_index(folder, ["clip_id", "shard"])
    except CorpusError:
        return " (its clips are unknown: index.parquet cannot be read)"
    names = [shard_name(number) for number in index["shard"].to_pylist()]
    clips = [
        clip for clip, its in zip(index["clip_id"].to_pylist(), names, strict=True) if its == name
    ]
    if not clips:
        return " (no clip is in it)"
    middle = ", ..., " if len(clips) > 2 else ", "
    ends = clips[0] if len(clips) == 1 else f"{clips[0]}{middle}{clips[-1]}"
    return f" ({len(clips)} clips are in it: {ends})"
