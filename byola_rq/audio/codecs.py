"""Which codec a file's own bytes say it is, and whether it is one that may be decoded."""

import contextlib
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from byola_rq.audio.containers import (
    MAX_MP3_JUNK,
    chunk_order,
    find_mp3_frame,
    open_encoded,
    skip_id3,
    walk_chunks,
)
from byola_rq.audio.io import EncodedAudio, audio_error
from byola_rq.errors import AudioError

# Decoders are code that strangers' files run. These are the codecs that collections of sound
# come in, and the part of libsndfile that is fuzzed and used most; the rest stays shut.
ALLOWED = "PCM, float, A-law or mu-law in WAV or AIFF, FLAC, Vorbis, Opus or MP3"

_WAVE_TAGS = {0x0001: "PCM", 0x0003: "float", 0x0006: "A-law", 0x0007: "mu-law"}
_WAVE_EXTENSIBLE = 0xFFFE
# Behind the tag in an extensible format's GUID: Microsoft's own tail, and that of ambisonics.
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
_OGG_CODECS = {b"\x01vorbis": "Vorbis", b"OpusHead": "Opus", b"\x7fFLAC": "FLAC"}
_REFUSED_OGG_CODECS = {b"Speex   ": "Speex", b"\x80theora": "Theora video", b"fishead": "Skeleton"}
# What is told apart only to be named: (place, bytes, name).
_REFUSED_FILES = (
    (4, b"ftyp", "MP4 or M4A"),
    (0, b"\x1aE\xdf\xa3", "Matroska or WebM"),
    (0, b"0&\xb2u\x8ef\xcf\x11", "WMA or ASF"),
    (0, b"caff", "Core Audio (CAF)"),
    (0, b".snd", "AU"),
    (0, b"dns.", "AU"),
    (0, b"riff", "Wave64"),
    (0, b"#!AMR", "AMR"),
    (0, b"wvpk", "WavPack"),
    (0, b"MAC ", "Monkey's Audio"),
    (0, b"TTA1", "True Audio"),
    (0, b"NIST_1A", "NIST SPHERE"),
    (0, b"MThd", "MIDI"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"\x1f\x8b", "a gzip file"),
    (0, b"version https://git-lfs", "a Git LFS pointer, not the file itself"),
    (0, b"<!DOCTYPE", "a web page"),
    (0, b"<!doctype", "a web page"),
    (0, b"<html", "a web page"),
)
_MIN_CHUNK = 16  # bytes of one that says a codec


@dataclass(frozen=True)
class Codec:
    """What a file is; `start` is the first byte of its sound where junk precedes it (MP3)."""

    name: str
    is_allowed: bool = True
    start: int = 0


def identify_codec(source: Path | EncodedAudio) -> Codec:
    """Name the codec of a file, by its bytes alone: its extension says nothing.

    Returns:
        An allowed codec: PCM, float, A-law, mu-law, FLAC, Vorbis, Opus or MP3.

    Raises:
        AudioError: If the file cannot be read, is empty or is no audio, or if its codec is another
            one; the message names it.
    """
    try:
        with open_encoded(source) as file:
            codec = _identify(file)
    except FileNotFoundError as error:
        raise audio_error(source, "missing", "no such file") from error
    except OSError as error:
        rule = f"the file cannot be read: {error.strerror}"
        raise audio_error(source, "unreadable", rule) from error
    except AudioError as error:
        facts = {"key": error.key, "value": error.value}
        raise audio_error(source, error.code, str(error), **facts) from error
    if not codec.is_allowed:
        rule = f"codec must be {ALLOWED}; got {codec.name}"
        raise audio_error(source, "unsupported", rule, key="codec", value=codec.name)
    return codec


