"""Detection of truncated files: libsndfile reads cut WAV, Ogg and MP3 files silently."""

import io
import math
import re
import struct
from collections.abc import Iterator
from typing import BinaryIO

import soundfile

from byola_rq.audio.containers import (
    MAX_MP3_JUNK,
    chunk_order,
    find_flac_streams,
    mp3_frame_length,
    nist_fields,
    skip_id3,
    unpack_at,
    walk_boxes,
    walk_caf,
    walk_chunks,
    walk_ebml,
    walk_w64,
)
from byola_rq.audio.encoded import MAX_SAMPLES
from byola_rq.audio.pieces import SplicedFile

# Writers that count their own header in the data size overstate it by less than this, at most
# 4 ms of speech: no reason to reject a whole collection.
_TOLERATED_BYTES = 64
_PCM = frozenset({b".snd", b"dns.", b"caff", b"riff", b"NIST"})
_MAX_OGG_PAGE = 27 + 255 + 255 * 255


def find_truncation(file: BinaryIO) -> str | None:
    """Describe how a file is cut short; None if nothing indicates it.

    The check depends on the format, identified by the first bytes:

    - WAV, AIFF, AU, CAF, Wave64 and NIST SPHERE: the stated size of the sound data must fit the
      file. Sizes that encoders write if they do not know it (0, or the maximum) are ignored.
    - Ogg: the last page must be complete and end its stream.
    - MP3: the file must hold the counts of its Xing or Info header, if it has one.
    - FLAC: the last sample must decode, if the header states their number.
    - MP4 and Matroska: the top-level parts must fit the file. AAC: the last frame must.

    Only headers and ends are read, except for an MP3 whose byte count is absent or wrong: its
    frames are counted, not decoded. Files that no decoder opens are left to `inspect_audio`.

    Raises:
        OSError: If the file cannot be read.
    """
    try:
        return _check(file, file.seek(0, io.SEEK_END))
    except EOFError:
        return "cut short: it ends within its header"


def _check(file: BinaryIO, size: int) -> str | None:
    start = skip_id3(file)
    if start > size:
        raise EOFError
    file.seek(start)
    magic = file.read(12)
    if magic[:4] == b"OggS":
        return _check_ogg(file, size)
    if magic[4:8] == b"ftyp" or magic[:4] == b"\x1aE\xdf\xa3":
        walk = walk_boxes if magic[4:8] == b"ftyp" else walk_ebml
        return _compare_ends(walk(file, start, size), size)
    if re.match(rb"\xff[\xf0\xf1\xf8\xf9]", magic):
        return _check_aac(file, start, size)
    if magic[:4] == b"fLaC":
        return _check_flac(file, start, size)
    is_pcm = chunk_order(magic) or magic[:4] in _PCM
    return _check_pcm(file, start, size, magic) if is_pcm else _check_mp3(file, start, size)


def _check_pcm(file: BinaryIO, start: int, size: int, magic: bytes) -> str | None:
    if order := chunk_order(magic):
        return _check_chunks(file, start, size, order)
    if magic[:4] in {b".snd", b"dns."}:
        data_start, num_bytes = unpack_at(file, start + 4, ">2I" if magic[:1] == b"." else "<2I")
        return _compare(num_bytes, size - start - data_start)
    if magic[:4] == b"caff":
        return _compare_chunk(walk_caf(file, start), size)
    if magic[:4] == b"riff":
        return _compare_chunk(walk_w64(file, start), size)
    return _check_nist(file, start, size)


def _compare_chunk(chunks: Iterator[tuple[bytes, int, int]], size: int) -> str | None:
    sizes = (
        _compare(max(each, 0), size - place) for name, each, place in chunks if name == b"data"
    )
    return next(sizes, None)


def _check_nist(file: BinaryIO, start: int, size: int) -> str | None:
    file.seek(start)
    head = file.read(1024)
    fields = nist_fields(head)
    counts = [fields.get(name, "") for name in ("sample_count", "sample_n_bytes", "channel_count")]
    head_size = head[8:16].strip()
    # ASCII alone: other digits, such as a superscript two, are no numbers to Python.
    if not (head_size.isdigit() and all(each.isascii() and each.isdigit() for each in counts)):
        return None  # not stated
    return _compare(math.prod(map(int, counts)), size - start - int(head_size))


def _compare(num_bytes: int, num_there: int) -> str | None:
    """Describe sound data shorter than stated by more than the tolerance; None if complete."""
    if num_bytes == 0 or any(limit - 8192 <= num_bytes <= limit for limit in (2**31, 2**32)):
        return None  # written by encoders that write to a pipe and do not know the size
    if num_bytes <= num_there + _TOLERATED_BYTES:
        return None
    return f"cut short: {max(num_there, 0)} of {num_bytes} bytes of its sound data are there"


