"""AudioSet's segment lists, joined to files that are named after their segments.

A list is csv: three lines that begin with # (the last `# YTID, start_seconds, end_seconds,
positive_labels`), then `--4gqARaEJE, 0.000, 10.000, "/m/068hy,/m/07q6cd_"`.
"""

import csv
import math
import os
import re
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from byola_rq.audio.io import AUDIO_SUFFIXES
from byola_rq.errors import CorpusError
from byola_rq.sources.clip_source import CUT_TOLERANCE_SECONDS, ClipSource, Listing
from byola_rq.text.cells import csv_lines
from byola_rq.text.parse import open_file
from byola_rq.text.shown import printable

_NUM_SEGMENTS = re.compile(r"num_segs=(\d{1,18})")
_MOST_SECONDS = 1e9
_NUMBER = r"\d{1,12}(?:\.\d{1,12})?"
_ONE_NUMBER = re.compile(rf"(.+)_({_NUMBER})", re.DOTALL)
_TWO_NUMBERS = re.compile(rf"(.+)_({_NUMBER})[_-]({_NUMBER})", re.DOTALL)
_NUM_EXAMPLES = 3  # of surplus files, in a note

# Quality of a name's match; of two files for one segment the better match is kept.
_BY_START, _BY_ID = 0, 1


def is_segment_list(path: str) -> bool:
    """Return whether a csv file begins like AudioSet's lists."""
    try:
        with open_file(path) as file:
            return file.read(4).removeprefix(b"\xef\xbb\xbf").startswith(b"#")
    except OSError:
        return False


class SegmentList:
    """Rows of a segment list in compact columns: AudioSet's largest list has two million.

    Args:
        path: Path of the list.
        listing: Receives rows that break a rule (`damaged`) and notes.

    Raises:
        CorpusError: If the list cannot be read or holds no segment.
    """

    def __init__(self, path: str, listing: Listing) -> None:
        self.path = path
        self.starts = array("d")
        self.ends = array("d")
        self.labels: list[str] = []
        self._row_of: dict[str, int] = {}  # a YTID's first row
        self._more_rows_of: dict[str, list[int]] = {}
        announced = None
        try:
            announced = self._read(csv_lines(path), listing)
        except (OSError, csv.Error) as error:
            message = f"{path}: not a segment list that can be read ({error})"
            raise CorpusError(message, code="unreadable", path=path) from error
        if not len(self):
            raise CorpusError(
                f"{path}: no segment listed; rows must be YTID, start_seconds, end_seconds, labels",
                code="empty",
                path=path,
            )
        if announced is not None and announced != len(self):
            listing.notes.append(
                f"{printable(path)}: its header announces {announced} segments; it has {len(self)}"
            )

    def __len__(self) -> int:
        return len(self.starts)

    def _read(self, lines: Iterator[str], listing: Listing) -> int | None:
        """Fill the columns; return the number of segments that the header announces."""
        announced = None
        reader = csv.reader(lines, skipinitialspace=True, strict=True)
        for cells in reader:
            if not cells or cells[0].lstrip("# ").upper() == "YTID":
                continue
            if cells[0].startswith("#"):
                match = _NUM_SEGMENTS.search(",".join(cells))
                announced = int(match[1]) if match else announced
                continue
            try:
                self._add(cells, listing)
            except ValueError as error:
                where = f"{printable(self.path)}: line {reader.line_num}"
                listing.damaged.append((where, str(error)))
        return announced

    def _add(self, cells: list[str], listing: Listing) -> None:
        """Add a row; raise ValueError if it breaks a rule."""
        try:
            ytid, (start, end) = cells[0].strip(), (float(cells[1]), float(cells[2]))
        except (IndexError, ValueError):
            ytid, start, end = "", 0.0, 0.0
        if not ytid or not (0 <= start < end < _MOST_SECONDS):
            raise ValueError(
                "a segment must be YTID, start_seconds, end_seconds, labels, with start before "
                f"end; got {printable(','.join(cells))[:200]!r}"
            )
        row = len(self)
        first = self._row_of.setdefault(ytid, row)
        if first != row:
            rows = self._more_rows_of.setdefault(ytid, [])
            if any(self.starts[each] == start for each in (first, *rows)):
                name = f"{printable(self.path)}: {segment_id(ytid, start)}"
                listing.duplicates.append((name, name))
                return
            rows.append(row)
        self.starts.append(start)
        self.ends.append(end)
        # Interned: many segments have the same few labels.
        self.labels.append(sys.intern(printable(",".join(cells[3:]).strip())))

    def rows_named(self, stem: str) -> tuple[str, list[int], int]:
        """Find the YTID and the rows that match a file name without its suffix.

        Names are `YTID` or `YYTID`, optionally followed by `_start`, `_start_end` or `_start-end`
        in seconds (whole or with decimals) or milliseconds. A YTID may itself begin with `Y` or
        `-` and contain `_` and digits, so names are compared with the YTIDs of the list.

        Returns:
            YTID, rows (none without a match; several if the name is the YTID of several), and the
            kind of match: 0 by start, 1 by YTID alone.
        """
        readings = [stem, stem[1:]] if stem.startswith("Y") else [stem]
        for ytid in readings:
            if ytid in self._row_of:
                return ytid, self._rows_of(ytid), _BY_ID
        for pattern in (_ONE_NUMBER, _TWO_NUMBERS):
            for reading in readings:
                match = pattern.fullmatch(reading)
                if match and match[1] in self._row_of:
                    row = self._row_starting_at(match[1], match[2])
                    if row is not None:
                        return match[1], [row], _BY_START
        return "", [], _BY_ID

    def _rows_of(self, ytid: str) -> list[int]:
        return [self._row_of[ytid], *self._more_rows_of.get(ytid, [])]

    def _row_starting_at(self, ytid: str, text: str) -> int | None:
        number = float(text)
        rows = self._rows_of(ytid)
        for row in rows:
            start = self.starts[row]
            if abs(number - start) < 0.0005 or abs(number - 1000 * start) < 0.5:
                return row
        # Some names have the start in seconds without its decimals.
        return next((row for row in rows if number == math.floor(self.starts[row])), None)

    def ids_of(self, is_wanted: Callable[[int], bool]) -> list[str]:
        """Ids of the segments whose row is wanted, in the order of the list."""
        rows = [(row, ytid) for ytid, row in self._row_of.items() if is_wanted(row)]
        for ytid, more in self._more_rows_of.items():
            rows.extend((row, ytid) for row in more if is_wanted(row))
        return [segment_id(ytid, self.starts[row]) for row, ytid in sorted(rows)]


