"""Corrected input for decoders if a file's header does not state its length correctly."""

import contextlib
import io
import mmap
import struct
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, islice
from typing import BinaryIO

import soundfile

from byola_rq.audio.containers import (
    Part,
    Pieces,
    find_flac_streams,
    size_of,
    skip_id3,
    unpack_at,
)
from byola_rq.audio.encoded import MAX_SAMPLES
from byola_rq.audio.headers import pieces_with_header
from byola_rq.audio.mp3 import mp3_streams
from byola_rq.errors import AudioError


def find_pieces(file: BinaryIO, codec: str, start: int) -> Pieces:
    """Split a file into streams that decoders read to the end; empty if it needs no change.

    - MP3: split by frames; a stream without a frame count gets one.
    - Ogg and FLAC: concatenated streams, of which a decoder would read only the first.
    - WAV, AIFF and AU: if the size of the sound data is 0, or more than 4 KB that are not a chunk
      follow it, the sound extends to the end of the file; so it does in CAF without a size.
    - WAV with chunks that decoders stumble over, or whose name is BW64.
    - All but MP3: without the ID3 tags in front, with which decoders seek to wrong places.
    - FLAC without a total: decoded once to count its samples.

    Args:
        file: File that `identify_codec` accepted.
        codec: Name of its codec.
        start: Offset of the first frame of an MP3 file.

    Raises:
        AudioError: Without the file's name: if the streams cannot be read as one sound.
        OSError, EOFError: If the file cannot be read or ends early.
    """
    tag = skip_id3(file)
    file.seek(tag)
    head = file.read(12)
    if codec == "MP3":
        with _whole(file) as data:
            streams = mp3_streams(data, start)
        file.seek(5)
        has_footer = tag and file.read(1)[0] & 0x10  # of which libsndfile knows nothing
        is_whole = len(streams) < 2 and all(len(parts) == 1 for parts in streams)
        if start == tag and is_whole and not has_footer:
            return ()
        return tuple(streams) or (((start, size_of(file) - start),),)
    pieces: Pieces = (((tag, size_of(file) - tag),),) if tag else ()
    with contextlib.suppress(EOFError):
        pieces = _pieces_behind(file, tag, head) or pieces
    return pieces


def _pieces_behind(file: BinaryIO, tag: int, head: bytes) -> Pieces:
    if head[:4] == b"OggS":
        with _whole(file) as data:
            return _ogg_pieces(data, tag)
    if head[:4] == b"fLaC":
        return _flac_pieces(file, tag)
    return pieces_with_header(file, tag, head)


@contextlib.contextmanager
def _whole(file: BinaryIO) -> Iterator[bytes | mmap.mmap]:
    if isinstance(file, io.BytesIO):
        yield file.getvalue()  # not a copy
    else:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data


def _ogg_pieces(data: bytes | mmap.mmap, start: int) -> Pieces:
    """Split concatenated Ogg streams: a first page after one that is not begins a stream."""
    begins: list[int] = []
    position, was_first = start, False
    while 0 <= (position := data.find(b"OggS\0", position)) <= len(data) - 27:
        is_first = bool(data[position + 5] & 2)
        if is_first and not was_first:
            begins.append(position)
        was_first = is_first
        table = data[position + 27 : position + 27 + data[position + 26]]
        position += 27 + len(table) + sum(table)
    if len(begins) < 2:
        return ()
    ends = [*begins[1:], len(data)]
    return tuple(((begin, end - begin),) for begin, end in zip(begins, ends, strict=True))


def _flac_pieces(file: BinaryIO, start: int) -> Pieces:
    """Split concatenated FLAC streams, each with its length stated."""
    # The whole file is searched: seeking to the end of one stream may reach that of another.
    begins = [start, *find_flac_streams(file, start + 4)]
    ends = [*begins[1:], size_of(file)]
    parts = [(begin, end - begin) for begin, end in zip(begins, ends, strict=True)]
    if len(parts) > 1:
        _check_ends(file, parts)
    elif _stated_samples(file, start):
        return ()
    return tuple(_sized_flac(file, *part) for part in parts)


def _stated_samples(file: BinaryIO, begin: int) -> int:
    """Read a stream's length in samples: the last 36 bits of bytes 18 to 25; 0 if unknown."""
    return int(unpack_at(file, begin + 18, ">Q")[0]) & (MAX_SAMPLES - 1)


def _check_ends(file: BinaryIO, parts: Sequence[tuple[int, int]]) -> None:
    """Raise if the last sample of a stream does not decode."""
    for part in parts:
        last, is_whole = _stated_samples(file, part[0]) - 1, False
        broken = contextlib.suppress(soundfile.SoundFileError, RuntimeError)
        with broken, soundfile.SoundFile(SplicedFile(file, [part])) as sound:
            is_whole = last < 0 or (sound.seek(last), len(sound.read(1)))[1] == 1
        if not is_whole:
            rule = f"cut short: sample {last} of the part at byte {part[0]} does not decode"
            raise AudioError(rule, code="cut")


def _sized_flac(file: BinaryIO, begin: int, num_bytes: int) -> tuple[Part, ...]:
    """Parts of a stream; if it states no total, it is decoded once to count its samples."""
    place = begin + 18
    whole: tuple[Part, ...] = ((begin, num_bytes),)
    if _stated_samples(file, begin):
        return whole
    count = 0
    broken = contextlib.suppress(soundfile.SoundFileError, RuntimeError)
    with broken, soundfile.SoundFile(SplicedFile(file, whole)) as sound:
        sound.seekable = lambda: False  # seeking fails where no length is stated
        while num := len(sound.read(2**17, dtype="int32", always_2d=True)):
            count += num
    if not 0 < count < MAX_SAMPLES:
        return whole  # opening it reports the cause
    (bits,) = unpack_at(file, place, ">Q")
    stated = struct.pack(">Q", bits | count)
    return ((begin, 18), stated, (place + 8, num_bytes - 26))


class SplicedFile:
    """Parts of a file and literal bytes, read as one file with the methods that soundfile uses."""

    def __init__(self, file: BinaryIO, parts: Sequence[Part]) -> None:
        self._file = file
        self._parts = parts
        lengths = [len(part) if isinstance(part, bytes) else part[1] for part in parts]
        self._ends = list(accumulate(lengths))
        self._position = 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move the position, in bytes, and return it."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._ends[-1]}
        self._position = max(base[whence] + offset, 0)
        return self._position

    def tell(self) -> int:
        """Position in bytes."""
        return self._position

    def read(self, num_bytes: int) -> bytes:
        """Read the next bytes; fewer at the end."""
        pieces = []
        first_part = bisect_right(self._ends, self._position)
        for part, end in islice(zip(self._parts, self._ends, strict=True), first_part, None):
            if num_bytes <= 0:
                break
            wanted = min(num_bytes, end - self._position)
            if isinstance(part, bytes):
                first = self._position - (end - len(part))
                piece = part[first : first + wanted]
            else:
                self._file.seek(part[0] + self._position - (end - part[1]))
                piece = self._file.read(wanted)
            pieces.append(piece)
            self._position += len(piece)
            num_bytes -= len(piece)
        return b"".join(pieces)
