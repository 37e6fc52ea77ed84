"""Output folder of embeddings, consistent whenever writing stops."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from byola_rq.corpus.order import IntArray
from byola_rq.errors import CorpusError
from byola_rq.runtime.array_files import find_array
from byola_rq.runtime.files import is_own, replace_file
from byola_rq.runtime.lock import PATIENCE, LockedError, locked
from byola_rq.runtime.resumable_rows import ResumableRows, has_marks, remove_marks
from byola_rq.text.cells import csv_rows, csv_text
from byola_rq.text.parse import MAX_TEXT_BYTES, read_json, read_text

EMBEDDINGS, FRAMES, REJECTED = "embeddings.npy", "frames.npy", "rejected.csv"
LOCK = ".lock"


class EmbeddingFolder:
    """Folder of `embeddings.npy` or `frames.npy`, `index.csv`, `meta.json`; hidden until complete.

    Args:
        path: Path of the folder, created if missing.
        content_key: Digest of model and clips, stored in `meta.json`.
        file_name: Name of the array's file.

    Every method raises `CorpusError` if the folder cannot be written.
    """

    _rows: ResumableRows  # set by `open`

    def __init__(self, path: Path, content_key: str, file_name: str = EMBEDDINGS) -> None:
        self.path = path
        self.content_key = content_key
        self.embeddings = path / file_name
        self._partial = path / ".partial.npy"

    def is_whole(self, *, overwrite: bool) -> bool:
        """Return whether these embeddings exist already.

        Raises:
            CorpusError: If others exist and `overwrite` is false.
        """
        there = [name for name in (EMBEDDINGS, FRAMES) if (self.path / name).exists()]
        if not there:
            return False
        if self.embeddings.name in there and self._read_meta("content_key") == self.content_key:
            return True
        if not overwrite:
            raise CorpusError(
                f"{self.path / there[0]}: holds the embeddings of another model or other clips; "
                "choose another folder, remove it, or `byola-rq embed --overwrite`",
                code="exists",
                path=self.path / there[0],
            )
        return False

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder against other processes.

        Raises:
            CorpusError: If another process has locked it.
        """
        with contextlib.ExitStack() as stack:
            try:
                with self._disk_errors():
                    self.path.mkdir(parents=True, exist_ok=True)
                    stack.enter_context(locked(self.path / LOCK, patience=PATIENCE))
            except LockedError as error:
                raise CorpusError(
                    f"{self.path}: another process is embedding into this folder ({error}); "
                    "wait until it ends, or choose another folder",
                    code="held",
                    path=self.path,
                    value=str(error),
                ) from error
            yield

    def has_marks(self) -> bool:
        """Return whether a job is running or was killed here."""
        return has_marks(self._partial)

    def remove_marks(self) -> None:
        """Remove files left by a run of this job that was killed as it finished."""
        with self._disk_errors():
            remove_marks(self._partial)

    def read_failed(self) -> bytes:
        """Read the list of failed clips from `meta.json`, as JSON."""
        return json.dumps(self._read_meta("failed") or []).encode()

    def write_rejected(self, rejected: Sequence[tuple[str, str]]) -> None:
        """Write rejected.csv with rows (source, reason); remove it if there are none."""
        path = self.path / REJECTED
        with self._disk_errors():
            if not rejected:
                path.unlink(missing_ok=True)
                return
            text = csv_text([("source", "reason"), *rejected])
            if not is_own(path) or path.read_bytes() != text.encode():
                replace_file(path, text)

    def open(self, num_rows: int, dim: int) -> npt.NDArray[np.bool_]:
        """Begin or resume a job; return which rows are done, bool `(rows,)`."""
        marks = np.ones((num_rows, 1), np.uint8)
        with self._disk_errors():
            self._rows = ResumableRows(self._partial, self.content_key, marks, dim)
        return self._rows.is_done

    def add(self, numbers: IntArray, rows: npt.NDArray[np.float32]) -> None:
        """Write rows `(B, D)` at positions `numbers`, possibly buffered."""
        with self._disk_errors():
            self._rows.add(numbers, rows)

    def rows(self) -> npt.NDArray[np.float32]:
        """Return all rows on disk, `(rows, D)`, memory-mapped."""
        self.flush()
        return self._rows.array

    def flush(self) -> None:
        """Write buffered rows; they are on disk when this returns."""
        with self._disk_errors():
            self._rows.flush()

    def finish(
        self, meta: dict[str, Any], index: str, is_kept: npt.NDArray[np.bool_] | None = None
    ) -> None:
        """Complete the folder after all rows, or all that `is_kept` `(rows,)`, were added.

        A run killed in between can be resumed: only the last renaming makes the folder complete,
        and embeddings of another job are removed before their `meta.json`.
        """
        self.flush()
        with self._disk_errors():
            for name in (EMBEDDINGS, FRAMES):
                (self.path / name).unlink(missing_ok=True)
            replace_file(self.path / "index.csv", index)
            replace_file(self.path / "meta.json", json.dumps(meta, indent=1))
            self._rows.finish(self.embeddings, is_kept)

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            message = f"{self.path}: cannot be written ({error})"
            raise CorpusError(message, code="unwritable", path=self.path) from error

    def _read_meta(self, key: str) -> Any:
        """Read a value of meta.json; None if missing."""
        try:
            return read_json(self.path / "meta.json").get(key)
        except (OSError, ValueError):
            return None


def read_rows(
    folder: Path, file_name: str = EMBEDDINGS
) -> tuple[npt.NDArray[np.floating[Any]], dict[str, list[str]]]:
    """Read the output of `byola-rq embed`: rows `(N, D)`, memory-mapped, and index.csv by column.

    Raises:
        CorpusError: If the folder does not have both.
    """
    try:
        array = find_array(folder / file_name)
        if array.dtype.kind != "f" or len(array.shape) != 2:
            raise ValueError(f"{file_name} must be floating point (rows, D); got {array}")
        names, *rows = csv_rows(read_text(folder / "index.csv", MAX_TEXT_BYTES)) or [[]]
        columns = {name: [row[place] for row in rows] for place, name in enumerate(names)}
        if "path" not in columns:
            raise ValueError("index.csv must have a column path")
        return array.map(), columns
    except (OSError, ValueError, IndexError) as error:
        message = f"{folder}: not embeddings of `byola-rq embed` ({error})"
        raise CorpusError(message, code="foreign", path=folder) from error
