"""Writing of shards: each one is complete or does not exist."""

import contextlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from byola_rq.corpus.packed_format import digest_file, shard_name
from byola_rq.errors import CorpusError
from byola_rq.runtime.files import (
    is_own,
    new_file,
    own_folder,
    put_in_place,
    remove_leftovers,
    replace_file,
)
from byola_rq.text.parse import MAX_TEXT_BYTES, parse_json, read_text

PARTS = ".parts"  # in the corpus's folder until the corpus is complete

_PART = re.compile(r"plan\.json|\d{5,}\.json|\d+-of-\d+\.lock|pcm-\d{5,}\.npy\.\d+-of-\d+\.partial")
_ROWS: Any = {
    "clips": {
        "clip_id": [str],
        "source": [str],
        "num_samples": [int],
        "original_rate": [int],
        "labels": [str],
    },
    "rejected": [[str]],
}

_HEADER_BYTES = 128  # numpy leaves room in the header of an array that may grow


class PackingError(CorpusError):
    """Packing cannot continue, for example on a full disk; complete shards are kept."""

    exit_code = 1


@dataclass(frozen=True)
class ShardSummary:
    """Size, digest and counts of a complete shard."""

    bytes: int
    sha256: str
    clips: int
    rejected: int
    num_samples: int


class ShardWriter:
    """Writer of one shard: samples go to a temporary file, rows of the index stay in memory.

    Args:
        folder: Folder of the corpus; its folder of parts must exist.
        shard: Number of the shard.
        split: Part of the temporary file's name that differs between processes.
    """

    def __init__(self, folder: Path, shard: int, split: str = "1-of-1") -> None:
        self.folder = folder
        self.shard = shard
        self._columns: dict[str, list[Any]] = {
            name: [] for name in ("clip_id", "source", "num_samples", "original_rate", "labels")
        }
        self._rejected: list[tuple[str, str]] = []
        self._num_samples = 0
        self._partial = folder / PARTS / f"{shard_name(shard)}.{split}.partial"
        self._file = new_file(self._partial)
        _write_npy_header(self._file, 0)

    def append(
        self,
        samples: npt.NDArray[np.int16],
        *,
        clip_id: str,
        source: str,
        original_rate: int,
        labels: str = "",
    ) -> None:
        """Append one clip, int16 `(S,)`.

        Raises:
            OSError: If it cannot be written.
        """
        self._file.write(np.ascontiguousarray(samples, "<i2").data)
        row = (clip_id, source, len(samples), original_rate, labels)
        for column, value in zip(self._columns.values(), row, strict=True):
            column.append(value)
        self._num_samples += len(samples)

    def reject(self, source: str, reason: str) -> None:
        """Record a clip that is left out."""
        self._rejected.append((source, reason))

    def finish(self) -> None:
        """Rename the shard to its final name, then write the part that marks it complete.

        Raises:
            OSError: If a file cannot be written.
        """
        self._file.seek(0)
        _write_npy_header(self._file, self._num_samples)
        self._file.close()
        # The header is at the start but known last, so the file is read again for its digest,
        # mostly from the page cache.
        summary = ShardSummary(
            **size_and_digest(self._partial),
            clips=len(self._columns["clip_id"]),
            rejected=len(self._rejected),
            num_samples=self._num_samples,
        )
        put_in_place(self._partial, self.folder / shard_name(self.shard))
        rows = {"clips": self._columns, "rejected": self._rejected}
        # Two lines: checking for completeness reads only the first.
        piece = f"{json.dumps(asdict(summary))}\n{json.dumps(rows)}\n"
        replace_file(_piece_path(self.folder, self.shard), piece)

    def discard(self) -> None:
        """Remove the temporary file; does nothing after `finish`."""
        with contextlib.suppress(OSError):  # data that cannot be flushed are discarded anyway
            self._file.close()
        self._partial.unlink(missing_ok=True)


def read_summary(folder: Path, shard: int) -> ShardSummary | None:
    """Read the summary of a shard; None unless its part and its samples are complete."""
    path = _piece_path(folder, shard)
    try:
        if not path.is_file():  # missing, or a pipe on which reading would wait
            return None
        with path.open(encoding="utf-8") as file:
            summary = ShardSummary(**parse_json(file.readline()))
        is_there = (folder / shard_name(shard)).stat().st_size == summary.bytes
    except (OSError, ValueError, TypeError):
        return None
    return summary if is_there else None


def read_rows(folder: Path, shard: int) -> dict[str, Any]:
    """Read a complete shard's `clips` (columns of the index) and `rejected` (source, reason).

    Raises:
        CorpusError: If its part cannot be read.
    """
    path = _piece_path(folder, shard)
    try:
        rows: dict[str, Any] = parse_json(read_text(path, MAX_TEXT_BYTES).split("\n")[1], _ROWS)
        if len({len(column) for column in rows["clips"].values()}) > 1:
            raise ValueError("its columns have unlike lengths")
    except (OSError, ValueError, IndexError) as error:
        message = f"{path}: cannot be read ({error}). Remove it and run again"
        raise CorpusError(message, code="damaged", path=path) from error
    return rows


def size_and_digest(path: Path) -> dict[str, Any]:
    """Measure a file's bytes and SHA-256, as stored in corpus.json."""
    return {"bytes": path.stat().st_size, "sha256": digest_file(path)}


def open_parts(folder: Path) -> Path:
    """Return the folder of a corpus's parts, created if missing.

    Raises:
        OSError: If its path is a link, or it cannot be created.
    """
    return own_folder(folder / PARTS)


def remove_parts(folder: Path) -> None:
    """Remove the parts of a complete corpus; other files and targets of links are kept.

    Raises:
        OSError: If they cannot be removed.
    """
    parts = folder / PARTS
    if not parts.is_dir() or parts.is_symlink():
        return
    remove_leftovers(parts)
    for path in parts.iterdir():
        if _PART.fullmatch(path.name) and (is_own(path) or path.is_symlink()):
            path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # it holds other files
        parts.rmdir()


def _piece_path(folder: Path, shard: int) -> Path:
    return folder / PARTS / f"{shard:05d}.json"


def _write_npy_header(file: IO[bytes], num_samples: int) -> None:
    header = {"descr": "<i2", "fortran_order": False, "shape": (num_samples,)}
    np.lib.format.write_array_header_1_0(file, header)
    assert file.tell() == _HEADER_BYTES
