"""Waveforms as callers have them, and what is none."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from byola_rq import AudioError, Embedder
from byola_rq.audio.waveforms import as_rows

TONE = np.sin(np.arange(4000) / 7)


@pytest.mark.parametrize(
    ("subtype", "dtype", "shift"),
    [
        ("PCM_U8", np.uint8, 0),
        ("PCM_16", np.int16, 0),
        ("PCM_24", np.int32, 8),
        ("PCM_32", "i4", 0),
    ],
)
def test_integers_become_what_the_file_reader_makes_of_them(
    tmp_path: Path, subtype: str, dtype: str, shift: int
) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, 0.9 * TONE, 16000, subtype=subtype)
    expected, _ = soundfile.read(path, dtype="float32")
    # The samples as they are on the disk, as scipy.io.wavfile gives them too.
    content = path.read_bytes()
    data = content[content.index(b"data") + 8 :]
    if shift:  # 24 bits: in the upper bytes of 32
        data = b"".join(b"\0" + data[at : at + 3] for at in range(0, len(data), 3))
    samples = np.frombuffer(data, dtype)
    assert len(samples) == len(expected)
    rows = as_rows(samples)
    assert isinstance(rows, torch.Tensor)
    np.testing.assert_array_equal(rows[0].numpy(), expected)
    np.testing.assert_array_equal(as_rows(torch.from_numpy(samples.copy()))[0].numpy(), expected)


def test_full_scale() -> None:
    for dtype, lowest in ((np.int16, -(2**15)), (np.int32, -(2**31)), (np.uint8, 0)):
        rows = as_rows(np.array([lowest, lowest], dtype))
        assert rows.tolist() == [[-1.0, -1.0]], dtype
    assert as_rows(np.array([128], np.uint8)).tolist() == [[0.0]]


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4", ">i2"])
def test_other_types_of_numbers(dtype: str) -> None:
    samples = (TONE * (2000 if "i" in dtype else 0.5)).astype(dtype)
    rows = as_rows(samples)
    assert rows.dtype == torch.float32
    scale = 32768 if "i" in dtype else 1
    np.testing.assert_allclose(rows[0], samples.astype("f8") / scale, atol=1e-7)


def test_forms() -> None:
    assert as_rows([0.1, 0.2]).shape == (1, 2)
    assert as_rows([[0.1, 0.2], [0.3, 0.4]]).shape == (2, 2)
    assert as_rows(np.zeros((3, 5))).shape == (3, 5)
    assert [len(row) for row in as_rows([np.zeros(3), torch.zeros(4), [0.5]])] == [3, 4, 1]
    assert [len(row) for row in as_rows(torch.zeros(2, 9), lengths=[4, 9])] == [4, 9]
    assert as_rows(torch.zeros(2, 9), lengths=[4, 4]).shape == (2, 4)


@pytest.mark.parametrize(
    ("waveform", "message"),
    [
        ([], r"waveform: must be \(S,\) or \(B, S\); got shape \(1, 0\), which has no sample"),
        (torch.zeros(0, 16000), r"got shape \(0, 16000\), which has no sample"),
        (torch.zeros(3, 0), r"got shape \(3, 0\), which has no sample"),
        (torch.zeros(2, 2, 9), r"must be \(S,\) or \(B, S\); got shape \(2, 2, 9\)"),
        (torch.tensor(0.5), r"got shape \(\)"),
        ([np.zeros(5), np.zeros(0)], r"waveform 1: must be \(S,\); got shape \(0,\), which has no"),
        ([np.zeros(5), np.zeros((2, 5))], r"waveform 1: must be \(S,\); got shape \(2, 5\)"),
        ([np.zeros(5), 0.5], r"waveform 1: must be \(S,\); got shape \(\)"),
        ([torch.zeros(5), torch.full((4,), torch.inf)], "waveform 1: samples must be finite"),
        (np.array([0.0, np.nan]), "waveform: samples must be finite; got NaN or infinity"),
        (np.zeros(5, np.int64), "uint8, int16 or int32 at full scale; got torch.int64"),
        (np.zeros(5, np.int8), r"must be floating point .* got torch.int8"),
        (np.zeros(5, bool), "got torch.bool"),
        (np.zeros(5, complex), "got torch.complex128"),
        ("a.wav", r"waveform: must be an array of samples \("),
        (None, r"waveform: must be an array of samples \("),
        (["a.wav"], r"waveform: must be an array of samples \("),
    ],
)
def test_what_is_no_waveform(waveform: object, message: str) -> None:
    with pytest.raises(AudioError, match=message) as raised:
        as_rows(waveform)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ([5], "lengths: must be 2 whole numbers, one for each row; got torch.int64 of shape"),
        ([5.0, 4.0], "must be 2 whole numbers"),
        ([5, 10], "lengths: must be 1 to 9; got 5 to 10"),
        ([0, 9], "lengths: must be 1 to 9; got 0 to 9"),
    ],
)
def test_wrong_lengths(lengths: list, message: str) -> None:
    with pytest.raises(AudioError, match=message):
        as_rows(torch.zeros(2, 9), lengths)


def test_a_list_has_its_own_lengths() -> None:
    with pytest.raises(AudioError, match="lengths: must be left out for a list"):
        as_rows([torch.zeros(5), torch.zeros(6)], [5, 6])


@pytest.mark.parametrize("rate", [0, -1, 44100.5, "16000", None, float("nan")])
def test_rates_that_are_none(rate: object) -> None:
    with pytest.raises(AudioError, match=f"sample rate must be 1000 to 768000 Hz; got {rate}"):
        Embedder.untrained(dim=8)(torch.zeros(16000), rate)


@pytest.mark.parametrize("rate", [8000, 16000, 48000])
def test_a_clip_of_a_hundredth_of_a_second(rate: int) -> None:
    embedder = Embedder.untrained(dim=8)
    short = torch.zeros(rate // 100)
    with pytest.raises(AudioError, match=r"waveform: length must be at least 0.1 s; got 0.0100 s"):
        embedder(short, rate)
    with pytest.raises(AudioError, match=r"waveform 1: length must be at least 0.1 s; got 0.0100"):
        embedder.frames([torch.zeros(rate), short], rate)
