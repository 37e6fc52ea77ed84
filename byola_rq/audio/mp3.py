"""MP3 frames, frame counts, and files of several concatenated streams."""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice, pairwise
from mmap import mmap

from byola_rq.audio.containers import Part, mp3_frame_length, tag_length
from byola_rq.errors import AudioError

Data = bytes | mmap

_MAX_FRAME = 1441  # bytes: 320 kbit/s at 32 kHz
_MAX_TRIES = 65_536  # false frame headers; a malicious file is full of them
_TOLERATED_FRAMES = 4  # 0.1 s: encoders count differently


@dataclass
class _Stream:
    """Frames of one form; `stated` is the count in its Xing or Info frame, -1 without one."""

    form: tuple[int, ...]
    header: bytes
    stated: int
    info: tuple[int, int] | None
    count: int = 0
    spans: list[tuple[int, int]] = field(default_factory=list)

    def add(self, place: int, length: int) -> None:
        self.count += 1
        if self.spans and sum(self.spans[-1]) == place:
            self.spans[-1] = self.spans[-1][0], self.spans[-1][1] + length
        else:
            self.spans.append((place, length))

    def parts(self) -> tuple[Part, ...]:
        """Parts for the decoder, beginning with an Info frame whose count is right."""
        if self.info is None or not -_TOLERATED_FRAMES <= self.count - self.stated <= 1:
            return (_info_frame(self.header, self.count), *self.spans)
        (place, length), *others = self.spans
        if sum(self.info) == place:  # adjacent: one part
            return ((self.info[0], self.info[1] + length), *others)
        return (self.info, *self.spans)


def mp3_streams(data: Data, start: int) -> list[tuple[Part, ...]]:
    """Split a file into streams for the decoder, each with a correct frame count.

    A stream without a Xing or Info frame gets one: without it a decoder estimates the length from
    the first frame's bit rate. Every such frame begins a new stream, as in concatenated files.

    Args:
        data: The whole file.
        start: Offset of its first frame.

    Returns:
        Parts of each stream; empty if no frame is recognized.

    Raises:
        AudioError: If a stream has fewer frames than it states.
    """
    streams: list[_Stream] = []
    for place, length, form in walk_frames(data, start):
        stated = _stated_frames(data[place : place + 64])
        if not streams or stated is not None or form != streams[-1].form:
            info = None if stated is None else (place, length)
            header = data[place : place + 4]
            streams.append(_Stream(form, header, -1 if stated is None else stated, info))
        if stated is None:
            streams[-1].add(place, length)
    # One or two frames of another form are false matches.
    kept = [each for each in streams if each.count > 2 or each.form == streams[0].form]
    kept = [each for each in kept if each.count]
    for each in kept:
        if each.stated > each.count + _TOLERATED_FRAMES:
            rule = f"damaged: {each.count} of {each.stated} MP3 frames are there"
            raise AudioError(rule, code="damaged", value=each.count)
    return [each.parts() for each in kept]


def walk_frames(data: Data, start: int) -> Iterator[tuple[int, int, tuple[int, ...]]]:
    """Iterate over whole frames: offset, length, form (version, rate, mono); junk is skipped.

    After junk a frame counts only if another one follows it: bytes of an embedded picture often
    look like a frame header.
    """
    position, in_sync, tries = start, True, 0
    while 0 <= position < len(data) - 3 and tries < _MAX_TRIES:
        header = data[position : position + 4]
        length, form = mp3_frame_length(header[:3]), form_of(header)
        end = position + (length or 0)
        if length and end <= len(data) and (in_sync or form_of(data[end : end + 4]) == form):
            yield position, length, form
            position, in_sync = end, True
            continue
        in_sync = False
        if tag := tag_length(data[position : position + 10]):
            position += tag
            continue
        tries += 1
        position = data.find(b"\xff", position + 1)


def begin_of_stream(data: Data) -> int:
    """Return the offset of the first four frames in a row, behind at most one; -1 without them."""
    frames = [(place, length) for place, length, _ in islice(walk_frames(data, 0), 4)]
    are_adjacent = all(sum(each) == after[0] for each, after in pairwise(frames))
    return frames[0][0] if len(frames) == 4 and are_adjacent and frames[0][0] <= _MAX_FRAME else -1


def form_of(header: bytes) -> tuple[int, ...]:
    """Return what all frames of a stream share (version, rate, mono); empty if no header."""
    if len(header) < 4 or mp3_frame_length(header[:3]) is None:
        return ()
    return header[1] >> 3 & 3, header[2] >> 2 & 3, int(header[3] >> 6 == 3)


def _side_bytes(header: bytes) -> int:
    """Length in bytes of a frame's header and side information; the sound or tag follows."""
    is_mono = header[3] >> 6 == 3
    side = (17 if is_mono else 32) if header[1] >> 3 & 3 == 3 else (9 if is_mono else 17)
    return 4 + side


def _stated_frames(frame: bytes) -> int | None:
    """Read the count in a Xing, Info or VBRI frame, 0 if absent; None for a frame of sound."""
    if frame[36:40] == b"VBRI":
        return 0  # decoders ignore it
    place = _side_bytes(frame)
    for tag in (frame[place:], frame[place + 2 :]):  # a checksum may precede it
        if re.match(rb"Xing|Info", tag) and len(tag) >= 12:
            flags, count = struct.unpack(">2I", tag[4:12])
            return int(count) if flags & 1 else 0
    return None


def _info_frame(header: bytes, count: int) -> bytes:
    """Build an Info frame of a stream's form that states the number of frames that follow."""
    own = bytes((0xFF, header[1] | 1, 0x90 | header[2] & 0x0C, header[3]))
    tag = b"Info" + struct.pack(">2I", 1, count)
    return (own + bytes(_side_bytes(own) - 4) + tag).ljust(mp3_frame_length(own[:3]) or 0, b"\0")