def _identify(file: BinaryIO) -> Codec:
    """AudioError, without the source's name, where there is no codec at all."""
    start = skip_id3(file)
    file.seek(start)
    head = file.read(64)
    if not head and not start:
        raise AudioError("the file is empty (0 bytes)", code="empty")
    if order := chunk_order(head):
        form = head[8:12]
        is_wave = form == b"WAVE"
        return _identify_wave(file, start, order) if is_wave else _identify_aiff(file, start, form)
    if head.startswith(b"fLaC"):
        return Codec("FLAC")
    if head.startswith(b"OggS"):
        return _identify_ogg(file, start)
    known = (name for place, magic, name in _REFUSED_FILES if head[place:].startswith(magic))
    if name := next(known, None):
        return Codec(name, False)
    return _identify_mpeg(file, start, head)


def _identify_wave(file: BinaryIO, start: int, order: str) -> Codec:
    chunk = _find_chunk(file, start, b"fmt ", order)
    tag, _, sample_rate = struct.unpack(f"{order}HHI", chunk[:8])
    if sample_rate == 0:  # no decoder would open it, nor say why
        rule = "sample rate must be above 0 Hz; got 0 Hz"
        raise AudioError(rule, code="value", key="sample rate", value=0)
    if tag == _WAVE_EXTENSIBLE and chunk[26:40] in _GUID_TAILS:
        (tag,) = struct.unpack(f"{order}H", chunk[24:26])
    if tag in _WAVE_TAGS:
        return Codec(_WAVE_TAGS[tag])
    name = _REFUSED_WAVE_TAGS.get(tag, "a codec")
    return Codec(f"{name} in WAV (format tag 0x{tag:04x})", False)


def _identify_aiff(file: BinaryIO, start: int, form: bytes) -> Codec:
    if form == b"AIFF":
        return Codec("PCM")
    kind = _find_chunk(file, start, b"COMM", ">")[18:22]  # none in a broken one
    if kind in _AIFC_TYPES:
        return Codec(_AIFC_TYPES[kind])
    return Codec(f"{kind.decode('ascii', 'replace')!r} in AIFF-C", False)


def _find_chunk(file: BinaryIO, start: int, name: bytes, order: str) -> bytes:
    """The first bytes of a WAV's or AIFF's chunk."""
    with contextlib.suppress(EOFError):
        for chunk, num_bytes, place in walk_chunks(file, start, order):
            if chunk == name:
                file.seek(place)
                if len(content := file.read(min(num_bytes, 64))) >= _MIN_CHUNK:
                    return content
    rule = f"cut short or broken: it has no chunk {name.decode()!r}, which says the codec"
    raise AudioError(rule, code="cut", key=name.decode())


def _identify_ogg(file: BinaryIO, start: int) -> Codec:
    """By the first packet, which stands behind the first page's table of segments."""
    file.seek(start)
    page = file.read(27 + 255 + 8)
    packet = page[27 + page[26] :] if len(page) > 26 else b""
    for magic, name in _OGG_CODECS.items():
        if packet.startswith(magic):
            return Codec(name)
    for magic, name in _REFUSED_OGG_CODECS.items():
        if packet.startswith(magic):
            return Codec(f"{name} in Ogg", False)
    if not packet:
        raise AudioError("cut short: it ends within its header", code="cut")
    return Codec(f"a codec in Ogg whose packets begin with {packet[:8]!r}", False)


def _identify_mpeg(file: BinaryIO, start: int, head: bytes) -> Codec:
    """By the first frame's header. Behind a tag anything may precede it, else only padding."""
    if re.match(rb"\xff[\xf0\xf1\xf8\xf9]", head):
        return Codec("AAC", False)
    if re.match(rb"\xff[\xe4-\xe7\xf4-\xf7\xfc\xfd\xff]", head):
        return Codec("MPEG Layer I or II", False)
    file.seek(start)
    data = file.read(MAX_MP3_JUNK)
    frame = find_mp3_frame(data)
    if frame < 0 or (not start and data[:frame].strip(b"\0")):
        rule = f"not an audio file that can be read (it begins with {head[:12]!r})"
        raise AudioError(rule, code="damaged", value=head[:12])
    return Codec("MP3", True, start + frame)
