"""quarantine.csv: clips that training could not read, and their replacements."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from byola_rq.corpus.clips import Clips
from byola_rq.corpus.decoded_clips import is_too_many
from byola_rq.errors import CheckpointError, TrainingError
from byola_rq.runtime.files import replace_file
from byola_rq.sources.clip_source import ClipSource
from byola_rq.text.cells import csv_rows, csv_text
from byola_rq.text.parse import MAX_TEXT_BYTES, read_text

QUARANTINE_COLUMNS = ["clip", "replaced_by", "reason"]

Rows = dict[str, tuple[str, str]]  # clip -> (replaced_by, reason)

_LOGGED_EACH = 10  # clips with a line of their own; later ones are counted


class Quarantine:
    """Clips that a run could not read, also before it was resumed; a full disk loses no row.

    One row per clip. `replaced_by` is empty for clips that could not be read at the start and are
    left out. Otherwise it names the first replacement; another epoch may have another one. The file
    is always rewritten whole: it has at most 1 % of the clips, and new ones are rare.

    Args:
        path: Path of the file, which is created with its first row.
        clips: Clips of the run.
        log: Prints a line.

    Raises:
        CheckpointError: If the file exists and cannot be read, or has other columns.
    """

    def __init__(self, path: Path, clips: Clips, log: Callable[[str], None]) -> None:
        self.path = path
        self._clips = clips
        self._log = log
        self._rows = _read_rows(path)
        self._seen: set[int] = set()  # indices already added
        self._num_logged = 0
        self._is_written = True

    def __len__(self) -> int:
        return len(self._rows)

    def add_unreadable(self, unreadable: Iterable[tuple[ClipSource, str]]) -> None:
        """Add the clips left out by `measure_readable_clips`, and print one line about all of them.

        Args:
            unreadable: (source, reason) of each clip.
        """
        rows = {str(source): ("", reason) for source, reason in unreadable}
        self._take(rows)
        self._write()
        if rows:
            clip, (_, reason) = next(iter(rows.items()))
            others = f" (and {len(rows) - 1} more clips like it)" if len(rows) > 1 else ""
            self._log(f"warning: {clip}: {reason}; it is left out{others}, see {self.path}")

    def add(self, replacements: Iterable[Sequence[Any]]) -> None:
        """Add replaced clips; also writes rows that the disk could not take before.

        Args:
            replacements: (clip index, index of the replacement, reason) of each clip, as
                `byola_rq.corpus.segments.Replacement` or as parsed JSON; known clips are skipped.

        Raises:
            TrainingError: If there are any, and more than 1 % of the clips so far, and more than
                one, are broken.
        """
        found: dict[int, tuple[int, str]] = {}
        for index, replaced_by, reason in replacements:
            found.setdefault(int(index), (int(replaced_by), str(reason)))
        rows = self._rows_of({index: found[index] for index in found if index not in self._seen})
        self._seen.update(found)
        self._log_new(self._take(rows))
        self._write()
        if found:
            self._check_count()

    def _rows_of(self, found: dict[int, tuple[int, str]]) -> Rows:
        if not found:  # looking up names is expensive
            return {}
        indices = [*found, *(replaced_by for replaced_by, _ in found.values())]
        names = self._clips.names(np.array(indices))
        reasons = [reason for _, reason in found.values()]
        pairs = zip(names[len(found) :], reasons, strict=True)
        return dict(zip(names[: len(found)], pairs, strict=True))

    def _take(self, rows: Rows) -> Rows:
        """Store and return the rows of clips that are new."""
        new = {clip: row for clip, row in rows.items() if clip not in self._rows}
        self._rows.update(new)
        self._is_written &= not new
        return new

    def _log_new(self, rows: Rows) -> None:
        num_logged = min(_LOGGED_EACH - self._num_logged, len(rows))
        self._num_logged += num_logged
        for clip, (replaced_by, reason) in list(rows.items())[:num_logged]:
            self._log(f"warning: {clip}: {reason}; {replaced_by} takes its place")
        if num_more := len(rows) - num_logged:
            self._log(
                f"warning: {num_more} more clips cannot be decoded, {len(self)} of "
                f"{self._num_clips} by now; {self.path} names them"
            )

    def _write(self) -> None:
        """Write the file if it has changed; on failure the next call tries again."""
        if self._is_written:
            return
        rows = ((clip, *row) for clip, row in self._rows.items())
        try:
            replace_file(self.path, csv_text([QUARANTINE_COLUMNS, *rows], "\r\n"))
            self._is_written = True
        except OSError as error:
            self._log(
                f"WARNING: {self.path}: cannot be written ({error}). Training continues; "
                "its rows are kept for the next attempt"
            )

    @property
    def _num_clips(self) -> int:
        """Number of the run's clips, including those left out at its start."""
        return len(self._clips) + sum(not replaced_by for replaced_by, _ in self._rows.values())

    def _check_count(self) -> None:
        if is_too_many(len(self), self._num_clips):
            message = (
                f"{self.path.parent}: {len(self)} of {self._num_clips} clips cannot be decoded, "
                f"and at most 1 % may be replaced; {self.path} names them. Fix them (are all "
                "disks mounted?), delete that file and run the same command again; or pack what "
                "can be read with `byola-rq prepare`, for a new run.dir"
            )
            raise TrainingError(message, code="too-many", path=self.path, value=len(self))


def _read_rows(path: Path) -> Rows:
    """Read the rows of the run so far; empty if there is no file."""
    try:
        names, *rows = csv_rows(read_text(path, MAX_TEXT_BYTES)) or [QUARANTINE_COLUMNS]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        message = f"{path}: cannot be read ({error}); delete the file"
        raise CheckpointError(message, code="unreadable", path=path) from error
    if names != QUARANTINE_COLUMNS or any(len(row) != len(names) for row in rows):
        message = (
            f"{path}: every row must have exactly the columns {', '.join(QUARANTINE_COLUMNS)}. "
            "Delete the file"
        )
        raise CheckpointError(message, code="malformed", path=path)
    return {clip: (replaced_by, reason) for clip, replaced_by, reason in rows}
