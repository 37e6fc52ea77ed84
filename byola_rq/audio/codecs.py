"""Identification of a file's codec from its bytes, and the list of codecs that are decoded."""

import contextlib
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from byola_rq.audio.containers import (
    MAX_MP3_JUNK,
    chunk_order,
    find_mp3_frame,
    nist_fields,
    skip_id3,
    walk_caf,
    walk_chunks,
    walk_w64,
)
from byola_rq.audio.mp3 import begin_of_stream
from byola_rq.audio.multimedia import HAS_DECODER, REMEDY
from byola_rq.errors import AudioError

# Untrusted files exercise decoder code. Only codecs that audio collections use are allowed: they
# are the part of libsndfile that is fuzzed and used most.
ALLOWED = (
    "PCM, float, A-law or mu-law in WAV, AIFF, AU, CAF, Wave64 or NIST SPHERE, FLAC, Vorbis, Opus "
    "or MP3"
)

_WAVE_TAGS = {0x0001: "PCM", 0x0003: "float", 0x0006: "A-law", 0x0007: "mu-law"}
_WAVE_EXTENSIBLE = 0xFFFE
# GUID bytes that follow the tag in an extensible format: Microsoft's, and that of ambisonics.
_GUID_TAILS = (
    bytes.fromhex("000000001000800000aa00389b71"),
    bytes.fromhex("00002107d3118644c8c1ca000000"),
)
_REFUSED_WAVE_TAGS = {
    0x0002: "Microsoft ADPCM",
    0x0011: "IMA ADPCM",
    0x0014: "G.723 ADPCM",
    0x0031: "GSM 6.10",
    0x0040: "G.721 ADPCM",
    0x0050: "MPEG Layer I or II",
    0x0055: "MP3",
    0x0160: "WMA",
    0x0161: "WMA",
    0x0270: "NMS ADPCM",
    0x2000: "AC-3",
}
_AIFC_TYPES = {
    **dict.fromkeys((b"NONE", b"sowt", b"twos", b"raw ", b"in24", b"in32"), "PCM"),
    **dict.fromkeys((b"fl32", b"FL32", b"fl64", b"FL64"), "float"),
    **dict.fromkeys((b"alaw", b"ALAW"), "A-law"),
    **dict.fromkeys((b"ulaw", b"ULAW"), "mu-law"),
}
_AU_CODECS = {
    **dict.fromkeys((2, 3, 4, 5), "PCM"),
    **dict.fromkeys((6, 7), "float"),
    **{1: "mu-law", 27: "A-law"},
}
_CAF_CODECS = {b"lpcm": "PCM", b"alaw": "A-law", b"ulaw": "mu-law"}
_NIST_CODECS = {"": "PCM", "pcm": "PCM", "alaw": "A-law", "ulaw": "mu-law", "mu-law": "mu-law"}
_OGG_CODECS = {b"\x01vorbis": "Vorbis", b"OpusHead": "Opus"}
_REFUSED_OGG_CODECS = {b"Speex   ": "Speex", b"\x80theora": "Theora video", b"fishead": "Skeleton"}
# Files recognized only so that the message can name them: (offset, bytes, name).
_REFUSED_FILES = (
    (0, b"0&\xb2u\x8ef\xcf\x11", "WMA or ASF"),
    (0, b"\0\5\x16\7", "a macOS sidecar, which has no sound"),
    (0, b"#!AMR", "AMR"),
    (0, b"wvpk", "WavPack"),
    (0, b"MAC ", "Monkey's Audio"),
    (0, b"TTA1", "True Audio"),
    (0, b"MThd", "MIDI"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"\x1f\x8b", "a gzip file"),
    (0, b"version https://git-lfs", "a Git LFS pointer, not the file itself"),
    (0, b"<!DOCTYPE", "a web page"),
    (0, b"<!doctype", "a web page"),
    (0, b"<html", "a web page"),
)
_PLAIN_COMM = 18  # bytes of AIFF's chunk COMM where it has no codec
# Containers that PyAV reads where it is installed: (offset, bytes, name, FFmpeg's name).
_MULTIMEDIA = (
    (4, b"ftyp", "MP4 or M4A", "mov"),
    (0, b"\x1aE\xdf\xa3", "Matroska or WebM", "matroska"),
)
_MIN_CHUNK = 16  # bytes of a chunk that names a codec


