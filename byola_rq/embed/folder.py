"""Output folder of embeddings, consistent whenever writing stops."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from byola_rq.corpus.order import IntArray
from byola_rq.embed.scaling import FloatArray
from byola_rq.errors import CorpusError
from byola_rq.runtime.array_files import find_array
from byola_rq.runtime.files import is_own, replace_file
from byola_rq.runtime.lock import PATIENCE, LockedError, locked
from byola_rq.runtime.resumable_rows import ResumableRows, has_marks, remove_marks, stored_key
from byola_rq.text.cells import csv_columns, csv_text
from byola_rq.text.parse import MAX_TEXT_BYTES, check_shape, read_json, read_text

EMBEDDINGS, FRAMES = "embeddings.npy", "frames.npy"
INDEX, META, REJECTED = "index.csv", "meta.json", "rejected.csv"
LOCK = ".lock"

_MAX_VALUE = 1e15  # sums of squares are finite in float32


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

    def is_whole(self) -> bool:
        """Return whether these embeddings exist already, whole and with their index."""
        try:
            find_array(self.embeddings)
        except (OSError, ValueError):
            return False
        has_index = (self.path / INDEX).exists()
        return has_index and bool(self._read_meta("content_key") == self.content_key)

    def check_free(self) -> None:
        """Check that this job would replace no file of another job, or of none.

        Raises:
            CorpusError: If it would; unfinished rows of another job count too.
        """
        names = [EMBEDDINGS, FRAMES]
        with self._disk_errors():
            key = stored_key(self._partial)
        if key is None and self._read_meta("content_key") is None:
            names += [INDEX, META, REJECTED]
        elif key not in (None, self.content_key):
            names.append(self._partial.name)
        for path in (self.path / name for name in names):
            if path.exists():
                raise CorpusError(
                    f"{path}: is damaged, or not of this job (model, clips, --frames); choose "
                    "another folder, or --overwrite",
                    code="exists",
                    path=path,
                )

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

    def read_failed(self, num_clips: int) -> bytes:
        """Read the list of failed clips, (number, reason), from `meta.json`, as JSON.

        Raises:
            CorpusError: If it is not such a list of these clips.
        """
        failed = self._read_meta("failed") or []
        try:
            check_shape(failed, [list])
            is_list = all(type(n) is int and 0 <= n < num_clips for n, _ in failed)
        except ValueError:
            is_list = False
        if not is_list:
            path = self.path / META
            message = f"{path}: failed must list clips of this job and reasons"
            raise CorpusError(message, code="malformed", path=path, key="failed")
        return json.dumps(failed).encode()

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
            try:
                self._rows = ResumableRows(self._partial, self.content_key, marks, dim)
            except ValueError as error:
                raise CorpusError(
                    f"{self.path}: the rows of a stopped job are damaged ({error}); remove its "
                    f"{self._partial.stem}.* to begin again",
                    code="damaged",
                    path=self.path,
                ) from error
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
            replace_file(self.path / INDEX, index)
            replace_file(self.path / META, json.dumps(meta, indent=1))
            self._rows.finish(self.embeddings, is_kept)

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            message = f"{self.path}: cannot be written ({error})"
            raise CorpusError(message, code="unwritable", path=self.path) from error

    def _read_meta(self, key: str) -> Any:
        """Read a value of meta.json; None if missing."""
        try:
            return read_json(self.path / META).get(key)
        except (OSError, ValueError):
            return None


def map_embeddings(
    folder: Path, file_name: str, *columns: str
) -> tuple[FloatArray, list[list[str]]]:
    """Memory-map embeddings `(rows, D)` written by `byola-rq embed`; read columns of index.csv.

    Raises:
        OSError, ValueError: If the array is no such array or one of the columns is missing.
    """
    array = find_array(folder / file_name)
    if array.dtype.kind != "f" or len(array.shape) != 2 or 0 in array.shape:
        raise ValueError(f"embeddings must be floating point (rows, D); got {array}")
    read = csv_columns(read_text(folder / INDEX, MAX_TEXT_BYTES), *columns)
    embeddings = array.map()
    if not (embeddings.min() > -_MAX_VALUE and embeddings.max() < _MAX_VALUE):  # nor NaN
        raise ValueError(f"embeddings must be finite and below {_MAX_VALUE:g}")
    return embeddings, read


@contextlib.contextmanager
def embeddings_named(folder: Path) -> Iterator[None]:
    """Convert errors in the block, which reads embeddings, into a `CorpusError` of the folder."""
    try:
        yield
    except CorpusError:
        raise
    except (OSError, ValueError, OverflowError) as error:
        message = f"{folder}: not embeddings of `byola-rq embed` ({error})"
        raise CorpusError(message, code="foreign", path=folder) from error
