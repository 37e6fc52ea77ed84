"""Lengths are what decodes, whatever headers say; files that are several streams are read whole."""

import io
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from byola_rq.audio.containers import mp3_frame_length
from byola_rq.audio.io import EncodedAudio, inspect_audio, read_audio
from byola_rq.audio.pieces import SplicedFile
from byola_rq.errors import AudioError
from tests.refusal import refused

RATE = 16_000
NOISE = 0.1 * np.random.default_rng(0).standard_normal(32_000)
EXACTLY = {"rtol": 0, "atol": 0}


def encode(samples: np.ndarray = NOISE, rate: int = RATE, **form: object) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, **form)
    return file.getvalue()


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def without_count(mp3: bytes) -> bytes:
    """The file without its first frame, which holds the counts."""
    return mp3[mp3_frame_length(mp3[:3]) :]


@pytest.mark.parametrize("loud_first", [True, False])
@pytest.mark.parametrize("rate", [44_100, 16_000])
def test_mp3_of_variable_rate_without_a_count(
    tmp_path: Path, rate: int, *, loud_first: bool
) -> None:
    loud, quiet = 0.3 * np.random.default_rng(0).standard_normal(rate * 5), np.zeros(rate * 15)
    sound = np.concatenate([loud, quiet] if loud_first else [quiet, loud])
    form = {"format": "MP3", "bitrate_mode": "VARIABLE", "compression_level": 0.3}
    whole = encode(sound, rate, **form)
    path = write(tmp_path / "a.mp3", without_count(whole))
    frame = 1152 if rate > 24_000 else 576
    # Without the count, what the encoder put before and behind the sound is not taken off.
    assert 0 <= inspect_audio(path).num_samples - len(sound) <= 4 * frame
    read = read_audio(path, rate)
    assert len(read) == inspect_audio(path).num_samples
    half = len(read) // 2
    energies = [part.square().sum() for part in (read[:half], read[half:])]
    assert (energies[0] > 100 * energies[1]) == loud_first


