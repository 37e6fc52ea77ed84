"""An array on disk that is filled row by row, and goes on where it was stopped."""

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
SHARE_OF_WRITING = 0.1  # of the time, at most; the less often, the more work a kill undoes


class ResumableRows:
    """Float32 rows `(N, D)` in a file, added in any order; a stop undoes what was not flushed.

    Beside `<name>.npy` lie `<name>.done.npy`, the marks of the rows that are written, and
    `<name>.key`. A row counts as long as its mark there is the one given here.

    Args:
        path: `<name>.npy`; its folder is made where missing.
        key: What all rows depend on; those of another key are discarded.
        marks: What each row depends on, uint8 `(N, M)`, in no row zero throughout.
        dim: D.

    Attributes:
        array: The rows as they are on the disk, read only; one that is not done holds anything.
        is_done: Which are there, bool `(N,)`.

    Raises:
        OSError: If the disk refuses; so do the methods.
        ValueError: If what is there is damaged.
    """

    def __init__(self, path: Path, key: str, marks: npt.NDArray[np.uint8], dim: int) -> None:
        self._path, self._marks = path, marks
        self._done, self._key = _mark_files(path)
        self._waiting: list[tuple[Numbers, npt.NDArray[np.float32]]] = []
        self._next_write = time.monotonic()
        path.parent.mkdir(parents=True, exist_ok=True)
        files = (self._key, path, self._done)
        if not all(map(is_own, files)) or self._key.read_text(encoding="utf-8") != key:
            remove_marks(path)
            _make_array(path, np.float32, (len(marks), dim))
            _make_array(self._done, np.uint8, marks.shape)
            # Last: it vouches for both arrays.
            replace_file(self._key, key)
        self.array: npt.NDArray[np.float32] = map_array(path, np.float32, (len(marks), dim))
        stored = map_array(self._done, np.uint8, marks.shape)
        self.is_done: npt.NDArray[np.bool_] = (stored == marks).all(axis=1)

    def add(self, numbers: Numbers, rows: npt.NDArray[np.float32]) -> None:
        """Put rows `(B, D)` in their places, `numbers`; now, or soon with others."""
        self._waiting.append((numbers, rows))
        waiting_bytes = sum(each.nbytes for _, each in self._waiting)
        if time.monotonic() >= self._next_write or waiting_bytes > MAX_WAITING_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what waits; it is on the disk, and done, when this returns."""
        if not self._waiting:
            return
        started = time.monotonic()
        numbers, rows = (np.concatenate(each) for each in zip(*self._waiting, strict=True))
        # In this order: a row marked done has been written.
        _write_rows(self._path, numbers, rows)
        _write_rows(self._done, numbers, self._marks[numbers])
        self.is_done[numbers] = True
        self._waiting = []
        now = time.monotonic()
        self._next_write = now + (now - started) * (1 / SHARE_OF_WRITING - 1)

    def finish(self, path: Path, is_kept: npt.NDArray[np.bool_] | None = None) -> None:
        """Give the array, all of whose rows are added, a name of its own; the marks are removed.

        Args:
            path: The name.
            is_kept: The rows that the array is to have, `(N,)`; all by default.
        """
        self.flush()
        if is_kept is None or is_kept.all():
            put_in_place(self._path, path)
        else:
            _copy_rows(self.array, is_kept, path)
        remove_marks(self._path)


def has_marks(path: Path) -> bool:
    """Whether there is a `ResumableRows` of this path, or something of one."""
    return any(each.exists() for each in (path, *_mark_files(path)))


def remove_marks(path: Path) -> None:
    """Remove what a `ResumableRows` of this path that was killed as it finished has left."""
    for each in (*_mark_files(path), path):
        each.unlink(missing_ok=True)


def _mark_files(path: Path) -> tuple[Path, Path]:
    return path.with_suffix(".done.npy"), path.with_suffix(".key")


def _make_array(path: Path, dtype: type[np.generic], shape: tuple[int, ...]) -> None:
    """Make an array file of zeros; they take no room on the disk before they are written."""
    with new_file(path):
        np.lib.format.open_memmap(path, "w+", dtype, shape)


def _write_rows(path: Path, numbers: npt.NDArray[np.integer[Any]], rows: npt.NDArray[Any]) -> None:
    """Write rows of an array file, not through a memory map: there a full disk is a SIGBUS."""
    array = find_array(path)
    row_bytes = math.prod(array.shape[1:]) * array.dtype.itemsize
    with open_own(path, "r+b") as file:
        for number, row in zip(numbers.tolist(), rows, strict=True):
            file.seek(array.offset + number * row_bytes)
            file.write(row.tobytes())
        file.flush()
        os.fsync(file.fileno())


def _copy_rows(array: npt.NDArray[np.float32], is_kept: npt.NDArray[np.bool_], path: Path) -> None:
    """Write some rows of an array to a file of their own, a part of them at a time."""
    with whole_file(path) as temporary, temporary.open("wb") as file:
        shape = (int(is_kept.sum()), *array.shape[1:])
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for first in range(0, len(array), _ROWS_AT_ONCE):
            part = slice(first, first + _ROWS_AT_ONCE)
            file.write(array[part][is_kept[part]].tobytes())
