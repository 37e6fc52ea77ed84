"""The folder that embeddings are written to, usable whenever the writing ends."""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from byola_rq.corpus.order import IntArray
from byola_rq.errors import CorpusError
from byola_rq.runtime.files import replace_file

EMBEDDINGS, FRAMES = "embeddings.npy", "frames.npy"

MAX_WAITING_BYTES = 256 << 20
SHARE_OF_WRITING = 0.1  # of the time, at most; the less often, the more work a kill undoes


class EmbeddingFolder:
    """`embeddings.npy` or `frames.npy`, `index.csv` and `meta.json`; hidden while not whole.

    Args:
        path: Made where missing.
        content_key: What the embeddings are made of; stands in `meta.json`.
        file_name: Of the array.

    Every method raises `CorpusError` where the folder cannot be written.
    """

    def __init__(self, path: Path, content_key: str, file_name: str = EMBEDDINGS) -> None:
        self.path = path
        self.content_key = content_key
        self.embeddings = path / file_name
        self._rows = path / ".partial.npy"
        self._done = path / ".partial.done.npy"
        self._key = path / ".partial.key"
        self._waiting: list[tuple[IntArray, npt.NDArray[np.float32]]] = []
        self._next_write = time.monotonic()

    def is_whole(self, *, overwrite: bool) -> bool:
        """Whether these embeddings are there already.

        Raises:
            CorpusError: If others are, and are not to be overwritten.
        """
        there = [name for name in (EMBEDDINGS, FRAMES) if (self.path / name).exists()]
        if not there:
            return False
        if self.embeddings.name in there and _read_key(self.path / "meta.json") == self.content_key:
            with self._disk_errors():
                self._remove_marks()
            return True
        if not overwrite:
            raise CorpusError(
                f"{self.path / there[0]}: holds the embeddings of another model or other clips; "
                "choose another folder, or --overwrite"
            )
        return False

    def open(self, num_rows: int, dim: int) -> npt.NDArray[np.bool_]:
        """Begin, or go on where a run of the same job stopped; which rows are done, `(rows,)`."""
        with self._disk_errors():
            self.path.mkdir(parents=True, exist_ok=True)
            is_same_job = self._key.exists() and self._key.read_text() == self.content_key
            if not (is_same_job and self._rows.exists() and self._done.exists()):
                self._key.unlink(missing_ok=True)
                np.lib.format.open_memmap(self._rows, "w+", np.float32, (num_rows, dim))
                np.lib.format.open_memmap(self._done, "w+", np.bool_, (num_rows,))
                # Last: the key vouches for both arrays.
                replace_file(self._key, self.content_key)
            is_done: npt.NDArray[np.bool_] = np.load(self._done, allow_pickle=False)
        return is_done

    def add(self, numbers: IntArray, rows: npt.NDArray[np.float32]) -> None:
        """Put rows `(B, D)` in their places, `numbers`; now, or soon with others."""
        self._waiting.append((numbers, rows))
        waiting_bytes = sum(each.nbytes for _, each in self._waiting)
        if time.monotonic() >= self._next_write or waiting_bytes > MAX_WAITING_BYTES:
            self.flush()

    def rows(self) -> npt.NDArray[np.float32]:
        """All rows as they are on the disk now, `(rows, D)`, not read before they are looked at."""
        self.flush()
        with self._disk_errors():
            rows: npt.NDArray[np.float32] = np.load(self._rows, mmap_mode="r", allow_pickle=False)
        return rows

    def flush(self) -> None:
        """Write what waits; it is on the disk when this returns."""
        if not self._waiting:
            return
        started = time.monotonic()
        numbers, rows = (np.concatenate(each) for each in zip(*self._waiting, strict=True))
        with self._disk_errors():
            # In this order: a row marked done has been written.
            _write_rows(self._rows, numbers, rows)
            _write_rows(self._done, numbers, np.ones(len(numbers), np.bool_))
        self._waiting = []
        now = time.monotonic()
        self._next_write = now + (now - started) * (1 / SHARE_OF_WRITING - 1)

    def finish(self, meta: dict[str, Any], index: str) -> None:
        """Give everything its name, once all rows are added.

        A run killed in between finds what is left to do: nothing but the last renaming makes the
        folder whole, and embeddings of another job are gone before their `meta.json` is.
        """
        self.flush()
        with self._disk_errors():
            for name in (EMBEDDINGS, FRAMES):
                (self.path / name).unlink(missing_ok=True)
            replace_file(self.path / "index.csv", index)
            replace_file(self.path / "meta.json", json.dumps(meta, indent=1))
            self._rows.replace(self.embeddings)
            self._remove_marks()

    def _remove_marks(self) -> None:
        self._done.unlink(missing_ok=True)
        self._key.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CorpusError(f"{self.path}: cannot be written ({error})") from error


def _write_rows(path: Path, numbers: IntArray, rows: npt.NDArray[Any]) -> None:
    """Write rows of an array file, not through a memory map: there a full disk is a SIGBUS."""
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    first_byte, row_bytes = array.offset, array.strides[0]
    with path.open("r+b") as file:
        for number, row in zip(numbers.tolist(), rows, strict=True):
            file.seek(first_byte + number * row_bytes)
            file.write(row.tobytes())
        file.flush()
        os.fsync(file.fileno())


def _read_key(path: Path) -> str | None:
    try:
        key = json.loads(path.read_text(encoding="utf-8"))["content_key"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return str(key)
