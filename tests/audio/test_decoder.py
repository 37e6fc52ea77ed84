"""Check of a decoder's facts about a file: disguised codecs, invented lengths in headers."""

import io
import os
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from byola_rq.audio import opening
from byola_rq.audio.io import EncodedAudio, inspect_audio, read_audio
from byola_rq.errors import AudioError, Code
from tests.refusal import refused

RATE = 8_000
NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, RATE)
COMPRESSED = ["GSM610", "IMA_ADPCM", "DWVW_16", "DWVW_24"]


def encode(form: str, subtype: str | None = None, samples: np.ndarray = NOISE) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, subtype, format=form)
    return file.getvalue()


def disguised(subtype: str) -> bytes:
    """AIFF-C that calls itself AIFF, in which no codec is looked for by the format's rules."""
    return encode("AIFF", subtype).replace(b"AIFC", b"AIFF", 1)


def with_second_format(subtype: str) -> bytes:
    """A format chunk that says PCM before one that says another codec."""
    plain, other = encode("WAV", "PCM_16"), encode("WAV", subtype)
    return other[:12] + plain[12:36] + other[12:]


@pytest.mark.parametrize("subtype", COMPRESSED)
def test_an_aiff_s_codec_is_looked_for_whatever_its_form_says(subtype: str) -> None:
    sound = io.BytesIO(disguised(subtype))
    assert soundfile.info(sound).subtype == subtype  # it would be decoded
    with refused(AudioError, "unsupported", Path("a"), key="codec"):
        read_audio(EncodedAudio("a", disguised(subtype)), RATE)


@pytest.mark.parametrize("subtype", ["GSM610", "IMA_ADPCM", "MS_ADPCM"])
def test_a_decoder_that_finds_another_codec_is_not_used(subtype: str) -> None:
    data = with_second_format(subtype)
    assert opening.codec_of(EncodedAudio("a", data)).name == "PCM"
    with pytest.raises(AudioError) as caught:
        inspect_audio(EncodedAudio("a", data))
    assert caught.value.code in {"unsupported", "damaged"}
    assert caught.value.path == Path("a")


def test_codecs_are_judged_by_what_the_decoder_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were the bytes read otherwise than the decoder reads them, it would still not be used."""
    wave = encode("WAV", "IMA_ADPCM")
    monkeypatch.setattr(opening, "identify_codec", lambda _: opening.Codec("PCM"))
    with refused(AudioError, "unsupported", Path("a"), value="IMA_ADPCM in WAV"):
        inspect_audio(EncodedAudio("a", wave))


def crc(data: bytes, polynomial: int, num_bits: int) -> int:
    """A check sum as FLAC's and Ogg's, highest bit first, from 0."""
    value = 0
    for byte in data:
        value ^= byte << num_bits - 8
        for _ in range(8):
            value = value << 1 ^ (polynomial if value >> num_bits - 1 else 0)
            value &= (1 << num_bits) - 1
    return value


def number(value: int) -> bytes:
    """A FLAC frame's first sample, as UTF-8 would be written were it seven bytes long."""
    return b"\xfe" + bytes(0x80 | value >> 6 * place & 0x3F for place in range(5, -1, -1))


def flac(stated: int, firsts: list[int], block: int = 4_096) -> bytes:
    """Frames of one constant sample each, which say where they stand, and a stated length."""
    facts = RATE << 44 | 15 << 36 | stated
    data = b"fLaC\x80\0\0\x22" + struct.pack(">HH6xQ16x", 16, 65_535, facts)
    for first in firsts:
        header = b"\xff\xf9\x74\x08" + number(first) + struct.pack(">H", block - 1)
        header += bytes([crc(header, 0x07, 8)])
        frame = header + b"\0" + struct.pack(">h", 1_000)
        data += frame + struct.pack(">H", crc(frame, 0x8005, 16))
    return data


def ogg(granule: int, *, behind: bytes = b"") -> bytes:
    """Vorbis whose last page says that the sound ends there."""
    data = bytearray(encode("OGG", "VORBIS", np.tile(NOISE, 3)))  # of several pages
    last = [each.start() for each in re.finditer(rb"OggS\0", data)][-1]
    struct.pack_into("<q", data, last + 6, granule)
    struct.pack_into("<I", data, last + 22, 0)
    struct.pack_into("<I", data, last + 22, crc(data[last:], 0x04C11DB7, 32))
    return bytes(data) + behind


def test_silence_is_as_long_as_it_says() -> None:
    data = flac(300 * 4_096, [place * 4_096 for place in range(300)])
    assert 64 * len(data) < 300 * 4_096  # so that it is counted
    assert inspect_audio(EncodedAudio("a", data)).num_samples == 300 * 4_096
    assert len(read_audio(EncodedAudio("a", data), RATE)) == 300 * 4_096