@dataclass(frozen=True)
class Codec:
    """Codec or container of a file.

    Attributes:
        name: Name of the codec; of the container if PyAV reads the file.
        is_allowed: True if it may be decoded.
        start: First byte of the sound if junk precedes it (MP3).
        demuxer: FFmpeg's name of the container if PyAV reads the file, else empty.
    """

    name: str
    is_allowed: bool = True
    start: int = 0
    demuxer: str = ""


def identify_codec(file: BinaryIO) -> Codec:
    """Identify the codec of a file from its bytes; the extension is ignored.

    Returns:
        An allowed codec: PCM, float, A-law, mu-law, FLAC, Vorbis, Opus or MP3; or a container of
        `multimedia`, whose own codec `find_track` looks at.

    Raises:
        AudioError: Without the file's name: if the file is empty or not audio, or if its codec is
            not allowed; the message names it.
        OSError: If the file cannot be read.
    """
    codec = _identify(file)
    if not codec.is_allowed:
        raise refused_codec(codec.name, REMEDY if codec.demuxer else "")
    return codec


def refused_codec(name: str, remedy: str = "") -> AudioError:
    """Return the error, without the file's name, for a codec that is not allowed."""
    rule = f"codec must be {ALLOWED}; got {name}" + (f". {remedy}" if remedy else "")
    return AudioError(rule, code="unsupported", key="codec", value=name)


def _identify(file: BinaryIO) -> Codec:
    start = skip_id3(file)
    file.seek(start)
    head = file.read(64)
    if not head and not start:
        raise AudioError("the file is empty (0 bytes)", code="empty")
    for magic, identify in _BY_MAGIC.items():
        if head.startswith(magic):
            return identify(file, start, head)
    for place, magic, container, demuxer in _MULTIMEDIA:
        if head[place:].startswith(magic):
            return Codec(container, HAS_DECODER, demuxer=demuxer)
    known = (name for place, magic, name in _REFUSED_FILES if head[place:].startswith(magic))
    if name := next(known, None):
        return Codec(name, False)
    return _identify_mpeg(file, start, head)


def _identify_chunks(file: BinaryIO, start: int, head: bytes) -> Codec:
    """Identify WAV and AIFF; other files that begin with the same bytes are rejected."""
    order, form = chunk_order(head), head[8:12]
    if not order:
        return _identify_mpeg(file, start, head)
    if form == b"WAVE":
        content = _content(walk_chunks(file, start, order), file, b"fmt ")
        return _wave_codec(content, order, "WAV")
    return _identify_aiff(file, start)


def _identify_au(_: BinaryIO, __: int, head: bytes) -> Codec:
    (code,) = struct.unpack(">I" if head[:1] == b"." else "<I", head[12:16].ljust(4, b"\0"))
    return _known(_AU_CODECS, code, f"encoding {code} in AU")


def _identify_caf(file: BinaryIO, start: int, _: bytes) -> Codec:
    content = _content(walk_caf(file, start), file, b"desc")
    kind, is_float = content[8:12], content[15] & 1
    if kind == b"lpcm" and is_float:
        return Codec("float")
    return _known(_CAF_CODECS, kind, f"{kind.decode('ascii', 'replace')!r} in CAF")


def _identify_w64(file: BinaryIO, start: int, _: bytes) -> Codec:
    return _wave_codec(_content(walk_w64(file, start), file, b"fmt "), "<", "Wave64")


def _identify_nist(file: BinaryIO, start: int, _: bytes) -> Codec:
    file.seek(start)
    kind = nist_fields(file.read(1024)).get("sample_coding", "")
    return _known(_NIST_CODECS, kind, f"{kind!r} in NIST SPHERE")


