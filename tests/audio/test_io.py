"""Reading audio: formats, rates, parts, and files that are not what they seem."""

import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from byola_rq import AudioError
from byola_rq.audio.io import (
    EncodedAudio,
    fit_length,
    inspect_audio,
    pad_both_ends,
    read_audio,
    resample,
)
from byola_rq.errors import Code
from tests.refusal import refused

EXACTLY = {"rtol": 0, "atol": 0}


def tone(seconds: float, rate: int, hertz: float = 440.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


@pytest.mark.parametrize(
    ("name", "subtype", "tolerance"),
    [
        ("a.wav", "PCM_16", 2**-15),
        ("a.wav", "PCM_24", 2**-23),
        ("a.wav", "FLOAT", 1e-7),
        ("a.wav", "PCM_U8", 2**-7),
        ("a.flac", "PCM_24", 2**-23),
        ("a.aiff", "PCM_16", 2**-15),
    ],
)
def test_lossless_files_come_back(
    tmp_path: Path, name: str, subtype: str, tolerance: float
) -> None:
    waveform = tone(0.5, 16000)
    soundfile.write(tmp_path / name, waveform, 16000, subtype=subtype)
    read = read_audio(tmp_path / name, 16000)
    assert read.dtype == torch.float32
    np.testing.assert_allclose(read.numpy(), waveform, atol=tolerance)


@pytest.mark.parametrize("name", ["a.ogg", "a.mp3"])
def test_lossy_files_come_back_in_phase_and_level(tmp_path: Path, name: str) -> None:
    waveform = tone(1.0, 16000)
    soundfile.write(tmp_path / name, waveform, 16000)
    read = fit_length(read_audio(tmp_path / name, 16000), 16000).numpy()
    error = np.square(read - waveform)[2000:-2000].mean() / np.square(waveform).mean()
    assert error < 0.01  # 20 dB below the tone; a shift by one sample would leave 0.03


def test_a_part_is_the_same_samples(tmp_path: Path) -> None:
    waveform = np.random.default_rng(0).uniform(-1, 1, 8000)
    soundfile.write(tmp_path / "a.flac", waveform, 16000)
    whole = read_audio(tmp_path / "a.flac", 16000)
    assert torch.equal(read_audio(tmp_path / "a.flac", 16000, 1234, 500), whole[1234:1734])
    assert torch.equal(read_audio(tmp_path / "a.flac", 16000, 7900, 500), whole[7900:])


@pytest.mark.parametrize("rate", [16000, 24000, 44100])
def test_a_part_of_an_mp3_of_small_frames_begins_with_sound(tmp_path: Path, rate: int) -> None:
    form = {"bitrate_mode": "VARIABLE", "compression_level": 0.9}
    soundfile.write(tmp_path / "a.mp3", tone(4.0, rate), rate, **form)
    whole = read_audio(tmp_path / "a.mp3", rate)
    for start in (rate, 3 * rate):
        part = read_audio(tmp_path / "a.mp3", rate, start, rate // 8)
        # The decoder's filter bank was started elsewhere: a few roundings of float32.
        torch.testing.assert_close(part, whole[start : start + len(part)], rtol=0, atol=1e-6)


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000, 96000])
def test_resampling_keeps_a_tone(tmp_path: Path, rate: int) -> None:
    soundfile.write(tmp_path / "a.wav", tone(1.0, rate), rate, subtype="FLOAT")
    read = read_audio(tmp_path / "a.wav", 16000)
    assert len(read) == inspect_audio(tmp_path / "a.wav").num_samples_at(16000) == 16000
    np.testing.assert_allclose(read.numpy()[800:-800], tone(1.0, 16000)[800:-800], atol=1e-3)
    part = read_audio(tmp_path / "a.wav", 16000, 5000, 700)
    # The same sums from another place on: a few roundings of float32 near 1.
    torch.testing.assert_close(part, read[5000:5700], rtol=0, atol=8 * 2**-24)


def test_resampling_lets_nothing_alias() -> None:
    above = torch.from_numpy(tone(1.0, 48000, hertz=9000.0)).float()
    left = resample(above, 48000, 16000)[800:-800]
    # soxr HQ: the stop band is below -100 dB; 60 dB leaves room for float32 input.
    assert left.abs().max() < 0.5e-3


