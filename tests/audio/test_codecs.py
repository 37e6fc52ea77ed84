"""Codecs told from raw bytes: all that libsndfile writes, and what other programs do."""

import contextlib
import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from byola_rq import AudioError
from byola_rq.audio.codecs import Codec
from byola_rq.audio.containers import mp3_frame_length
from byola_rq.audio.io import EncodedAudio
from byola_rq.audio.opening import codec_of
from byola_rq.errors import Code
from tests.refusal import refused

NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, 4000)


def encode(rate: int = 16000, **form: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, NOISE, rate, **form)
    return file.getvalue()


def identify(data: bytes, name: str = "clip") -> Codec:
    return codec_of(EncodedAudio(name, data))


def refusal(data: bytes) -> tuple[str | None, object]:
    """Code and value of the error, which names the clip in one line."""
    with pytest.raises(AudioError) as caught:
        identify(data)
    message = str(caught.value)
    assert message.startswith("clip: ")
    assert "\n" not in message
    return caught.value.code, caught.value.value


def expected_codec(form: str, subtype: str) -> str | None:
    """The rule of the design, by libsndfile's names; None: refused."""
    if form in {"WAV", "WAVEX", "RF64", "AIFF", "AU", "CAF", "W64", "NIST"}:
        if subtype.startswith("PCM_"):
            return "PCM"
        return {"FLOAT": "float", "DOUBLE": "float", "ALAW": "A-law", "ULAW": "mu-law"}.get(subtype)
    return {
        "FLAC": "FLAC",
        "OGG-VORBIS": "Vorbis",
        "OGG-OPUS": "Opus",
        "MP3-MPEG_LAYER_III": "MP3",
    }.get(form if form == "FLAC" else f"{form}-{subtype}")


# libsndfile lists these and does not write them.
NOT_WRITTEN = {
    ("AIFF", "DWVW_12"),
    ("MP3", "MPEG_LAYER_I"),
    ("MP3", "MPEG_LAYER_II"),
    ("WAV", "MPEG_LAYER_III"),
}
WRITABLE = [
    (form, subtype)
    for form in soundfile.available_formats()
    for subtype in soundfile.available_subtypes(form)
    if soundfile.check_format(form, subtype)
    and form != "RAW"
    and (form, subtype) not in NOT_WRITTEN
]


@pytest.mark.parametrize(("form", "subtype"), WRITABLE)
def test_all_that_libsndfile_writes_is_judged_by_the_rule(
    tmp_path: Path, form: str, subtype: str
) -> None:
    rate = 8000 if "GSM" in subtype or "VOX" in subtype else 16000
    soundfile.write(tmp_path / "a", NOISE, rate, format=form, subtype=subtype)
    data = (tmp_path / "a").read_bytes()
    expected = expected_codec(form, subtype)
    if expected is None:
        assert refusal(data)[0] in {"unsupported", "damaged"}
    else:
        assert identify(data) == Codec(expected)


def test_both_byte_orders_and_channels() -> None:
    assert identify(encode(format="WAV", endian="BIG")).name == "PCM"
    assert identify(encode(format="AIFF", endian="LITTLE")).name == "PCM"  # AIFF-C `sowt`


@pytest.mark.parametrize(
    ("subtype", "name"),
    [
        ("IMA_ADPCM", "IMA ADPCM in WAV (format tag 0x0011)"),
        ("MS_ADPCM", "Microsoft ADPCM in WAV (format tag 0x0002)"),
        ("G721_32", "G.721 ADPCM in WAV (format tag 0x0040)"),
    ],
)
def test_refused_codecs_are_named(subtype: str, name: str) -> None:
    assert refusal(encode(format="WAV", subtype=subtype)) == ("unsupported", name)


def extensible(tag: int, tail: str = "000000001000800000aa00389b71") -> bytes:
    """A WAV header whose format tag stands in a GUID."""
    guid = struct.pack("<H", tag) + bytes.fromhex(tail)
    form = struct.pack("<HHIIHHHHI", 0xFFFE, 1, 16000, 32000, 2, 16, 22, 16, 4) + guid
    chunks = b"fmt " + struct.pack("<I", len(form)) + form + b"data\4\0\0\0\0\0\0\0"
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def test_the_tag_in_an_extensible_format_is_what_counts() -> None:
    assert identify(extensible(1)).name == "PCM"
    assert identify(extensible(3, "00002107d3118644c8c1ca000000")).name == "float"
    assert refusal(extensible(0x11))[1] == "IMA ADPCM in WAV (format tag 0x0011)"
    unknown = "a codec in WAV (format tag 0xfffe)"
    assert refusal(extensible(1, "0123456789abcdef0123456789ab")) == ("unsupported", unknown)