LONGEST = 2**36 - 1
INVENTED = {
    "flac": flac(LONGEST, [0, LONGEST - 4_096]),
    "flac of one frame": flac(LONGEST, [LONGEST - 4_096]),
    "flac of 37 hours": flac(2**30, [0, 2**30 - 4_096]),
    "vorbis": ogg(LONGEST),
    "vorbis of two minutes": ogg(960_000),
    "vorbis before another": ogg(2**32, behind=encode("OGG", "VORBIS")),
}


@pytest.mark.parametrize("kind", INVENTED)
def test_a_length_far_beyond_the_file_s_size_must_decode(kind: str, tmp_path: Path) -> None:
    data = INVENTED[kind]
    assert soundfile.info(io.BytesIO(data)).frames > 64 * len(data)
    with refused(AudioError, "cut", Path("a")):
        inspect_audio(EncodedAudio("a", data))
    (tmp_path / "a").write_bytes(data)
    for _ in range(2):  # also of a file that could be remembered
        with refused(AudioError, "cut", tmp_path / "a"):
            inspect_audio(tmp_path / "a")


def lying(form: str, name: bytes, code: str, behind: int, value: int) -> bytes:
    """A number of a header changed, so many bytes behind a name."""
    data = bytearray(encode(form, None if form == "MP3" else "PCM_16"))
    struct.pack_into(code, data, data.index(name) + behind, value)
    return bytes(data)


SIZES = [0, 1, 40_000, 2**31 - 1, 2**31, 3_000_000_000, 2**32 - 1]
LONG_SIZES = [0, 23, 2**31, 2**32 - 1, 2**40, 2**63 - 1]
FIELDS: list[tuple[str, bytes, str, int, list[int]]] = [
    ("WAV", b"data", "<I", 4, SIZES),
    ("WAV", b"fmt ", "<H", 20, [0, 1, 3, 2**16 - 1]),  # bytes of a frame
    ("RF64", b"data", "<I", 4, SIZES),
    ("RF64", b"ds64", "<Q", 16, LONG_SIZES),
    ("RF64", b"ds64", "<Q", 24, LONG_SIZES),  # samples
    ("AIFF", b"COMM", ">I", 10, SIZES),  # samples
    ("AIFF", b"SSND", ">I", 4, SIZES),
    ("CAF", b"data", ">q", 4, [-1, *LONG_SIZES]),
    ("W64", b"data", "<Q", 16, LONG_SIZES),
    ("AU", b".snd", ">I", 8, SIZES),
    ("AU", b".snd", ">I", 4, SIZES),  # where the sound begins
    ("MP3", b"Xing", ">I", 8, SIZES),
    ("MP3", b"Xing", ">I", 12, SIZES),  # bytes
]


@pytest.mark.parametrize(("form", "name", "code", "behind", "values"), FIELDS)
def test_no_header_makes_a_file_longer_than_it_is(
    form: str, name: bytes, code: str, behind: int, values: list[int]
) -> None:
    """Refused, or as long as its bytes are: an MP3's frames and a header counted as sound."""
    num_read, codes = 0, set()
    for value in values:
        data = lying(form, name, code, behind, value)
        try:
            num_samples = inspect_audio(EncodedAudio("a", data)).num_samples
        except AudioError as error:
            codes.add(error.code)
            continue
        assert num_samples <= 1.25 * len(NOISE), value
        assert len(read_audio(EncodedAudio("a", data), RATE)) == num_samples, value
        num_read += 1
    assert codes <= {"cut", "damaged", "empty", "value", "unsupported"}
    assert num_read  # of each kind some number is right, or not believed


def test_a_nist_header_cannot_either() -> None:
    data = encode("NIST", "PCM_16")
    stated = re.search(rb"sample_count -i \d+", data)
    assert stated
    for count in (RATE + 100, 10**9, 10**15):
        line = b"sample_count -i %d" % count
        head = data[:1024].replace(stated[0], line)[:1024].ljust(1024, b"\0")
        with refused(AudioError, "cut"):
            inspect_audio(EncodedAudio("a", head + data[1024:]))


def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    cases: dict[str, Code] = {"pipe.wav": "unreadable", ".": "unreadable", "gone": "missing"}
    for name, code in cases.items():
        with refused(AudioError, code, tmp_path / name):
            inspect_audio(tmp_path / name)


def test_a_file_exchanged_between_checks_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path is opened once: another file under it is never decoded by this one's checks."""
    path, other = tmp_path / "a.wav", tmp_path / "b.wav"
    path.write_bytes(encode("WAV", "PCM_16"))
    other.write_bytes(encode("WAV", "IMA_ADPCM"))
    expected = read_audio(path, RATE)
    os.utime(path, ns=(0, 0))  # not remembered any more
    find_truncation = opening.find_truncation

    def exchange(file: object) -> str | None:
        os.replace(other, path)
        return find_truncation(file)  # type: ignore[arg-type]

    monkeypatch.setattr(opening, "find_truncation", exchange)
    assert read_audio(path, RATE).equal(expected)
    monkeypatch.undo()
    with refused(AudioError, "unsupported", path):
        read_audio(path, RATE)