def test_mp3_whose_count_is_too_small(tmp_path: Path) -> None:
    data = bytearray(encode(format="MP3"))
    place = max(data.find(b"Xing"), data.find(b"Info")) + 8
    (frames,) = struct.unpack_from(">I", data, place)
    struct.pack_into(">I", data, place, frames // 3)
    assert inspect_audio(write(tmp_path / "a.mp3", data)).num_samples >= len(NOISE)


JOINED = {
    "mp3": {"format": "MP3"},
    "vorbis": {"format": "OGG", "subtype": "VORBIS"},
    "opus": {"format": "OGG", "subtype": "OPUS"},
    "flac": {"format": "FLAC"},
}


@pytest.mark.parametrize("kind", JOINED)
@pytest.mark.parametrize("rate", [RATE, 48_000])
def test_files_one_behind_the_other(tmp_path: Path, kind: str, rate: int) -> None:
    parts = [encode(part, rate, **JOINED[kind]) for part in (NOISE, NOISE[:20_000][::-1])]
    paths = [write(tmp_path / f"{place}.x", part) for place, part in enumerate(parts)]
    joined = write(tmp_path / "joined.x", b"".join(parts))
    assert inspect_audio(joined).num_samples == 52_000
    expected = torch.cat([read_audio(path, rate) for path in paths])
    torch.testing.assert_close(read_audio(joined, rate), expected, **EXACTLY)
    torch.testing.assert_close(
        read_audio(joined, rate, 40_000, 5_000), expected[40_000:45_000], rtol=0, atol=1e-3
    )
    encoded = EncodedAudio("s.tar::a", joined.read_bytes())
    torch.testing.assert_close(read_audio(encoded, rate), expected, **EXACTLY)


def test_three_flac_of_which_one_is_cut_or_states_no_length(tmp_path: Path) -> None:
    flac = encode(np.resize(NOISE, 20 * RATE), format="FLAC")
    open_end = flac[:21] + bytes((flac[21] & 0xF0,)) + bytes(4) + flac[26:]
    path = write(tmp_path / "a.flac", b"ID3\3\0\0\0\0\0\4abcd" + flac + open_end + flac)
    assert inspect_audio(path).num_samples == 60 * RATE
    one = read_audio(write(tmp_path / "one.flac", flac), RATE)
    torch.testing.assert_close(read_audio(path, RATE), one.repeat(3), **EXACTLY)
    for data in (flac + flac[:-5_000], flac[:-5_000] + flac):
        with refused(AudioError, "cut", tmp_path / "a.flac"):
            inspect_audio(write(tmp_path / "a.flac", data))


def test_a_tag_with_a_picture_between_two_mp3(tmp_path: Path) -> None:
    mp3 = encode(format="MP3")
    picture = b"\xff\xd8\xff\xe0" + np.random.default_rng(1).bytes(150_000)
    size = bytes(len(picture) >> shift & 127 for shift in (21, 14, 7, 0))
    tag = b"ID3\3\0\0" + size + picture
    old_tag = b"TAG" + bytes(125)
    path = write(tmp_path / "a.mp3", tag + mp3 + old_tag + tag + mp3)
    assert inspect_audio(path).num_samples == 2 * len(NOISE)


def test_a_tag_with_a_footer(tmp_path: Path) -> None:
    mp3 = encode(format="MP3")
    fields = b"\4\0\x10" + bytes((0, 0, 1, 0))
    path = write(tmp_path / "a.mp3", b"ID3" + fields + bytes(128) + b"3DI" + fields + mp3)
    assert inspect_audio(path).num_samples == len(NOISE)


def test_joined_files_of_another_form_are_reported(tmp_path: Path) -> None:
    for name, data in {
        "a.mp3": encode(format="MP3") + encode(rate=44_100, format="MP3"),
        "a.flac": encode(format="FLAC") + encode(rate=44_100, format="FLAC"),
        "a.ogg": encode(format="OGG") + encode(rate=44_100, format="OGG"),
    }.items():
        with refused(AudioError, "unsupported", tmp_path / name, key="sample rate"):
            inspect_audio(write(tmp_path / name, data))


@pytest.mark.parametrize("form", ["WAV", "AIFF", "AU", "CAF", "W64"])
@pytest.mark.parametrize("seconds", [0.1, 30])
def test_files_of_which_only_the_first_is_read_are_reported(
    tmp_path: Path, form: str, seconds: float
) -> None:
    data = encode(np.resize(NOISE, int(seconds * RATE)), format=form)
    assert inspect_audio(write(tmp_path / "a", data)).num_samples == int(seconds * RATE)
    with refused(AudioError, "unsupported", tmp_path / "a", key="byte") as caught:
        inspect_audio(write(tmp_path / "a", data + data))
    assert abs(caught.value.value - len(data)) <= 24  # some chunks' content begins behind a header


SIZED = {
    "wav": ({"format": "WAV", "subtype": "PCM_16"}, b"data", "<"),
    "rifx": ({"format": "WAV", "subtype": "PCM_16", "endian": "BIG"}, b"data", ">"),
    "aiff": ({"format": "AIFF", "subtype": "PCM_16"}, b"SSND", ">"),
    "au": ({"format": "AU", "subtype": "PCM_16"}, b"", ">"),
}


def with_size(data: bytes, name: bytes, order: str, size: int) -> bytes:
    changed = bytearray(data)
    place = data.find(name) + 4 if name else 8
    struct.pack_into(f"{order}I", changed, place, size)
    return bytes(changed)


@pytest.mark.parametrize("kind", SIZED)
@pytest.mark.parametrize("behind", [b"", b"junk" * 9])
def test_sound_data_without_a_size_go_to_the_end(tmp_path: Path, kind: str, behind: bytes) -> None:
    form, name, order = SIZED[kind]
    whole = write(tmp_path / "whole", encode(**form))
    path = write(tmp_path / "a", with_size(whole.read_bytes(), name, order, 0) + behind)
    num_behind = len(behind) // 2
    assert inspect_audio(path).num_samples in {len(NOISE) + num_behind, len(NOISE)}
    expected = read_audio(whole, RATE)
    torch.testing.assert_close(read_audio(path, RATE)[: len(NOISE)], expected, **EXACTLY)


def chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content


def wave(*chunks: bytes, magic: bytes = b"RIFF") -> bytes:
    return magic + struct.pack("<I", 4 + len(b"".join(chunks))) + b"WAVE" + b"".join(chunks)


PCM = chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, RATE, 2 * RATE, 2, 16))
# 24 bits in frames of 32, of which a decoder takes three bytes at a time.
GUID = bytes.fromhex("0100000000001000800000aa00389b71")
PCM_24 = struct.pack("<HHIIHHHHI", 0xFFFE, 1, RATE, 4 * RATE, 4, 24, 22, 24, 4) + GUID
SAMPLES = np.round(NOISE * 2**15).astype("<i2")
DATA = chunk(b"data", SAMPLES.tobytes())
NO_SIZES = chunk(b"ds64", bytes(28))
UNSTATED = b"data\xff\xff\xff\xff" + SAMPLES.tobytes()
WAVES = {
    "BW64": wave(
        chunk(b"ds64", struct.pack("<3QI", 0, 64_000, 0, 0)), PCM, UNSTATED, magic=b"BW64"
    ),
    "RF64 without a size": wave(NO_SIZES, PCM, UNSTATED, magic=b"RF64"),
    "odd chunk without padding": wave(PCM, chunk(b"LIST", b"INFO" + bytes(99)), DATA),
    "odd chunk in front": wave(chunk(b"bext", bytes(603)), PCM, DATA),
    "chunk without a name": wave(PCM, chunk(b"\0\1ab", bytes(100)), DATA),
    "chunk of 100 kB": wave(PCM, chunk(b"iXML", b"<x/>" * 25_000), DATA),
    "24 bits in 32": wave(
        chunk(b"fmt ", PCM_24), chunk(b"data", (SAMPLES.astype("<i4") << 16).tobytes())
    ),
}


