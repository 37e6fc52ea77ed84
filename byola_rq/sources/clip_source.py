"""Where one clip's encoded audio is, and what a search for clips found."""

import sys
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path

from byola_rq.audio.encoded import printable
from byola_rq.errors import AudioError

__all__ = ["printable"]  # and all that is defined here

MAX_ENCODED_BYTES = 1 << 30  # of a clip in a tar or table; it is held in memory whole
LABEL_COLUMNS = ("labels", "label")  # the first that a table has
CUT_TOLERANCE_SECONDS = 1.0  # a file longer than its segment by more is not the cut segment


@dataclass(frozen=True, slots=True)
class ClipSource:
    """One clip: an audio file, a member of a plain tar, or a row of a Parquet table.

    Args:
        clip_id: Unique in a listing; see `byola_rq.sources.listing`.
        file: The audio file, the tar, or the Parquet file.
        offset: Byte of the tar at which the encoded audio begins; -1: not a tar's member.
        size: Its bytes in the tar.
        row: Row of the Parquet file; -1: not a table's row.
        name: Member name or the table's own name for the clip, for messages.
        labels: Joined by commas, where known.
        start_seconds: Where in the audio the clip begins.
        num_seconds: How long it is; -1: to the end.
        may_be_cut: The audio may hold nothing but the clip; its length tells (see `part_of`).
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
        """The audio file, the tar, or the Parquet file."""
        return Path(self.file)

    def __str__(self) -> str:
        """`dir/a.wav`, `shard.tar::member`, `x.parquet::12 (name)`; a part `dir/a.wav@5-15`."""
        text = self.file
        if self.row >= 0:
            text += f"::{self.row} ({self.name})" if self.name else f"::{self.row}"
        elif self.offset >= 0:
            text += f"::{self.name}"
        if self.num_seconds >= 0 or self.start_seconds > 0:
            text += part_suffix(self.start_seconds, self.num_seconds)
        return printable(text)

    def part_of(self, file_seconds: float) -> tuple[float, float]:
        """The clip's begin and end in its audio, whose length the decoder has just learned.

        Audio that may be the cut segment is taken from its start, unless it is longer than the
        segment by more than a second: then it is the whole recording, and the segment is where
        the list says.

        Returns:
            (start, stop) in seconds, `0 <= start < stop <= file_seconds`.

        Raises:
            AudioError: If the clip begins behind the audio's end.
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
    """What was found, and what was not.

    Args:
        clips: In the order of the sources; within one, in an order that only names decide.
        notes: Lines for the user: counts, and rules that were applied.
        duplicates: (kept, dropped) of what came twice.
        missing: What a list or manifest names and is not there.
        damaged: (source, reason) of what is there and cannot be used.
        found: (source, clips found in it), the same clip again included.
        links: Files that are symbolic links, with their real paths.
    """

    clips: list[ClipSource] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    duplicates: list[tuple[str, str]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    damaged: list[tuple[str, str]] = field(default_factory=list)
    found: list[tuple[str, int]] = field(default_factory=list)
    links: dict[str, str] = field(default_factory=dict, repr=False)


def part_suffix(start_seconds: float, num_seconds: float) -> str:
    """`@start-stop` in seconds, as it stands behind the name of a clip that is part of a file."""
    stop = f"{start_seconds + num_seconds:.10g}" if num_seconds >= 0 else ""
    return f"@{start_seconds:.10g}-{stop}"


def clean_name(name: str) -> str:
    """A relative name without the parts that lead out of a folder: no root, no `.`, no `..`."""
    return "/".join(part for part in name.split("/") if part not in {"", ".", ".."})


def joined_labels(value: object) -> str:
    """Labels as one text: lists joined by commas, nothing as nothing."""
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        value = ",".join(str(each) for each in value if each is not None)
    # Interned: many clips have the same few labels.
    return sys.intern(printable(str(value).strip()))