def test_the_format_chunk_is_found_behind_others() -> None:
    wave = encode(format="WAV")
    odd_chunk = b"LIST" + struct.pack("<I", 5) + b"hello\0"
    assert identify(wave[:12] + odd_chunk + wave[12:]).name == "PCM"
    with refused(AudioError, "cut", key="fmt "):
        identify(wave[:12] + odd_chunk)


def test_mp3_behind_tags_and_padding() -> None:
    mp3 = encode(format="MP3")
    tag = b"ID3\3\0\0\0\0\2\1" + bytes(257)  # 2 * 128 + 1 bytes
    assert identify(mp3) == Codec("MP3", start=0)
    assert identify(bytes(300) + mp3) == Codec("MP3", start=300)
    assert identify(tag + mp3) == Codec("MP3", start=267)
    assert identify(tag + b"junk" * 20 + mp3) == Codec("MP3", start=347)
    assert identify(b"junk" * 20 + mp3) == Codec("MP3", start=80)  # the end of a frame
    for junk, most in ((b"junk" * 400, len(mp3)), (b"junk", 3 * mp3_frame_length(mp3[:3]))):
        assert refusal(junk + mp3[:most])[0] == "damaged"
    assert identify(tag + encode(format="FLAC")).name == "FLAC"
    assert refusal(tag)[0] == "damaged"


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\xff\xfd\x90\x04" + bytes(100), "MPEG Layer I or II"),
        (b"OggS\0\2" + bytes(20) + b"\1\x50" + b"Speex   1.2", "Speex in Ogg"),
        (b"OggS\0\2" + bytes(20) + b"\1\x2a" + b"\x80theora", "Theora video in Ogg"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer, not the file itself"),
    ],
)
def test_what_other_programs_write_is_named(data: bytes, name: str) -> None:
    assert refusal(data) == ("unsupported", name)


@pytest.mark.parametrize(
    ("data", "code", "facts"),
    [
        (b"", "empty", {}),
        (b"hello " * 100, "damaged", {"value": None}),
        ("hello ".encode("utf-16") * 9, "damaged", {}),
        (b"OggS\0\2", "cut", {"key": None}),
        (b"RIFF\0\0\0\0WAVE", "cut", {"key": "fmt "}),
    ],
)
def test_other_files_than_audio_are_reported(
    data: bytes, code: Code, facts: dict[str, object]
) -> None:
    with refused(AudioError, code, Path("clip"), **facts):
        identify(data)


def test_a_rate_of_zero_is_reported() -> None:
    wave = bytearray(encode(format="WAV"))
    wave[24:28] = bytes(4)
    with refused(AudioError, "value", key="sample rate", value=0):
        identify(bytes(wave))


def test_files_are_judged_by_their_bytes_not_their_names(tmp_path: Path) -> None:
    (tmp_path / "flac.mp3").write_bytes(encode(format="FLAC"))
    (tmp_path / "speech.gsm").write_bytes(b"hello " * 100)  # libsndfile would decode it as sound
    assert codec_of(tmp_path / "flac.mp3").name == "FLAC"
    cases: dict[str, Code] = {"speech.gsm": "damaged", "missing.wav": "missing", ".": "unreadable"}
    for name, code in cases.items():
        with refused(AudioError, code, tmp_path / name):
            codec_of(tmp_path / name)


def test_random_bytes_never_do_more_than_be_refused() -> None:
    random = np.random.default_rng(1)
    heads = (b"", b"RIFF\0\0\0\0WAVE", b"FORM\0\0\0\0AIFC", b"OggS\0\2", b"ID3\3\0\0", b"\xff\xfb")
    for number in range(600):
        data = heads[number % len(heads)] + random.bytes(int(random.integers(0, 300)))
        with contextlib.suppress(AudioError):
            assert identify(data).is_allowed
