"""Clips as int16: every codec, rate and channel count, parts, and every way to be wrong."""

import io
import struct
import subprocess
import sys
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from byola_rq import AudioError
from byola_rq.audio.io import EncodedAudio
from byola_rq.errors import Code
from byola_rq.packing.decode import (
    ClipJob,
    ClipRules,
    DecodedClip,
    decode_clip,
    decode_clips,
    jobs_of,
    measure_lengths,
)
from byola_rq.runtime.sandbox import Failure, Limits
from byola_rq.sources.clip_source import ClipSource
from tests.refusal import refused


def sound(seconds: float, rate: int, channels: int = 1) -> np.ndarray:
    """A falling tone in noise, louder than full scale at times; float `(S, channels)`."""
    time = np.arange(round(seconds * rate)) / rate
    tone = 0.9 * np.sin(2 * np.pi * 900 * np.exp(-time) * time)
    noise = np.random.default_rng(rate + channels).normal(0, 0.1, (len(time), channels))
    return (tone[:, None] + noise).astype(np.float32)


def decode(source: Path | ClipSource, rules: ClipRules | None = None) -> DecodedClip:
    clip = source if isinstance(source, ClipSource) else ClipSource("clip", file=str(source))
    return decode_clip(ClipJob(clip), rules or ClipRules())


def refusal(source: Path | ClipSource, rules: ClipRules | None = None) -> AudioError:
    with pytest.raises(AudioError) as caught:
        decode(source, rules)
    return caught.value


def facts(error: AudioError) -> tuple[object, ...]:
    return error.code, error.key, error.value


def reference(path: Path, start: int = 0, stop: int | None = None) -> np.ndarray:
    """The same by the plainest means: all at once, in double precision where that is possible."""
    with soundfile.SoundFile(path) as file:
        frames = file.read(dtype="float32", always_2d=True)[start:stop]
        waveform = frames.mean(axis=1, dtype=np.float32)
        if file.samplerate != 16000:
            waveform = soxr.resample(waveform, file.samplerate, 16000, quality="HQ")
    scaled = np.rint(waveform.astype(np.float64) * 32768)
    return np.clip(scaled, -32768, 32767).astype(np.int16)


FORMS = [
    ("a.wav", {"subtype": "PCM_16"}),
    ("a.wav", {"subtype": "PCM_24"}),
    ("a.wav", {"subtype": "PCM_32"}),
    ("a.wav", {"subtype": "PCM_U8"}),
    ("a.wav", {"subtype": "FLOAT"}),
    ("a.wav", {"subtype": "DOUBLE"}),
    ("a.wav", {"subtype": "ALAW"}),
    ("a.wav", {"subtype": "ULAW"}),
    ("a.wav", {"subtype": "PCM_16", "endian": "BIG"}),
    ("a.rf64", {"format": "RF64", "subtype": "PCM_16"}),
    ("a.wav", {"format": "WAVEX", "subtype": "PCM_24"}),
    ("a.aiff", {"subtype": "PCM_24"}),
    ("a.aiff", {"subtype": "FLOAT"}),
    ("a.au", {"subtype": "PCM_16"}),
    ("a.snd", {"format": "AU", "subtype": "ULAW", "endian": "BIG"}),
    ("a.caf", {"subtype": "FLOAT"}),
    ("a.w64", {"subtype": "PCM_24"}),
    ("a.sph", {"format": "NIST", "subtype": "PCM_16"}),
    ("a.flac", {"subtype": "PCM_16"}),
    ("a.flac", {"subtype": "PCM_24"}),
    ("a.ogg", {"subtype": "VORBIS"}),
    ("a.opus", {"format": "OGG", "subtype": "OPUS"}),
    ("a.mp3", {}),
]


@pytest.mark.parametrize(("rate", "channels"), [(16000, 1), (44100, 2), (48000, 2), (8000, 1)])
@pytest.mark.parametrize(("name", "form"), FORMS, ids=str)
def test_every_codec_is_decoded_mixed_and_resampled(
    tmp_path: Path, name: str, form: dict[str, str], rate: int, channels: int
) -> None:
    if form.get("subtype") == "OPUS" and rate == 44100:
        rate = 24000  # which Opus has
    path = tmp_path / name
    soundfile.write(path, sound(3.1, rate, channels), rate, **form)
    clip = decode(path)
    assert clip.original_rate == rate
    assert clip.samples.dtype == np.int16
    assert clip.samples.nbytes == 2 * len(clip.samples)
    assert abs(len(clip.samples) - 3.1 * 16000) <= 1
    np.testing.assert_array_equal(clip.samples, reference(path))


