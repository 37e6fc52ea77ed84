"""Cache of embeddings and statistics, keyed by all they were computed from."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from byola_rq.audio.frontend import Statistics
from byola_rq.runtime.files import own_folder, replace_file
from byola_rq.runtime.resumable_rows import ResumableRows
from byola_rq.text.parse import read_json
from evaluate.tasks.task import Clip, Task, TaskError

ClipKeys = npt.NDArray[np.uint8]  # (N, 16)

_KEY_BYTES = 16


def make_clip_keys(clips: Sequence[Clip]) -> ClipKeys:
    """Digest path, member, start, file size and times of last change of each clip, `(N, 16)`.

    The change time (ctime) is included because copying and unpacking tools reset the modification
    time: a rewritten file always gets another key.

    Raises:
        TaskError: If a file cannot be found.
    """
    keys = np.empty((len(clips), _KEY_BYTES), dtype=np.uint8)
    statuses: dict[Path, tuple[int, int, int]] = {}  # an archive holds many clips
    for position, clip in enumerate(clips):
        if clip.path not in statuses:
            try:
                status = clip.path.stat()
            except OSError as error:
                raise TaskError(
                    f"{clip.path}: cannot be read: {error.strerror}",
                    code="unreadable",
                    path=clip.path,
                ) from error
            statuses[clip.path] = (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        place = (os.path.abspath(clip.path), clip.member, clip.start_seconds)
        digest = hashlib.blake2b(repr((place, statuses[clip.path])).encode(), digest_size=16)
        keys[position] = np.frombuffer(digest.digest(), dtype=np.uint8)
    return keys


def digest_places(clips: Sequence[Clip]) -> str:
    """Return the SHA-256 of the clips' places, regardless of file contents."""
    digest = hashlib.sha256()
    for clip in clips:
        place = (os.path.abspath(clip.path), clip.member, clip.start_seconds)
        digest.update(repr(place).encode())
    return digest.hexdigest()


def digest_task(task: Task, clip_keys: ClipKeys) -> str:
    """Return the SHA-256 of all that a score depends on: files, labels, parts, unit."""
    digest = hashlib.sha256(clip_keys.tobytes())
    facts = (task.name, task.has_folds, task.is_multilabel, task.unit_seconds, task.split_rule)
    digest.update(repr(facts).encode())
    for clip in task.clips:
        row = f"{clip.file_name}\0{clip.label}\0{clip.part}\0"
        digest.update(row.encode(errors="surrogateescape"))  # names are bytes
    return digest.hexdigest()


class EmbeddingCache:
    """Folder of embeddings `(N, D)`, one subfolder for each model and list of clips.

    A row is valid only while its clip has the key with which it was written. So a changed file or
    model never gets an old embedding. Finished rows of a killed call are reused. The folder may be
    deleted between calls.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def open_rows(self, key: Mapping[str, Any], clip_keys: ClipKeys, dim: int) -> "CachedRows":
        """Open the rows of a model and list of clips, with those that earlier calls finished.

        Args:
            key: Facts that decide an embedding apart from the clip: JSON values.
            clip_keys: Keys of the clips in the order of the rows, `(N, 16)`.
            dim: Embedding size `D`.

        Raises:
            TaskError: If the folder cannot be used.
        """
        full_key = {**key, "rows": len(clip_keys), "dim": dim}
        return CachedRows(self.folder / _digest(full_key)[:32], full_key, clip_keys, dim)

    def read_statistics(self, key: Mapping[str, Any]) -> Statistics | None:
        """Return the statistics stored under `key`; None if missing or unreadable."""
        try:
            values = read_json(self._statistics_path(key), {"mean": float, "std": float})
            return Statistics(mean=float(values["mean"]), std=float(values["std"]))
        except (OSError, ValueError):
            return None

    def write_statistics(self, key: Mapping[str, Any], statistics: Statistics) -> None:
        """Store statistics under `key`.

        Raises:
            TaskError: If the folder cannot be written.
        """
        path = self._statistics_path(key)
        with _clear_errors(path):
            own_folder(path.parent)
            replace_file(path, json.dumps(asdict(statistics)))

    def _statistics_path(self, key: Mapping[str, Any]) -> Path:
        return self.folder / "statistics" / f"{_digest(key)[:32]}.json"


class CachedRows:
    """Embeddings of one model and one list of clips.

    Attributes:
        embeddings: Float32 `(N, D)`, read-only; unfinished rows are undefined.
    """

    def __init__(self, folder: Path, key: Mapping[str, Any], clip_keys: ClipKeys, dim: int) -> None:
        self._folder = folder
        text = json.dumps(key, indent=1, sort_keys=True)
        with _clear_errors(folder):
            self._rows = ResumableRows(folder / "embeddings.npy", text, clip_keys, dim)
        self.embeddings = self._rows.array

    @property
    def missing(self) -> list[int]:
        """Positions of the rows that are not finished."""
        return np.flatnonzero(~self._rows.is_done).tolist()

    def write(self, positions: Sequence[int], embeddings: npt.NDArray[np.float32]) -> None:
        """Store the rows at `positions`; they are valid from the next `sync`.

        Raises:
            TaskError: If they cannot be written.
        """
        with _clear_errors(self._folder):
            self._rows.add(positions, embeddings)

    def sync(self) -> None:
        """Flush every row written so far, so that it survives a power cut.

        Raises:
            TaskError: If they cannot be written.
        """
        with _clear_errors(self._folder):
            self._rows.flush()


def _digest(key: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


@contextmanager
def _clear_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise TaskError(
            f"{path}: embeddings cannot be stored ({reason}); --cache names another folder",
            code="unwritable" if isinstance(error, OSError) else "damaged",
            path=path,
        ) from error
