"""Parsers of container structure: ID3 tags, chunks of WAV and similar formats, MP3 frames."""

import io
import struct
from collections.abc import Iterator
from typing import Any, BinaryIO

from byola_rq.errors import AudioError

Part = bytes | tuple[int, int]  # literal bytes, or (offset, number) of bytes in a file
Pieces = tuple[tuple[Part, ...], ...]  # of each stream in a file

MAX_MP3_JUNK = 65_536  # bytes to search for an MP3 frame

_MAX_TAGS = 10_000  # real files have one or two; a malicious one may be all tags
_MAX_CHUNKS = 10_000  # real files have a few dozen; a file of zeros would have millions
# Names that cannot begin with a byte of padding.
_NOT_PADDING = frozenset({b"fmt ", b"data", b"fact", b"LIST", b"COMM", b"SSND"})
_MAX_BOXES = 1_000_000  # a stream of one day in pieces of a second has 200,000
_WAVE = frozenset({b"RIFF", b"RIFX", b"RF64", b"BW64"})
_FLAC_BLOCKS = (b"\0\0\0\x22", b"\x80\0\0\x22")  # headers of STREAMINFO, always the first
_KILOBITS_V1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_KILOBITS_V2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)


def size_of(file: BinaryIO) -> int:
    """Return the length of a file in bytes; its position moves to the end."""
    return file.seek(0, io.SEEK_END)


def unpack_at(file: BinaryIO, position: int, form: str) -> tuple[Any, ...]:
    """Read and unpack the `struct` format `form` at a byte position.

    Raises:
        EOFError: If the file ends before.
    """
    if position >= 2**48:  # no file is so long, and `seek` fails differently on each system
        raise EOFError
    file.seek(position)
    data = file.read(struct.calcsize(form))
    if len(data) < struct.calcsize(form):
        raise EOFError
    return struct.unpack(form, data)


def skip_id3(file: BinaryIO) -> int:
    """Return the byte at which the content begins after ID3v2 tags; 0 if there are none."""
    position = 0
    for _ in range(_MAX_TAGS):
        file.seek(position)
        length = tag_length(file.read(10))
        if not length:
            break
        position += length
    return position


def tag_length(tag: bytes) -> int:
    """Length in bytes of an ID3v2 tag from its first ten bytes; 0 if they are not a tag."""
    if len(tag) < 10 or tag[:3] != b"ID3":
        return 0
    # Four times seven bits, so that no byte looks like the first of a frame.
    length = 0
    for byte in tag[6:10]:
        length = length << 7 | byte & 0x7F
    return 10 + length + (10 if tag[5] & 0x10 else 0)


def chunk_order(head: bytes) -> str:
    """Byte order, `<` or `>`, of a WAV or AIFF file from its first 12 bytes; else empty."""
    kind, form = head[:4], head[8:12]
    if kind in _WAVE and form == b"WAVE":
        return ">" if kind == b"RIFX" else "<"
    return ">" if kind == b"FORM" and form in {b"AIFF", b"AIFC"} else ""


def walk_chunks(file: BinaryIO, start: int, order: str) -> Iterator[tuple[bytes, int, int]]:
    """Iterate over the chunks of a WAV or AIFF file: name, size in bytes, offset of the content.

    Args:
        file: Binary file; the caller may move its position between two chunks.
        start: Offset of the container in bytes.
        order: Byte order, as `chunk_order` returns it.

    Raises:
        EOFError: At the end of the file.
    """
    position = start + 12
    for _ in range(_MAX_CHUNKS):
        name, num_bytes = unpack_at(file, position, f"{order}4sI")
        yield name, num_bytes, position + 8
        position += 8 + num_bytes
        if num_bytes % 2:  # chunks begin at even positions, but some writers do not pad them
            position += unpack_at(file, position, "4s")[0] not in _NOT_PADDING


def walk_caf(file: BinaryIO, start: int) -> Iterator[tuple[bytes, int, int]]:
    """Iterate over the chunks of a Core Audio file; size -1 extends to the end of the file."""
    position = start + 8
    for _ in range(_MAX_CHUNKS):
        name, num_bytes = unpack_at(file, position, ">4sq")
        yield name, num_bytes, position + 12
        if num_bytes < 0:
            return
        position += 12 + num_bytes