@pytest.mark.parametrize("channels", [3, 6, 8])
def test_channels_are_averaged(tmp_path: Path, channels: int) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, sound(1, 22050, channels), 22050, subtype="FLOAT")
    samples, expected = decode(path).samples, reference(path)
    # The order in which eight float32 are added moves a few values over a rounding border.
    assert np.abs(samples.astype(int) - expected).max() <= 1
    assert (samples != expected).mean() < 0.01


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.aiff"])
def test_int16_at_16_khz_survives_to_the_bit(tmp_path: Path, name: str) -> None:
    samples = np.random.default_rng(0).integers(-32768, 32768, 300_000).astype(np.int16)
    samples[:3] = [-32768, 32767, 0]
    soundfile.write(tmp_path / name, samples, 16000, subtype="PCM_16")
    np.testing.assert_array_equal(decode(tmp_path / name).samples, samples)


def test_louder_than_full_scale_is_clipped_not_wrapped(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.array([1.0, 1.5, -1.5, 0.0]), 16000, subtype="FLOAT")
    assert decode(tmp_path / "a.wav").samples.tolist() == [32767, 32767, -32768, 0]


def test_real_recordings(recordings: Path) -> None:
    paths = sorted((recordings / "pool").rglob("*.ogg"))[:8]
    paths += sorted((recordings / "fsdd").rglob("*.flac"))[:8]
    assert len(paths) == 16
    for path in paths:
        np.testing.assert_array_equal(decode(path).samples, reference(path))


# Parts.


@pytest.mark.parametrize(("rate", "name"), [(16000, "a.flac"), (44100, "a.wav"), (48000, "a.ogg")])
def test_a_part_of_a_longer_file(tmp_path: Path, rate: int, name: str) -> None:
    path = tmp_path / name
    soundfile.write(path, sound(12, rate), rate)
    part = decode(ClipSource("x", file=str(path), start_seconds=3.5, num_seconds=5.25)).samples
    assert len(part) == 84000
    np.testing.assert_array_equal(part, reference(path, round(3.5 * rate), round(8.75 * rate)))
    to_the_end = decode(ClipSource("x", file=str(path), start_seconds=10.0)).samples
    np.testing.assert_array_equal(to_the_end, reference(path, 10 * rate))
    over_the_end = decode(
        ClipSource("x", file=str(path), start_seconds=10.0, num_seconds=10.0)
    ).samples
    np.testing.assert_array_equal(over_the_end, to_the_end)


def test_limits_are_of_the_part_not_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, sound(12, 8000), 8000)
    rules = ClipRules(min_seconds=1, max_seconds=5)
    assert (
        len(decode(ClipSource("x", file=str(path), start_seconds=7, num_seconds=5), rules).samples)
        == 80000
    )
    assert facts(refusal(path, rules)) == ("too-large", "length", 12.0)
    short = ClipSource("x", file=str(path), start_seconds=11.5, num_seconds=5)
    assert facts(refusal(short, rules)) == ("too-short", "length", 0.5)
    behind = ClipSource("x", file=str(path), start_seconds=12.5, num_seconds=5)
    assert "12.000 s" in str(refusal(behind, rules))


