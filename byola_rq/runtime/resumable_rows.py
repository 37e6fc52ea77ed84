"""Array on disk that is filled row by row and can be resumed after an interruption."""

import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from byola_rq.runtime.array_files import find_array, map_array
from byola_rq.runtime.files import (
    is_own,
    new_file,
    open_own,
    put_in_place,
    replace_file,
    whole_file,
)

Numbers = Sequence[int] | npt.NDArray[np.integer[Any]]

MAX_WAITING_BYTES = 256 << 20
_ROWS_AT_ONCE = 4096
SHARE_OF_WRITING = 0.1  # maximum fraction of time; fewer writes lose more work to a kill


class ResumableRows:
    """Float32 rows `(N, D)` in a file, added in any order; an interruption loses unflushed rows.

    `<name>.done.npy` has the marks of the rows that are written, and `<name>.key` the key. A row is
    valid as long as its stored mark equals the given one.

    Args:
        path: Path `<name>.npy`; its folder is created if missing.
        key: Digest of what all rows depend on; rows of another key are discarded.
        marks: Digest of what each row depends on, uint8 `(N, M)`; no row may be all zeros.
        dim: Row length D.

    Attributes:
        array: Rows on disk, read-only; rows that are not done are undefined.
        is_done: Rows that are written, bool `(N,)`.

    Raises:
        OSError: If a file cannot be read or written; the methods raise it too.
        ValueError: If the existing files are damaged.
    """

    def __init__(self, path: Path, key: str, marks: npt.NDArray[np.uint8], dim: int) -> None:
        self._path, self._marks = path, marks
        self._done, self._key = _mark_files(path)
        self._waiting: list[tuple[Numbers, npt.NDArray[np.float32]]] = []
        self._next_write = time.monotonic()
        path.parent.mkdir(parents=True, exist_ok=True)
        files = (self._key, path, self._done)
        if not all(map(is_own, files)) or stored_key(path) != key:
            remove_marks(path)
            _make_array(path, np.float32, (len(marks), dim))
            _make_array(self._done, np.uint8, marks.shape)
            # Written last: it marks both arrays as complete.
            replace_file(self._key, key)
        self.array: npt.NDArray[np.float32] = map_array(path, np.float32, (len(marks), dim))
        stored = map_array(self._done, np.uint8, marks.shape)
        self.is_done: npt.NDArray[np.bool_] = (stored == marks).all(axis=1)

    def add(self, numbers: Numbers, rows: npt.NDArray[np.float32]) -> None:
        """Write rows `(B, D)` at positions `numbers`, possibly buffered."""
        self._waiting.append((numbers, rows))
        waiting_bytes = sum(each.nbytes for _, each in self._waiting)
        if time.monotonic() >= self._next_write or waiting_bytes > MAX_WAITING_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write buffered rows; they are on disk, and done, when this returns."""
        if not self._waiting:
            return
        started = time.monotonic()
        numbers, rows = (np.concatenate(each) for each in zip(*self._waiting, strict=True))
        # In this order, so that a row marked done has been written.
        _write_rows(self._path, numbers, rows)
        _write_rows(self._done, numbers, self._marks[numbers])
        self.is_done[numbers] = True
        self._waiting = []
        now = time.monotonic()
        self._next_write = now + (now - started) * (1 / SHARE_OF_WRITING - 1)

    def finish(self, path: Path, is_kept: npt.NDArray[np.bool_] | None = None) -> None:
        """Rename the complete array to its final path and remove the marks.

        Args:
            path: Final path.
            is_kept: Rows to keep, bool `(N,)`; all by default.
        """
        self.flush()
        if is_kept is None or is_kept.all():
            put_in_place(self._path, path)
        else:
            _copy_rows(self.array, is_kept, path)
        remove_marks(self._path)


def has_marks(path: Path) -> bool:
    """Return whether files of a `ResumableRows` of this path exist."""
    return any(each.exists() for each in (path, *_mark_files(path)))


def stored_key(path: Path) -> str | None:
    """Return the key of the rows of this path; None if there are none."""
    key = _mark_files(path)[1]
    return key.read_text(encoding="utf-8", errors="replace") or None if is_own(key) else None


def remove_marks(path: Path) -> None:
    """Remove the files of a `ResumableRows` of this path."""
    for each in (*_mark_files(path), path):
        each.unlink(missing_ok=True)


def _mark_files(path: Path) -> tuple[Path, Path]:
    return path.with_suffix(".done.npy"), path.with_suffix(".key")


def _make_array(path: Path, dtype: type[np.generic], shape: tuple[int, ...]) -> None:
    """Create an array file of zeros, sparse on disk."""
    with new_file(path):
        np.lib.format.open_memmap(path, "w+", dtype, shape)


def _write_rows(path: Path, numbers: npt.NDArray[np.integer[Any]], rows: npt.NDArray[Any]) -> None:
    """Write rows of an array file without a memory map, where a full disk would raise SIGBUS."""
    array = find_array(path)
    row_bytes = math.prod(array.shape[1:]) * array.dtype.itemsize
    with open_own(path, "r+b") as file:
        for number, row in zip(numbers.tolist(), rows, strict=True):
            file.seek(array.offset + number * row_bytes)
            file.write(row.tobytes())
        file.flush()
        os.fsync(file.fileno())


def _copy_rows(array: npt.NDArray[np.float32], is_kept: npt.NDArray[np.bool_], path: Path) -> None:
    """Copy selected rows of an array to a new file, in parts."""
    with whole_file(path) as temporary, temporary.open("wb") as file:
        shape = (int(is_kept.sum()), *array.shape[1:])
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for first in range(0, len(array), _ROWS_AT_ONCE):
            part = slice(first, first + _ROWS_AT_ONCE)
            file.write(array[part][is_kept[part]].tobytes())