@pytest.mark.parametrize("kind", WAVES)
def test_wave_headers_that_decoders_misread(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / "a.wav", WAVES[kind])
    expected = torch.from_numpy(SAMPLES / np.float32(2**15))
    torch.testing.assert_close(read_audio(path, RATE), expected, **EXACTLY)


def test_caf_without_a_size(tmp_path: Path) -> None:
    data = bytearray(encode(format="CAF", subtype="PCM_16"))
    place = data.find(b"data") + 4
    data[place : place + 8] = struct.pack(">q", -1)
    whole = write(tmp_path / "whole", encode(format="CAF", subtype="PCM_16"))
    path = write(tmp_path / "a.caf", data)
    torch.testing.assert_close(read_audio(path, RATE), read_audio(whole, RATE), **EXACTLY)


TAGGED = JOINED | {form: {"format": form} for form in ("WAV", "AIFF", "AU", "CAF", "W64")}


@pytest.mark.parametrize("kind", TAGGED)
def test_a_tag_with_a_picture_before_any_format(tmp_path: Path, kind: str) -> None:
    data = encode(**TAGGED[kind])
    tag = b"ID3\3\0\0" + bytes((0, 6, 13, 32)) + b"\xff\xd8\xff\xe0" * 25_000
    path = write(tmp_path / "a", tag + data)
    expected = read_audio(write(tmp_path / "whole", data), RATE)
    torch.testing.assert_close(read_audio(path, RATE), expected, **EXACTLY)
    torch.testing.assert_close(
        read_audio(path, RATE, 20_000, 5_000), expected[20_000:25_000], rtol=0, atol=1e-6
    )
    encoded = EncodedAudio("s.tar::a", path.read_bytes())
    torch.testing.assert_close(read_audio(encoded, RATE), expected, **EXACTLY)
    with refused(AudioError, "cut", path):
        inspect_audio(write(path, tag + data[: len(data) // 2]))


def test_silence_at_the_begin_is_sound_as_well(tmp_path: Path) -> None:
    silence = np.concatenate([np.zeros(8_000), NOISE])
    wave = with_size(encode(silence, format="WAV", subtype="PCM_16"), b"data", "<", 0)
    assert inspect_audio(write(tmp_path / "a.wav", wave)).num_samples == len(silence)


def test_a_size_that_was_never_brought_up_to_date(tmp_path: Path) -> None:
    wave = encode(format="WAV", subtype="PCM_16")
    path = write(tmp_path / "a.wav", with_size(wave, b"data", "<", 20_000))
    assert inspect_audio(path).num_samples == len(NOISE)


@pytest.mark.parametrize(
    "behind",
    [bytes(9_000), b"LIST" + struct.pack("<I", 9_000) + bytes(9_000), b"ID3\3" + b"x" * 9_000],
    ids=["zeros", "chunk", "tag"],
)
def test_what_stands_behind_the_sound_is_none(tmp_path: Path, behind: bytes) -> None:
    path = write(tmp_path / "a.wav", encode(format="WAV", subtype="PCM_16") + behind)
    assert inspect_audio(path).num_samples == len(NOISE)


def test_a_wave_without_sound_is_empty(tmp_path: Path) -> None:
    empty = encode(np.zeros(0), format="WAV")
    for behind in (b"", b"LIST" + struct.pack("<I", 40) + bytes(40)):
        with refused(AudioError, "empty", tmp_path / "a.wav"):
            inspect_audio(write(tmp_path / "a.wav", empty + behind))


def test_a_file_that_changes_is_looked_into_again(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp3", encode(format="MP3"))
    assert inspect_audio(path).num_samples == 32_000
    write(path, path.read_bytes() * 2)
    assert inspect_audio(path).num_samples == 64_000


def test_names_are_bytes_and_sidecars_are_not_looked_at(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/chanson_d\xe9t\xe9.mp3"
    Path(os.fsdecode(name)).write_bytes(encode(format="MP3"))
    assert len(read_audio(Path(os.fsdecode(name)), RATE)) == 32_000
    (tmp_path / "a.mp3").write_bytes(encode(format="MP3"))
    sidecar = struct.pack(">II16sH", 0x00051607, 0x00020000, b"Mac OS X        ", 2)
    sidecar += struct.pack(">III", 9, 50, 32) + struct.pack(">III", 2, 82, 286) + bytes(318)
    (tmp_path / "._a.mp3").write_bytes(sidecar)
    assert len(read_audio(tmp_path / "a.mp3", RATE)) == 32_000
    with refused(AudioError, "unsupported", tmp_path / "._a.mp3", key="codec"):
        inspect_audio(tmp_path / "._a.mp3")


def test_nothing_stays_open(tmp_path: Path) -> None:
    bad = write(tmp_path / "bad.wav", encode(format="WAV")[:40])
    joined = write(tmp_path / "a.mp3", encode(format="MP3") * 2)
    before = len(os.listdir("/dev/fd"))
    for _ in range(20):
        with pytest.raises(AudioError):
            inspect_audio(bad)
        inspect_audio(joined)
    assert len(os.listdir("/dev/fd")) == before


def test_a_spliced_file_reads_as_one() -> None:
    data = np.random.default_rng(0).bytes(300)
    spliced = SplicedFile(io.BytesIO(data), [(10, 100), b"between", (200, 50), (0, 3)])
    expected = data[10:110] + b"between" + data[200:250] + data[:3]
    assert spliced.seek(0, io.SEEK_END) == len(expected)
    for first, number in ((0, 500), (99, 10), (105, 60), (159, 5), (160, 9), (400, 3)):
        assert spliced.seek(first) == first
        assert spliced.read(number) == expected[first : first + number]
        assert spliced.tell() == max(first, min(first + number, len(expected)))
