"""quarantine.csv: the clips that training could not read, and what took their place."""

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

_SAID_EACH = 10  # clips that have a line of their own; those after them are counted


class Quarantine:
    """The clips that a run, in all its parts, could not read; a full disk loses none of them.

    One row per clip, when it is met first. `replaced_by` is empty for clips that could not be read
    at the start, which are left out; for the others it names what took their place that time: it
    may be another one in another epoch. The file is rewritten whole: there are at most 1 % of the
    clips in it, and new ones are rare.

    Args:
        path: Of the file; there is none before it has a row.
        clips: What the run learns from.
        say: Prints a line.

    Raises:
        CheckpointError: If the file is there and cannot be read, or has other columns.
    """

    def __init__(self, path: Path, clips: Clips, say: Callable[[str], None]) -> None:
        self.path = path
        self._clips = clips
        self._say = say
        self._rows = {row["clip"]: row for row in _read_rows(path)}
        self._seen: set[int] = set()  # what was added already: it needs no name again
        self._num_said = 0
        self._is_written = True

    def __len__(self) -> int:
        return len(self._rows)

    def add_unreadable(self, unreadable: Iterable[tuple[ClipSource, str]]) -> None:
        """Take in the clips that `measure_readable_clips` left out, with one line about them all.

        Args:
            unreadable: (source, reason) of each.
        """
        rows = [_row(str(source), "", reason) for source, reason in unreadable]
        self._take(rows)
        self._write()
        if rows:
            others = f" (and {len(rows) - 1} more clips like it)" if len(rows) > 1 else ""
            self._say(
                f"warning: {rows[0]['clip']}: {rows[0]['reason']}; it is left out{others}, "
                f"{self.path} names what is"
            )

    def add(self, replacements: Iterable[Sequence[Any]]) -> None:
        """Take in what was replaced; also writes the rows that the disk refused before.

        Args:
            replacements: (clip index, index of what took its place, reason) of each, as
                `byola_rq.corpus.segments.Replacement` or what JSON makes of it; known ones may be
                among them.

        Raises:
            TrainingError: If there are any, and by now more than 1 % of the clips, and more than
                one, are broken.
        """
        found: dict[int, tuple[int, str]] = {}
        for index, replaced_by, reason in replacements:
            found.setdefault(int(index), (int(replaced_by), str(reason)))
        rows = self._rows_of({index: found[index] for index in found if index not in self._seen})
        self._seen.update(found)
        self._say_new(self._take(rows))
        self._write()
        if found:
            self._refuse_many()

    def _rows_of(self, found: dict[int, tuple[int, str]]) -> list[dict[str, str]]:
        if not found:  # names are looked up only where there is something to name
            return []
        indices = [*found, *(replaced_by for replaced_by, _ in found.values())]
        names = self._clips.names(np.array(indices))
        reasons = [reason for _, reason in found.values()]
        columns = (names[: len(found)], names[len(found) :], reasons)
        return [_row(*values) for values in zip(*columns, strict=True)]

    def _take(self, rows: Iterable[dict[str, str]]) -> list[dict[str, str]]:
        """Keep the rows of clips that have none yet, and give them back."""
        new = [row for row in rows if row["clip"] not in self._rows]
        self._rows.update({row["clip"]: row for row in new})
        self._is_written &= not new
        return new

    def _say_new(self, rows: Sequence[dict[str, str]]) -> None:
        num_said = min(_SAID_EACH - self._num_said, len(rows))
        self._num_said += num_said
        for row in rows[:num_said]:
            self._say(
                f"warning: {row['clip']}: {row['reason']}; {row['replaced_by']} takes its place"
            )
        if num_more := len(rows) - num_said:
            self._say(
                f"warning: {num_more} more clips cannot be decoded, {len(self)} of "
                f"{self._num_clips} by now; {self.path} names them"
            )

    def _write(self) -> None:
        """Write the file where there is news; what the disk refuses comes with the next call."""
        if self._is_written:
            return
        rows = ([row[name] for name in QUARANTINE_COLUMNS] for row in self._rows.values())
        try:
            replace_file(self.path, csv_text([QUARANTINE_COLUMNS, *rows], "\r\n"))
            self._is_written = True
        except OSError as error:
            self._say(
                f"WARNING: {self.path}: cannot be written ({error}). Training goes on; "
                "its rows are written when they can be"
            )

    @property
    def _num_clips(self) -> int:
        """Those of the run, and those left out at its start."""
        return len(self._clips) + sum(not row["replaced_by"] for row in self._rows.values())

    def _refuse_many(self) -> None:
        if is_too_many(len(self), self._num_clips):
            message = (
                f"{self.path.parent}: {len(self)} of {self._num_clips} clips cannot be decoded, "
                f"and at most 1 % may be replaced; {self.path} names them. Put them right (are "
                "all disks there?), delete that file, and the same command goes on; or pack what "
                "can be read with `byola-rq prepare`, for a new run.dir"
            )
            raise TrainingError(message, code="too-many", path=self.path, value=len(self))


def _row(clip: str, replaced_by: str, reason: str) -> dict[str, str]:
    return dict(zip(QUARANTINE_COLUMNS, (clip, replaced_by, reason), strict=True))


def _read_rows(path: Path) -> list[dict[str, str]]:
    """Rows of the run so far; none where there is no file."""
    try:
        names, *rows = csv_rows(read_text(path, MAX_TEXT_BYTES)) or [QUARANTINE_COLUMNS]
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        message = f"{path}: cannot be read ({error}); delete it"
        raise CheckpointError(message, code="unreadable", path=path) from error
    if names != QUARANTINE_COLUMNS or any(len(row) != len(names) for row in rows):
        message = (
            f"{path}: every row must have the columns {', '.join(QUARANTINE_COLUMNS)}, and no "
            "other; this one does not. Delete it"
        )
        raise CheckpointError(message, code="malformed", path=path)
    return [dict(zip(names, row, strict=True)) for row in rows]
