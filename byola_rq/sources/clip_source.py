"""Records of one clip's location and of the result of a search for clips."""

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from functools import lru_cache
from pathlib import Path

from byola_rq.errors import AudioError
from byola_rq.text.shown import printable

MAX_ENCODED_BYTES = 1 << 30  # of a clip in a tar or table; it is read into memory at once
LABEL_COLUMNS = ("labels", "label")  # the first that a table has is used
CUT_TOLERANCE_SECONDS = 1.0  # a file longer than its segment by more is not the cut segment


@dataclass(frozen=True, slots=True)
class ClipSource:
    """Location of a clip: an audio file, a member of a plain tar, or a row of a Parquet table.

    Args:
        clip_id: Id, unique in a listing; see `byola_rq.sources.listing`.
        file: Path of the audio file, the tar, or the Parquet file.
        offset: Byte of the tar at which the encoded audio begins; -1 if not in a tar.
        size: Length of the encoded audio in the tar, in bytes.
        row: Row of the Parquet file; -1 if not in a table.
        name: Member name, or the clip's name in the table, for messages.
        labels: Labels, separated by commas; empty if unknown.
        start_seconds: Start of the clip in the audio, in seconds.
        num_seconds: Length of the clip in seconds; -1: to the end.
        may_be_cut: True if the audio may be only the clip; `part_of` decides by its length.
    """

    clip_id: str
    _: KW_ONLY
    file: str  # text, not a Path, which takes three times the memory: there may be millions
    offset: int = -1
    size: int = -1
    row: int = -1
    name: str = ""
    labels: str = ""
    start_seconds: float = 0.0
    num_seconds: float = -1.0
    may_be_cut: bool = False

    @property
    def path(self) -> Path:
        """Path of the audio file, the tar, or the Parquet file."""
        return Path(self.file)

    def __str__(self) -> str:
        """Format as `dir/a.wav`, `t.tar::member`, `x.parquet::12 (name)`, or part `a.wav@5-15`."""
        text = self.file
        if self.row >= 0:
            text += f"::{self.row} ({self.name})" if self.name else f"::{self.row}"
        elif self.offset >= 0:
            text += f"::{self.name}"
        if self.num_seconds >= 0 or self.start_seconds > 0:
            text += part_suffix(self.start_seconds, self.num_seconds)
        return printable(text)

    def part_of(self, file_seconds: float) -> tuple[float, float]:
        """Compute the clip's start and stop in its audio, given the decoded length in seconds.

        Audio that may be the cut segment is used from its start, unless it is longer than the
        segment by more than a second: then it is the whole recording, and the segment begins at
        the time in the list.

        Returns:
            (start, stop) in seconds, `0 <= start < stop <= file_seconds`.

        Raises:
            AudioError: If the clip begins after the audio's end.
        """
        start = self.start_seconds
        if self.may_be_cut and file_seconds <= self.num_seconds + CUT_TOLERANCE_SECONDS:
            start = 0.0
        if start >= file_seconds:
            raise AudioError(
                f"{self}: the clip must begin before the end of its audio ({file_seconds:.3f} s); "
                f"it begins at {start:.3f} s",
                code="value",
                path=self.path,
                value=start,
            )
        if self.num_seconds < 0:
            return start, file_seconds
        return start, min(start + self.num_seconds, file_seconds)


@dataclass
class Listing:
    """Result of a search for clips.

    Args:
        clips: Clips in the order of the sources; within one, in an order that depends only on
            names.
        notes: Lines for the user: counts, and rules that were applied.
        duplicates: Pairs (kept, dropped) of equal clips.
        missing: Names in a list or manifest that have no file.
        damaged: Pairs (source, reason) of what exists but cannot be used.
        found: Pairs (source, number of clips in it), duplicates included.
        links: Real paths of files that are symbolic links.
    """

    clips: list[ClipSource] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    duplicates: list[tuple[str, str]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    damaged: list[tuple[str, str]] = field(default_factory=list)
    found: list[tuple[str, int]] = field(default_factory=list)
    links: dict[str, str] = field(default_factory=dict, repr=False)


def path_resolver(links: Mapping[str, str]) -> Callable[[str], str]:
    """Return a function that resolves links in a path; `links` holds the files known as links."""
    # Clips come folder by folder, so a small cache suffices.
    real_folder = lru_cache(maxsize=1024)(os.path.realpath)

    def resolve(path: str) -> str:
        folder, name = os.path.split(path)
        return links.get(path) or os.path.join(real_folder(folder), name)

    return resolve


def part_suffix(start_seconds: float, num_seconds: float) -> str:
    """Format `@start-stop` in seconds, the suffix of a clip that is part of a file."""
    stop = f"{start_seconds + num_seconds:.10g}" if num_seconds >= 0 else ""
    return f"@{start_seconds:.10g}-{stop}"


def clean_name(name: str) -> str:
    """Remove the root, `.` and `..` from a name, so that it stays below a folder."""
    return "/".join(part for part in name.split("/") if part not in {"", ".", ".."})


def joined_labels(value: object) -> str:
    """Join labels to one text, separated by commas; empty for None."""
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        value = ",".join(str(each) for each in value if each is not None)
    # Interned: many clips have the same few labels.
    return sys.intern(printable(str(value).strip()))