def test_resampling_a_batch_is_resampling_each() -> None:
    batch = torch.randn(3, 4410)
    together = resample(batch, 44100, 16000)
    for row in range(3):
        torch.testing.assert_close(
            together[row], resample(batch[row], 44100, 16000), atol=1e-6, rtol=0
        )


@pytest.mark.parametrize("num_channels", [2, 8])
def test_channels_are_averaged(tmp_path: Path, num_channels: int) -> None:
    channels = np.random.default_rng(1).uniform(-0.5, 0.5, (4000, num_channels))
    soundfile.write(tmp_path / "a.wav", channels, 16000, subtype="FLOAT")
    read = read_audio(tmp_path / "a.wav", 16000)
    np.testing.assert_allclose(read.numpy(), channels.mean(axis=1), atol=1e-6)


def test_padding() -> None:
    waveform = torch.arange(1.0, 6.0)
    assert fit_length(waveform, 3).tolist() == [1, 2, 3]
    assert fit_length(waveform, 7).tolist() == [1, 2, 3, 4, 5, 0, 0]
    assert pad_both_ends(waveform, 8).tolist() == [0, 1, 2, 3, 4, 5, 0, 0]
    assert pad_both_ends(waveform, 3).tolist() == [1, 2, 3, 4, 5]


def write_bad_file(path: Path, kind: str) -> None:
    if kind == "text":
        path.write_text("this is not audio\n" * 100)
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "no samples":
        soundfile.write(path, np.zeros(0), 16000)
    elif kind == "nine channels":
        soundfile.write(path, np.zeros((100, 9)), 16000)
    elif kind == "slow":
        soundfile.write(path, np.zeros(100), 100)
    elif kind in {"nan", "inf"}:
        soundfile.write(path, np.array([0.0] * 70 + [float(kind)] + [0.0] * 9), 16000, "FLOAT")


@pytest.mark.parametrize(
    ("kind", "code", "facts"),
    [
        ("missing", "missing", {}),
        ("text", "damaged", {}),
        ("empty", "empty", {"key": None}),
        ("no samples", "empty", {"key": "length", "value": 0}),
        ("nine channels", "value", {"key": "channels", "value": 9}),
        ("slow", "value", {"key": "sample rate", "value": 100}),
        ("nan", "not-finite", {"key": "sample 70"}),
        ("inf", "not-finite", {"key": "sample 70", "value": math.inf}),
    ],
)
def test_bad_files_are_named_with_the_reason(
    tmp_path: Path, kind: str, code: Code, facts: dict[str, object]
) -> None:
    path = tmp_path / "bad.wav"
    write_bad_file(path, kind)
    with refused(AudioError, code, path, **facts):
        read_audio(path, 16000)


def test_reading_behind_the_end_is_an_error(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(100), 16000)
    with refused(AudioError, "empty", tmp_path / "a.wav", value=100):
        read_audio(tmp_path / "a.wav", 16000, 100, 10)


def test_wrong_rates_are_refused() -> None:
    with refused(AudioError, "value", key="sample rate", value=0):
        resample(torch.zeros(100), 0, 16000)


def test_flac_that_states_no_length(tmp_path: Path) -> None:
    path = tmp_path / "streamed.flac"
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 9000)
    soundfile.write(path, samples, 16000)
    whole, whole_16 = read_audio(path, 8000), read_audio(path, 16000)
    encoded = bytearray(path.read_bytes())
    # STREAMINFO follows the marker and its own 4 bytes; the last 36 of its first 144 bits count.
    encoded[21] &= 0xF0
    encoded[22:26] = bytes(4)
    path.write_bytes(encoded)
    assert inspect_audio(path).num_samples == 9000
    torch.testing.assert_close(read_audio(path, 16000, 8500, 300), whole_16[8500:8800], **EXACTLY)
    torch.testing.assert_close(read_audio(path, 8000), whole, **EXACTLY)


def test_bytes_read_as_their_file(tmp_path: Path) -> None:
    path = tmp_path / "a.ogg"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 30000), 44100)
    encoded = EncodedAudio("archive.tar::a.ogg", path.read_bytes())
    assert inspect_audio(encoded) == inspect_audio(path)
    torch.testing.assert_close(read_audio(encoded, 16000), read_audio(path, 16000), rtol=0, atol=0)
    with refused(AudioError, "empty", Path("archive.tar")) as caught:
        read_audio(EncodedAudio("archive.tar::b.ogg", b""), 16000)
    assert str(caught.value).startswith("archive.tar::b.ogg: ")