def _wave_codec(chunk: bytes, order: str, container: str) -> Codec:
    tag, _, sample_rate = struct.unpack(f"{order}HHI", chunk[:8])
    if sample_rate == 0:  # no decoder would open it, nor say why
        rule = "sample rate must be above 0 Hz; got 0 Hz"
        raise AudioError(rule, code="value", key="sample rate", value=0)
    if tag == _WAVE_EXTENSIBLE and chunk[26:40] in _GUID_TAILS:
        (tag,) = struct.unpack(f"{order}H", chunk[24:26])
    if tag in _WAVE_TAGS:
        return Codec(_WAVE_TAGS[tag])
    name = _REFUSED_WAVE_TAGS.get(tag, "a codec")
    return Codec(f"{name} in {container} (format tag 0x{tag:04x})", False)


def _identify_aiff(file: BinaryIO, start: int) -> Codec:
    """Read the codec from chunk COMM, where decoders look for it whatever the form type is."""
    content = _content(walk_chunks(file, start, ">"), file, b"COMM")
    if len(content) == _PLAIN_COMM:
        return Codec("PCM")
    kind = content[18:22]  # none in a broken one
    return _known(_AIFC_TYPES, kind, f"{kind.decode('ascii', 'replace')!r} in AIFF-C")


def _known(codecs: Mapping[Any, str], code: object, other: str) -> Codec:
    """Look up the codec of a container's code; a code not in `codecs` is not allowed."""
    name = codecs.get(code)
    return Codec(name) if name else Codec(other, False)


def _content(chunks: Iterator[tuple[bytes, int, int]], file: BinaryIO, name: bytes) -> bytes:
    """Read the first bytes of the chunk that names the codec."""
    with contextlib.suppress(EOFError):
        for chunk, num_bytes, place in chunks:
            if chunk == name:
                file.seek(place)
                if len(content := file.read(min(num_bytes, 64))) >= _MIN_CHUNK:
                    return content
    rule = f"cut short or broken: it has no chunk {name.decode()!r}, which names the codec"
    raise AudioError(rule, code="cut", key=name.decode())


def _identify_ogg(file: BinaryIO, start: int, _: bytes) -> Codec:
    """Read the codec from the first packet, which follows the first page's segment table."""
    file.seek(start)
    page = file.read(27 + 255 + 8)
    packet = page[27 + page[26] :] if len(page) > 26 else b""
    for magic, name in _OGG_CODECS.items():
        if packet.startswith(magic):
            return Codec(name)
    if packet.startswith(b"\x7fFLAC"):
        return Codec("FLAC in Ogg", HAS_DECODER, demuxer="ogg")
    for magic, name in _REFUSED_OGG_CODECS.items():
        if packet.startswith(magic):
            return Codec(f"{name} in Ogg", False)
    if not packet:
        raise AudioError("cut short: it ends within its header", code="cut")
    return Codec(f"a codec in Ogg whose packets begin with {packet[:8]!r}", False)


def _identify_mpeg(file: BinaryIO, start: int, head: bytes) -> Codec:
    """Find the first MP3 frame, behind a tag and anything, behind zeros, or behind part of one."""
    if re.match(rb"\xff[\xf0\xf1\xf8\xf9]", head):
        return Codec("AAC", HAS_DECODER, demuxer="aac")
    if re.match(rb"\xff[\xe4-\xe7\xf4-\xf7\xfc\xfd\xff]", head):
        return Codec("MPEG Layer I or II", False)
    file.seek(start)
    data = file.read(MAX_MP3_JUNK)
    frame = find_mp3_frame(data)
    if not start and data[: max(frame, 0)].strip(b"\0"):
        frame = begin_of_stream(data)  # a recording of a broadcast begins within a frame
    if frame < 0:
        # The message omits the file's bytes: a manifest may name any file, and users share
        # rejected.csv.
        rule = "not an audio file of a known format"
        raise AudioError(rule, code="damaged")
    return Codec("MP3", True, start + frame)


_BY_MAGIC: dict[bytes, Callable[[BinaryIO, int, bytes], Codec]] = {
    **dict.fromkeys((b"RIFF", b"RIFX", b"RF64", b"BW64", b"FORM"), _identify_chunks),
    **dict.fromkeys((b".snd", b"dns."), _identify_au),
    b"fLaC": lambda *_: Codec("FLAC"),
    b"OggS": _identify_ogg,
    b"caff": _identify_caf,
    b"riff\x2e\x91\xcf\x11": _identify_w64,
    b"NIST_1A": _identify_nist,
}