def test_members_of_a_tar(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", sound(2, 16000), 16000)
    soundfile.write(tmp_path / "b.mp3", sound(2, 32000), 32000)
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for name in ("a.flac", "b.mp3"):
            tar.add(tmp_path / name, name)
    with tarfile.open(tmp_path / "s.tar") as tar:
        places = [(member.offset_data, member.size) for member in tar.getmembers()]
    for name, (offset, size) in zip(("a.flac", "b.mp3"), places, strict=True):
        clip = ClipSource(name, file=str(tmp_path / "s.tar"), offset=offset, size=size, name=name)
        np.testing.assert_array_equal(decode(clip).samples, reference(tmp_path / name))
    gone = ClipSource(
        "c", file=str(tmp_path / "s.tar"), offset=offset, size=size + 10**6, name="c.flac"
    )
    assert refusal(gone).code == "cut"


# What is wrong with files.


def encode(name: str, seconds: float = 3, rate: int = 16000, **form: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, sound(seconds, rate), rate, format=name, **form)
    return file.getvalue()


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def with_hole(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + np.random.default_rng(0).bytes(2000) + data[middle + 2000 :]


def wave_with(at: int, form: str, value: int) -> bytes:
    data = bytearray(encode("WAV"))
    data[at : at + struct.calcsize(form)] = struct.pack(form, value)
    return bytes(data)


def wave_of(samples: np.ndarray, rate: int = 16000, subtype: str = "FLOAT") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype=subtype)
    return file.getvalue()


def holed(value: float) -> np.ndarray:
    samples = sound(3, 16000)
    samples[40000] = value
    return samples


BAD: dict[str, tuple[bytes, set[Code], str]] = {  # data, what is wrong, with which numbers or names
    "empty": (b"", {"empty"}, "0 bytes"),
    "text": (b"hello " * 100, {"damaged"}, ""),  # whose words are quoted nowhere
    "half wav": (half(encode("WAV")), {"cut"}, "47978 of 96000 bytes"),
    "half aiff": (half(encode("AIFF")), {"cut"}, "47981 of 96008 bytes"),
    "half flac": (half(encode("FLAC")), {"cut"}, "sample 47999"),
    "half ogg": (half(encode("OGG")), {"cut"}, "Ogg"),
    "half opus": (half(encode("OGG", subtype="OPUS")), {"cut"}, "Ogg"),
    "half mp3": (half(encode("MP3")), {"cut"}, ""),
    "hole in flac": (with_hole(encode("FLAC")), {"unreadable"}, ""),
    "hole in ogg": (with_hole(encode("OGG")), {"damaged"}, "of 3.00 s"),
    "hole in opus": (with_hole(encode("OGG", subtype="OPUS")), {"damaged"}, "of 3.00 s"),
    "hole in mp3": (with_hole(encode("MP3")), {"cut", "damaged", "unreadable"}, ""),
    "0 Hz": (wave_with(24, "<I", 0), {"value"}, "sample rate"),
    "10 MHz": (wave_with(24, "<I", 10**7), {"value"}, "10000000 Hz"),
    "lying header": (wave_with(40, "<I", 0x7F000000), {"cut"}, "96000 of 2130706432 bytes"),
    "no channel": (wave_with(22, "<H", 0), {"damaged"}, ""),
    "9 channels": (wave_of(np.zeros((100, 9))), {"value"}, "channels"),
    "no sample": (wave_of(np.zeros(0)), {"empty"}, "one sample;"),
    "one at 48 kHz": (wave_of(np.zeros(1), 48000), {"empty"}, "16 kHz"),
    "nan": (wave_of(holed(np.nan)), {"not-finite"}, "40000 (at 2.500 s) is nan"),
    "inf": (wave_of(holed(-np.inf)), {"not-finite"}, "40000 (at 2.500 s) is -inf"),
    "2 hours": (wave_of(np.zeros(7200 * 1000), 1000, "PCM_U8"), {"too-large"}, "7200.00 s"),
    "ADPCM": (encode("WAV", subtype="IMA_ADPCM"), {"unsupported"}, "codec"),
    "GSM": (encode("WAV", rate=8000, subtype="GSM610"), {"unsupported"}, "codec"),
    "G.721": (encode("AU", subtype="G721_32"), {"unsupported"}, "codec"),
    "integers in floats": (wave_of(sound(1, 16000) * 32767), {"too-large"}, "16 times full scale"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_files_are_left_out_with_the_reason_alone(tmp_path: Path, kind: str) -> None:
    data, codes, told = BAD[kind]
    path = tmp_path / "bad.wav"
    path.write_bytes(data)
    from_file = refusal(path)
    assert from_file.code in codes, from_file
    assert told in str(from_file)
    assert str(tmp_path) not in str(from_file)
    clip = ClipSource("x", file="x.parquet", row=7, name="bad")
    with pytest.raises(AudioError) as caught:
        decode_clip(ClipJob(clip, EncodedAudio(str(clip), data)), ClipRules())
    assert str(caught.value) == str(from_file)


def test_errors_of_the_reader_are_passed_on() -> None:
    clip = ClipSource("x", file="x.parquet", row=7)
    error = AudioError(f"{clip}: bytes must not be null", code="missing", key="bytes", value=None)
    with refused(AudioError, "missing", key="bytes") as caught:
        decode_clip(ClipJob(clip, error), ClipRules())
    assert str(caught.value) == "bytes must not be null"
    assert refusal(Path("nowhere/missing.wav")).code == "missing"


def test_good_files_that_look_odd(tmp_path: Path) -> None:
    flac, mp3 = encode("FLAC"), encode("MP3")
    # As encoders write them to a pipe: the length is not known yet.
    piped = bytearray(flac)
    piped[21] &= 0xF0
    piped[22:26] = bytes(4)
    streamed_wave = wave_with(40, "<I", 0xFFFFFFFF)
    tag = b"ID3\3\0\0\0\0\0\x0a" + bytes(10)
    odd = {
        "flac.wav": flac,
        "piped.flac": bytes(piped),
        "streamed.wav": streamed_wave,
        "padded.mp3": bytes(500) + mp3,
        "tag_and_padding.bin": tag + bytes(500) + mp3,
    }
    for name, data in odd.items():
        (tmp_path / name).write_bytes(data)
        assert len(decode(tmp_path / name).samples) == 48000, name
    (tmp_path / "plain.flac").write_bytes(flac)
    expected = reference(tmp_path / "plain.flac")
    np.testing.assert_array_equal(decode(tmp_path / "piped.flac").samples, expected)
    part = ClipSource("x", file=str(tmp_path / "piped.flac"), start_seconds=1, num_seconds=5)
    np.testing.assert_array_equal(decode(part).samples, expected[16000:])
    too_long = refusal(tmp_path / "piped.flac", ClipRules(max_seconds=2))
    assert facts(too_long) == ("too-large", "length", 3.0)


def test_what_macos_leaves_beside_files_does_not_matter(tmp_path: Path) -> None:
    for name in ("a.mp3", "a.wav", "a.ogg"):
        (tmp_path / name).write_bytes(encode(name[2:].upper()))
        (tmp_path / f"._{name}").write_bytes(bytes.fromhex("00051607 00020000") + bytes(100))
        assert len(decode(tmp_path / name).samples) == 48000


def test_memory_is_that_of_the_samples_not_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.zeros((48000 * 60, 8), np.int16), 48000)  # 92 MB as float32
    tracemalloc.start()
    samples = decode(path).samples
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(samples) == 960_000
    assert peak < 2 * samples.nbytes + 12e6


# In processes.


def test_clips_come_in_order_from_files_and_tables(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    soundfile.write(tmp_path / "a.wav", sound(0.5, 16000), 16000)
    (tmp_path / "b.wav").write_bytes(b"")
    audio = [{"bytes": encode("OGG", 0.25)}, {"bytes": None}, {"bytes": encode("FLAC", 0.75)}]
    pq.write_table(pa.table({"audio": audio}), tmp_path / "t.parquet")
    clips = [
        ClipSource("a", file=str(tmp_path / "a.wav")),
        ClipSource("b", file=str(tmp_path / "b.wav")),
    ]
    clips += [ClipSource(f"t/{row}", file=str(tmp_path / "t.parquet"), row=row) for row in range(3)]
    clips += clips[:2]
    results = list(decode_clips(jobs_of(clips), ClipRules(), num_workers=2, limits=Limits()))
    lengths = [len(each.samples) if isinstance(each, DecodedClip) else 0 for each in results]
    assert lengths == [8000, 0, 4000, 0, 12000, 8000, 0]
    assert isinstance(results[1], Failure)
    assert "0 bytes" in results[1].reason
    seconds = measure_lengths(jobs_of(clips), ClipRules(), num_workers=1, limits=Limits())
    assert seconds == [0.5, 0.0, 0.25, 0.0, 0.75, 0.5, 0.0]


def test_workers_import_nothing_heavy() -> None:
    code = "import sys, byola_rq.packing.decode; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "soundfile" in loaded
    assert not loaded & {"torch", "pyarrow", "pandas", "rich", "typer"}