def _check_chunks(file: BinaryIO, start: int, size: int, order: str) -> str | None:
    """Compare the sound data of a WAV or AIFF file with its stated size."""
    size_64 = 0
    for chunk, num_bytes, place in walk_chunks(file, start, order):
        if chunk == b"ds64":  # RF64: 64-bit sizes
            _, size_64 = unpack_at(file, place, "<2Q")
        if chunk in {b"data", b"SSND"}:
            is_64 = size_64 > 0 and num_bytes == 0xFFFFFFFF
            return _compare(size_64 if is_64 else num_bytes, size - place)
    return None


def _compare_ends(parts: Iterator[tuple[bytes, int, int]], size: int) -> str | None:
    missing = max((place + num_bytes - size for _, num_bytes, place in parts), default=0)
    return f"cut short: {missing} bytes at its end are not there" if missing > 0 else None


def _check_aac(file: BinaryIO, position: int, size: int) -> str | None:
    while position < size:
        file.seek(position)
        head = file.read(7)
        if not re.match(rb"\xff[\xf0\xf1\xf8\xf9]", head):
            return None  # usually a tag
        num_bytes = int.from_bytes(head[3:6]) >> 5 & 0x1FFF
        if num_bytes < 7:
            return None
        position += num_bytes
    return "cut short: its last AAC frame is not complete" if position > size else None


def _check_ogg(file: BinaryIO, size: int) -> str | None:
    start = max(size - _MAX_OGG_PAGE, 0)
    file.seek(start)
    tail = file.read(_MAX_OGG_PAGE)
    page = tail.rfind(b"OggS\0")  # the zero is the format's version
    if page < 0:
        return "cut short: no Ogg page at its end"
    _, flags, num_segments = unpack_at(file, start + page, "<5sB20xB")
    segments = unpack_at(file, start + page + 27, f"{num_segments}B")
    if start + page + 27 + num_segments + sum(segments) > size:
        return "cut short: its last Ogg page is not complete"
    if not flags & 4:
        return "cut short: its last Ogg page does not end the stream"
    return None


def _check_flac(file: BinaryIO, start: int, size: int) -> str | None:
    """Decode the last sample: a binary search for its frame, under 1 ms per minute of sound."""
    file.seek(0)
    try:
        sound = soundfile.SoundFile(SplicedFile(file, [(start, size - start)]) if start else file)
    except (soundfile.SoundFileError, RuntimeError):
        return None  # opening it reports the cause
    with sound:
        # The header stores the length in 36 bits; libsndfile returns more if they are 0: unknown.
        if not 0 < sound.frames < MAX_SAMPLES:
            return None
        try:
            sound.seek(sound.frames - 1)
            is_whole = len(sound.read(1)) == 1
        except (soundfile.SoundFileError, RuntimeError):
            is_whole = False
        if is_whole or find_flac_streams(file, start + 4):
            return None  # seeking fails in concatenated streams; `find_pieces` checks each
        return f"cut short: sample {sound.frames - 1} does not decode"


def _check_mp3(file: BinaryIO, start: int, size: int) -> str | None:
    file.seek(start)
    head = file.read(MAX_MP3_JUNK)
    for tag in re.finditer(rb"(?:Xing|Info)\0\0\0.", head, re.DOTALL):
        # The tag follows the frame's header (4 bytes, or 6 with a checksum) and side information
        # (9, 17 or 32 bytes, depending on version and channels).
        for first in (tag.start() - space - 4 - extra for space in (9, 17, 32) for extra in (0, 2)):
            if first >= 0 and mp3_frame_length(head[first : first + 3]):
                counts = head[tag.end() : tag.end() + 8].ljust(8, b"\0")
                return _check_xing(file, start + first, size, tag[0][-1], counts)
    return None


def _check_xing(file: BinaryIO, first: int, size: int, flags: int, counts: bytes) -> str | None:
    """Compare the header's counts with the file; frames are counted if bytes are inconclusive.

    Some encoders count their tags as bytes of the stream, others the header's frame as a frame of
    sound: neither missing bytes nor one missing frame prove a truncation.
    """
    if not flags & 1:
        return None
    num_frames, num_bytes = struct.unpack(">2I", counts)
    has_bytes = bool(flags & 2)
    if has_bytes and 0 < num_bytes <= size - first:
        return None
    file.seek(first)
    num_there = sum(1 for _ in _mp3_frames(file.read())) - 1  # the first holds the counts
    if num_there >= num_frames - (0 if has_bytes else 1):
        return None
    return f"cut short: {max(num_there, 0)} of {num_frames} MP3 frames are there"


def _mp3_frames(data: bytes) -> Iterator[int]:
    """Iterate over the offsets of complete frames; junk between them is skipped, up to a limit."""
    position, junk = 0, 0
    while 0 <= position < len(data) and junk < MAX_MP3_JUNK:
        length = mp3_frame_length(data[position : position + 3])
        if length and position + length <= len(data):
            yield position
            position += length
        else:
            following = data.find(data[:2], position + 1)  # the same in every frame
            junk += following - position
            position = following  # -1: none follows
