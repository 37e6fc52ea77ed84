"""Headers of uncompressed sound, corrected where decoders would misunderstand them."""

import struct
from typing import BinaryIO

from byola_rq.audio.containers import (
    Pieces,
    chunk_order,
    joined,
    size_of,
    unpack_at,
    walk_caf,
    walk_chunks,
    walk_w64,
)
from byola_rq.errors import AudioError

_UNKNOWN = 0xFFFFFFFF  # in place of a size
_TOLERATED_BYTES = 4096  # of anything after the sound data; some writers leave extra bytes there
_NO_SOUND = (b"ID3", b"TAG", b"APETAGEX", b"LYRICSBEGIN")


def pieces_with_header(file: BinaryIO, start: int, head: bytes) -> Pieces:
    """Return a file's parts with its header corrected; empty if it needs no change.

    Args:
        file: WAV, AIFF, AU, CAF, Wave64 or NIST SPHERE file.
        start: Offset of the container in bytes.
        head: Its first 12 bytes.

    Raises:
        AudioError: Without the file's name: if it is several joined files, or too long for its
            header.
        EOFError: If the file ends early.
    """
    if head[:4] in {b"caff", b"riff"}:
        return _chunk_pieces(file, start, head)
    if chunk_order(head) == "<":
        return _wave_pieces(file, start, head)
    size_at = _wrong_size(file, start, head)
    return _to_the_end(file, start, *size_at) if size_at else ()


def _chunk_pieces(file: BinaryIO, start: int, head: bytes) -> Pieces:
    """State the size of CAF data that extend to the end of the file; reject joined CAF and W64."""
    walk = walk_caf if head[:4] == b"caff" else walk_w64
    for name, num_bytes, place in walk(file, start):
        if name == head[:4]:
            raise joined(place)
        if walk is walk_caf and name == b"data" and num_bytes < 0:
            room = size_of(file) - place
            return (((start, place - start - 8), struct.pack(">q", room), (place, room)),)
    return ()


def _wave_pieces(file: BinaryIO, start: int, head: bytes) -> Pieces:
    """Replace the header of a WAV file by a plain one where decoders misunderstand it."""
    form, size_64, is_plain, after = b"", 0, head[:4] != b"BW64", start + 12
    for name, num_bytes, place in walk_chunks(file, start, "<"):
        # Decoders give up at a name that is none, and behind an odd chunk without padding.
        is_plain &= place - 8 == after and _is_name(name)
        after = place + num_bytes + num_bytes % 2
        if name == b"ds64":
            (size_64,) = unpack_at(file, place, "<8xQ")
        elif name == b"fmt ":
            file.seek(place)
            form = file.read(min(num_bytes, 40))
        elif name == b"data":
            break
    stated = size_64 if head[:4] != b"RIFF" and num_bytes == _UNKNOWN else num_bytes
    room, own_form = size_of(file) - place, _plain_form(form)
    is_wrong = _if_wrong(file, (place - 4, place, "<"), stated, padding=stated % 2)
    if (is_plain and not is_wrong and own_form == form) or not form:
        return ()
    length = room if is_wrong else min(stated, room)
    header = b"RF64\xff\xff\xff\xffWAVEds64" + struct.pack("<I3QI", 28, room, length, 0, 0)
    header += b"fmt " + struct.pack("<I", len(form)) + own_form + b"data\xff\xff\xff\xff"
    return ((header, (place, length)),)


def _plain_form(form: bytes) -> bytes:
    """Correct the bits per sample of an extensible format whose frames have room for more.

    Samples fill the upper bits of their bytes.
    """
    if form[:2] != b"\xfe\xff":
        return form
    channels, align, bits = struct.unpack("<2xH8xHH", form[:16])
    num_bytes = align // max(channels, 1)
    if -(-bits // 8) < num_bytes <= 4 and num_bytes * channels == align:
        return form[:14] + struct.pack("<H", 8 * num_bytes) + form[16:]
    return form


def _wrong_size(file: BinaryIO, start: int, head: bytes) -> tuple[int, int, str] | None:
    """Find a wrong size of the sound data: offset of the size, of the data, and byte order."""
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
    """Return `found` if the sound data do not end where they should, else None."""
    _, place, order = found
    size, end = size_of(file), place + num_bytes
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
    """Return whether these bytes begin a chunk that ends within the file."""
    if len(head) < 8:
        return False
    name, num_bytes = struct.unpack(f"{order}4sI", head[:8])
    return _is_name(name) and 8 + num_bytes <= room


def _is_name(chunk: bytes) -> bool:
    return chunk.isascii() and chunk.decode().isprintable()


def _to_the_end(file: BinaryIO, start: int, size_at: int, place: int, order: str) -> Pieces:
    num_bytes = size_of(file) - place
    if num_bytes >= 2**32 - 1:
        rule = "sound data of 4 GB and more must have its size in the header (RF64)"
        raise AudioError(rule, code="unsupported", key="length", value=num_bytes)
    stated = struct.pack(f"{order}I", num_bytes)
    before, between = (start, size_at - start), (size_at + 4, place - size_at - 4)
    return ((before, stated, between, (place, num_bytes)),)
