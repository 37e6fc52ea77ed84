"""What a decoder is given of a file whose own header does not say how much sound there is."""

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
    chunk_order,
    find_flac_streams,
    joined,
    skip_id3,
    unpack_at,
    walk_caf,
    walk_chunks,
    walk_w64,
)
from byola_rq.audio.encoded import MAX_SAMPLES
from byola_rq.audio.mp3 import mp3_streams
from byola_rq.errors import AudioError

Pieces = tuple[tuple[Part, ...], ...]

_TOLERATED_BYTES = 4096  # behind the sound, of anything: writers leave odd things there
_NO_SOUND = (b"ID3", b"TAG", b"APETAGEX", b"LYRICSBEGIN")


def find_pieces(file: BinaryIO, codec: str, start: int) -> Pieces:
    """Cut a file into what decoders read to its end; empty where they do so by themselves.

    - MP3: by its frames; a stream without a count of them gets one.
    - Ogg and FLAC: streams one behind the other, of which a decoder reads the first.
    - WAV and AIFF: a size of the sound data that is 0, or behind which more than 4 KB follow that
      are no chunk: then the sound goes to the end. So does AU's.
    - FLAC without a total: it is decoded once and counted.

    Args:
        file: What `identify_codec` has let pass.
        codec: Its name.
        start: The first frame of an MP3 file.

    Raises:
        AudioError: Without the file's name: if what follows cannot be read as one sound.
        OSError, EOFError: As reading.
    """
    tag = skip_id3(file)
    file.seek(tag)
    head = file.read(12)
    if codec == "MP3":
        with _whole(file) as data:
            streams = mp3_streams(data, start)
        if start == tag and all(len(parts) == 1 for parts in streams) and len(streams) < 2:
            return ()
        return tuple(streams) or (((start, _size(file) - start),),)
    if head[:4] == b"OggS":
        with _whole(file) as data:
            return _ogg_pieces(data, tag)
    if head[:4] == b"fLaC":
        return _flac_pieces(file, tag)
    size_at = _wrong_size(file, tag, head)
    return _to_the_end(file, *size_at) if size_at else ()


@contextlib.contextmanager
def _whole(file: BinaryIO) -> Iterator[bytes | mmap.mmap]:
    if isinstance(file, io.BytesIO):
        yield file.getvalue()  # not a copy
    else:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data


def _size(file: BinaryIO) -> int:
    return file.seek(0, io.SEEK_END)


def _ogg_pieces(data: bytes | mmap.mmap, start: int) -> Pieces:
    """A stream begins where pages that begin one follow pages that do not."""
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
    """Streams, each with its length stated: 36 bits behind the marker and 14 bytes and a half."""
    # All of the file is looked through: a seek to the end of the first may come to that of another.
    begins = [start, *find_flac_streams(file, start + 4)]
    ends = [*begins[1:], _size(file)]
    parts = [(begin, end - begin) for begin, end in zip(begins, ends, strict=True)]
    if len(parts) > 1:
        _check_ends(file, parts)
    elif _stated_samples(file, start):
        return ()
    return tuple(_sized_flac(file, *part) for part in parts)


def _stated_samples(file: BinaryIO, begin: int) -> int:
    return int(unpack_at(file, begin + 18, ">Q")[0]) & (MAX_SAMPLES - 1)


def _check_ends(file: BinaryIO, parts: Sequence[tuple[int, int]]) -> None:
    """Refuse a stream of which the last sample does not decode."""
    for part in parts:
        last, is_whole = _stated_samples(file, part[0]) - 1, False
        broken = contextlib.suppress(soundfile.SoundFileError, RuntimeError)
        with broken, soundfile.SoundFile(SplicedFile(file, [part])) as sound:
            is_whole = last < 0 or (sound.seek(last), len(sound.read(1)))[1] == 1
        if not is_whole:
            rule = f"cut short: sample {last} of the part at byte {part[0]} does not decode"
            raise AudioError(rule, code="cut")


def _sized_flac(file: BinaryIO, begin: int, num_bytes: int) -> tuple[Part, ...]:
    """A stream; one without a total is decoded once and counted."""
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
        return whole  # opening it says what is wrong
    (bits,) = unpack_at(file, place, ">Q")
    stated = struct.pack(">Q", bits | count)
    return ((begin, 18), stated, (place + 8, num_bytes - 26))


def _wrong_size(file: BinaryIO, start: int, head: bytes) -> tuple[int, int, str] | None:
    """Place of the size of the sound data where it is wrong, of the data, and the byte order."""
    for magic, walk in ((b"caff", walk_caf), (b"riff", walk_w64)):
        for name, _, place in walk(file) if head.startswith(magic) else ():
            if name == magic:
                raise joined(place)
    order, name, least = chunk_order(head), b"data" if head[8:] == b"WAVE" else b"SSND", 0
    if name == b"SSND":
        least = 8  # before the sound: offset and block size
    if head[:4] in {b".snd", b"dns."}:
        order = ">" if head[:1] == b"." else "<"
        place, num_bytes = unpack_at(file, start + 4, f"{order}2I")
        return _if_wrong(file, (start + 8, start + place, order), num_bytes)
    for chunk, num_bytes, place in walk_chunks(file, start, order) if order else ():
        if chunk == name:
            padding = num_bytes % 2
            return _if_wrong(file, (place - 4, place, order), num_bytes, least, padding)
    return None


def _if_wrong(
    file: BinaryIO, found: tuple[int, int, str], num_bytes: int, least: int = 0, padding: int = 0
) -> tuple[int, int, str] | None:
    """What was found, where the data do not end where they should."""
    _, place, order = found
    size, end = _size(file), place + num_bytes
    if end > size or size - place <= least:
        return None
    file.seek(end + padding)
    behind = file.read(_TOLERATED_BYTES)
    if behind[:4] in {b".snd", b"dns."} or chunk_order(behind[:12]):
        raise joined(end + padding)
    if _is_chunk(behind, size - end, order) or behind.startswith(_NO_SOUND):
        return None
    is_stated = num_bytes > least
    if is_stated and (size - end <= _TOLERATED_BYTES or not behind.strip(b"\0")):
        return None
    return found


def _is_chunk(head: bytes, room: int, order: str) -> bool:
    """Whether these bytes begin a chunk that ends within the file."""
    if len(head) < 8:
        return False
    name, num_bytes = struct.unpack(f"{order}4sI", head[:8])
    return name.isascii() and bytes(name).decode().isprintable() and 8 + num_bytes <= room


def _to_the_end(file: BinaryIO, size_at: int, place: int, order: str) -> Pieces:
    num_bytes = _size(file) - place
    if num_bytes >= 2**32 - 1:
        rule = "sound data of 4 GB and more must have its size in the header (RF64)"
        raise AudioError(rule, code="unsupported", key="length", value=num_bytes)
    stated = struct.pack(f"{order}I", num_bytes)
    return (((0, size_at), stated, (size_at + 4, place - size_at - 4), (place, num_bytes)),)


class SplicedFile:
    """Parts of a file and bytes between them, read as one file; soundfile asks for no more."""

    def __init__(self, file: BinaryIO, parts: Sequence[Part]) -> None:
        self._file = file
        self._parts = parts
        lengths = [len(part) if isinstance(part, bytes) else part[1] for part in parts]
        self._ends = list(accumulate(lengths))
        self._position = 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As of a file."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._ends[-1]}
        self._position = max(base[whence] + offset, 0)
        return self._position

    def tell(self) -> int:
        """As of a file."""
        return self._position

    def read(self, num_bytes: int) -> bytes:
        """As of a file."""
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
