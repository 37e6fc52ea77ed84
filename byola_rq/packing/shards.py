"""Shards of a packed corpus being written: each is whole or not there."""

import contextlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from byola_rq.corpus.packed_format import digest_file, shard_name
from byola_rq.errors import CorpusError
from byola_rq.runtime.files import put_in_place, replace_file

PARTS = ".parts"  # in the corpus' folder, until it is whole

_HEADER_BYTES = 128  # numpy leaves room in the header of an array that may grow


class PackingError(CorpusError):
    """Packing cannot go on, for example because the disk is full; what is whole is kept."""

    exit_code = 1


@dataclass(frozen=True)
class ShardSummary:
    """What a whole shard holds."""

    bytes: int
    sha256: str
    clips: int
    rejected: int
    num_samples: int


class ShardWriter:
    """One shard: samples go to a file of a temporary name, its rows of the index are kept.

    Args:
        folder: Of the corpus; has its folder of parts.
        shard: Its number.
        split: Tells the temporary file from that of another process at the same shard.
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
        self._file = self._partial.open("wb")
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
        """Add one clip, `(S,)`.

        Raises:
            OSError: If it cannot be written.
        """
        self._file.write(np.ascontiguousarray(samples, "<i2").data)
        row = (clip_id, source, len(samples), original_rate, labels)
        for column, value in zip(self._columns.values(), row, strict=True):
            column.append(value)
        self._num_samples += len(samples)

    def reject(self, source: str, reason: str) -> None:
        """Note a clip that is left out."""
        self._rejected.append((source, reason))

    def finish(self) -> None:
        """Give the shard its name, then write the piece that vouches for it.

        Raises:
            OSError: If something cannot be written.
        """
        self._file.seek(0)
        _write_npy_header(self._file, self._num_samples)
        self._file.close()
        # The header, which comes first, was known last: so what was written is read again for
        # its digest, from memory as long as it is fresh.
        summary = ShardSummary(
            **size_and_digest(self._partial),
            clips=len(self._columns["clip_id"]),
            rejected=len(self._rejected),
            num_samples=self._num_samples,
        )
        put_in_place(self._partial, self.folder / shard_name(self.shard))
        rows = {"clips": self._columns, "rejected": self._rejected}
        # Two lines: who only asks whether the shard is done need not read its rows.
        piece = f"{json.dumps(asdict(summary))}\n{json.dumps(rows)}\n"
        replace_file(_piece_path(self.folder, self.shard), piece)

    def discard(self) -> None:
        """Remove what was written, so that its space is free; does nothing after `finish`."""
        with contextlib.suppress(OSError):  # what cannot be flushed is not wanted any more
            self._file.close()
        self._partial.unlink(missing_ok=True)


def read_summary(folder: Path, shard: int) -> ShardSummary | None:
    """What a whole shard holds; None where its piece, or the samples it vouches for, are not."""
    path = _piece_path(folder, shard)
    try:
        if not path.is_file():  # nothing, or a pipe that may never answer
            return None
        with path.open(encoding="utf-8") as file:
            summary = ShardSummary(**json.loads(file.readline()))
        is_there = (folder / shard_name(shard)).stat().st_size == summary.bytes
    except (OSError, ValueError, TypeError):
        return None
    return summary if is_there else None


def read_rows(folder: Path, shard: int) -> dict[str, Any]:
    """A whole shard's `clips` (columns of the index) and `rejected` (source, reason).

    Raises:
        CorpusError: If its piece cannot be read.
    """
    path = _piece_path(folder, shard)
    try:
        rows: dict[str, Any] = json.loads(path.read_text(encoding="utf-8").splitlines()[1])
    except (OSError, ValueError, IndexError) as error:
        message = f"{path}: cannot be read ({error}). Remove it and run again"
        raise CorpusError(message, code="damaged", path=path) from error
    return rows


def size_and_digest(path: Path) -> dict[str, Any]:
    """What corpus.json says of a file."""
    return {"bytes": path.stat().st_size, "sha256": digest_file(path)}


def remove_parts(folder: Path) -> None:
    """Remove the pieces of a corpus that is whole."""
    parts = folder / PARTS
    if parts.is_dir():
        for path in parts.iterdir():
            path.unlink(missing_ok=True)
        parts.rmdir()


def _piece_path(folder: Path, shard: int) -> Path:
    return folder / PARTS / f"{shard:05d}.json"


def _write_npy_header(file: IO[bytes], num_samples: int) -> None:
    header = {"descr": "<i2", "fortran_order": False, "shape": (num_samples,)}
    np.lib.format.write_array_header_1_0(file, header)
    assert file.tell() == _HEADER_BYTES