def walk_w64(file: BinaryIO, start: int) -> Iterator[tuple[bytes, int, int]]:
    """Iterate over the chunks of a Wave64 file, aligned to 8 bytes."""
    position = start + 40
    for _ in range(_MAX_CHUNKS):
        name, num_bytes = unpack_at(file, position, "<4s12xQ")
        yield name, num_bytes - 24, position + 24
        position += max(num_bytes + -num_bytes % 8, 24)


def walk_boxes(file: BinaryIO, position: int, size: int) -> Iterator[tuple[bytes, int, int]]:
    """Iterate over the top-level boxes of an MP4 file: name, size with header, offset of the box.

    Size 0 extends to the end of the file.

    Raises:
        AudioError: If there are too many boxes.
    """
    for _ in range(_MAX_BOXES):
        if position >= size:
            return
        num_bytes, name = unpack_at(file, position, ">I4s")
        if num_bytes == 1:  # a 64-bit size follows the name
            (num_bytes,) = unpack_at(file, position + 8, ">Q")
        yield name, num_bytes, position
        if num_bytes < 8:
            return
        position += num_bytes
    rule = f"a file must have at most {_MAX_BOXES} boxes"
    raise AudioError(rule, code="too-large", key="boxes", value=_MAX_BOXES)


def walk_ebml(file: BinaryIO, position: int, size: int) -> Iterator[tuple[bytes, int, int]]:
    """Iterate over the top-level elements of a Matroska file; an unknown size is 0."""
    for _ in range(_MAX_CHUNKS):
        if position >= size:
            return
        name, first = unpack_at(file, position, ">4sB")
        num_more = 8 - first.bit_length()  # leading zero bits give the number of further bytes
        (rest,) = unpack_at(file, position + 5, f"{num_more}s")
        num_bytes = int.from_bytes(bytes((first & 0x7F >> num_more,)) + rest)
        if num_bytes == 2 ** (7 * (num_more + 1)) - 1:
            yield name, 0, position
            return
        yield name, 5 + num_more + num_bytes, position
        position += 5 + num_more + num_bytes


def joined(place: int) -> AudioError:
    """Return the error, without the file's name, for concatenated files that are not supported."""
    rule = "files that were joined are not read in this format; another one begins at byte"
    return AudioError(f"{rule} {place}", code="unsupported", key="byte", value=place)


def find_flac_streams(file: BinaryIO, position: int) -> list[int]:
    """Find the offsets of FLAC streams from a position on: the marker and its first block."""
    found: list[int] = []
    data = b""
    file.seek(position)
    while block := file.read(2**20):
        data = data[-7:] + block
        position += len(block)
        place = data.find(b"fLaC")
        while place >= 0:
            if data[place + 4 : place + 8] in _FLAC_BLOCKS:
                found.append(position - len(data) + place)
            place = data.find(b"fLaC", place + 4)
    return found


def nist_fields(head: bytes) -> dict[str, str]:
    """Parse a NIST SPHERE header: lines of name, type and value, up to `end_head`."""
    lines = head.decode("latin-1").partition("end_head")[0].split("\n")
    cells = (line.split(None, 2) for line in lines[2:])
    return {each[0]: each[2].strip() for each in cells if len(each) == 3}


def find_mp3_frame(data: bytes) -> int:
    """Return the offset of the first Layer III frame header; -1 if there is none."""
    place = data.find(b"\xff")
    while place >= 0 and mp3_frame_length(data[place : place + 3]) is None:
        place = data.find(b"\xff", place + 1)
    return place


def mp3_frame_length(header: bytes) -> int | None:
    """Length in bytes of a Layer III frame from its first three; 0 if its bit rate is free.

    None unless they are a header: sync, version and layer, a valid bit rate and sample rate.
    """
    if len(header) < 3 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:
        return None
    version, bits, rate_index = header[1] >> 3 & 3, header[2] >> 4, header[2] >> 2 & 3
    if version == 1 or bits == 15 or rate_index == 3:
        return None
    if bits == 0:
        return 0
    sample_rate = (44_100, 48_000, 32_000)[rate_index] >> {3: 0, 2: 1, 0: 2}[version]
    kilobits = (_KILOBITS_V1 if version == 3 else _KILOBITS_V2)[bits]
    return (144 if version == 3 else 72) * kilobits * 1000 // sample_rate + (header[2] >> 1 & 1)