def segment_id(ytid: str, start_seconds: float) -> str:
    """Return a segment's id, independent of its file's name: YTID and start in milliseconds."""
    return f"{printable(ytid)}_{round(1000 * start_seconds)}"


def join_segments(
    segments: SegmentList, clips: Iterable[ClipSource], where: str, listing: Listing
) -> list[ClipSource]:
    """Select the clips that are segments of a list and give them its ids and labels.

    A file whose name has the start is the cut segment. One named by its YTID alone may be the cut
    segment or the whole recording: its length decides when it is decoded (`ClipSource.part_of`);
    no header is read here. Of two files for one segment, the one whose name has the start is
    kept, else the first.

    Args:
        segments: Segment list.
        clips: Clips of the source; only their base names are compared.
        where: Name of the source, for messages.
        listing: Receives segments without a file (`missing`), second files (`duplicates`) and
            counts (`notes`).

    Returns:
        Clips in the order of `clips`.

    Raises:
        CorpusError: If no segment has a file.
    """
    joined: list[ClipSource] = []
    place_of = array("q", [-1]) * len(segments)  # index in `joined` of each row's clip
    fit_of = array("b", [_BY_ID]) * len(segments)
    surplus: list[str] = []
    num_surplus = 0
    for clip in clips:
        ytid, rows, fit = segments.rows_named(_stem(clip))
        if not rows:
            num_surplus += 1
            surplus = surplus if len(surplus) == _NUM_EXAMPLES else [*surplus, str(clip)]
        for row in rows:
            # The file can be the cut segment of one row only; for others it is the whole recording.
            segment = _as_segment(segments, clip, ytid, row, fit, may_be_cut=row == rows[0])
            place = place_of[row]
            if place < 0:
                place_of[row], fit_of[row] = len(joined), fit
                joined.append(segment)
            elif fit < fit_of[row]:
                listing.duplicates.append((str(segment), str(joined[place])))
                joined[place], fit_of[row] = segment, fit
            else:
                listing.duplicates.append((str(joined[place]), str(segment)))
    some = f", like {', '.join(surplus)}" if surplus else ""
    _report(segments, place_of, listing, where=where, surplus=(num_surplus, some))
    if num_by_id := sum(clip.num_seconds >= 0 for clip in joined):
        listing.notes.append(
            f"{printable(segments.path)}: {num_by_id} files are named by their YTID alone; each "
            f"counts as the cut segment unless it is longer than the segment by more than "
            f"{CUT_TOLERANCE_SECONDS:g} s: then the segment is cut out of it"
        )
    return joined


def _as_segment(
    segments: SegmentList, clip: ClipSource, ytid: str, row: int, fit: int, *, may_be_cut: bool
) -> ClipSource:
    start, end = segments.starts[row], segments.ends[row]
    is_cut = fit == _BY_START
    return replace(
        clip,
        clip_id=segment_id(ytid, start),
        labels=segments.labels[row],
        start_seconds=0.0 if is_cut else start,
        num_seconds=-1.0 if is_cut else end - start,
        may_be_cut=may_be_cut and not is_cut,
    )


def _stem(clip: ClipSource) -> str:
    stem, suffix = os.path.splitext(os.path.basename(clip.name or clip.file))
    # The decimals of a start look like a suffix.
    return stem if suffix.lower() in AUDIO_SUFFIXES else stem + suffix


def _report(
    segments: SegmentList,
    place_of: Sequence[int],
    listing: Listing,
    *,
    where: str,
    surplus: tuple[int, str],
) -> None:
    """Record how many segments have a file, which are missing, and how many files are unused."""
    path = printable(segments.path)
    num_there = len(segments) - place_of.count(-1)
    num_surplus, some = surplus
    if not num_there:
        raise CorpusError(
            f"{path}: none of its {len(segments)} segments has a file in {where}; names must be "
            f"YTID, YYTID or YTID_start; there are {num_surplus} other files{some}",
            code="missing",
            path=segments.path,
        )
    listing.missing.extend(
        f"{path}: {name}" for name in segments.ids_of(lambda row: place_of[row] < 0)
    )
    listing.notes.append(
        f"{path}: {len(segments)} segments listed, {num_there} found, "
        f"{len(segments) - num_there} missing; {num_surplus} files in {where} match no segment "
        f"and are not used{some}"
    )
