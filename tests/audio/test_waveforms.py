"""Waveforms as callers have them, and what is none."""

from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from byola_rq import AudioError, Embedder
from byola_rq.audio.waveforms import as_rows, as_sample_rate
from byola_rq.errors import Code
from tests.refusal import refused

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
    for kind in ("u1", "u8", ">i4"):
        assert as_rows(torch.zeros(2, 9), lengths=np.array([4, 4], kind)).shape == (2, 4)
    column = np.array([np.zeros(3), np.zeros(5)], object)
    assert [len(row) for row in as_rows(column)] == [3, 5]


@pytest.mark.parametrize(
    ("waveform", "code", "key", "value"),
    [
        ([], "empty", "waveform", (1, 0)),
        (torch.zeros(0, 16000), "empty", "waveform", (0, 16000)),
        (torch.zeros(3, 0), "empty", "waveform", (3, 0)),
        (torch.zeros(2, 2, 9), "value", "waveform", (2, 2, 9)),
        (torch.tensor(0.5), "value", "waveform", ()),
        ([np.zeros(5), np.zeros(0)], "empty", "waveform 1", (0,)),
        ([np.zeros(5), np.zeros((2, 5))], "value", "waveform 1", (2, 5)),
        ([np.zeros(5), 0.5], "value", "waveform 1", ()),
        ([torch.zeros(5), torch.full((4,), torch.inf)], "not-finite", "waveform 1", None),
        (np.array([0.0, np.nan]), "not-finite", "waveform", None),
        (np.zeros(5, np.int64), "value", "waveform", torch.int64),
        (np.zeros(5, np.int8), "value", "waveform", torch.int8),
        (np.zeros(5, bool), "value", "waveform", torch.bool),
        (np.zeros(5, complex), "value", "waveform", torch.complex128),
        ("a.wav", "malformed", "waveform", None),
        (None, "malformed", "waveform", None),
        (np.ma.masked_less(np.zeros(9), 1), "malformed", "waveform", None),
        (torch.zeros(9).to_sparse(), "malformed", "waveform", None),
        (torch.empty(9, device="meta"), "malformed", "waveform", None),
        (["a.wav"], "malformed", "waveform", None),
    ],
)
def test_what_is_no_waveform(waveform: object, code: Code, key: str, value: object) -> None:
    with refused(AudioError, code, key=key, value=value):
        as_rows(waveform)


@pytest.mark.parametrize(
    ("lengths", "value"),
    [
        *((each, each) for each in ([5], [5.0, 4.0], ["5", "9"], [None, 9], {}, "59", [10**30, 9])),
        ([5, 10], (5, 10)),
        ([0, 9], (0, 9)),
    ],
)
def test_wrong_lengths(lengths: object, value: object) -> None:
    with refused(AudioError, "value", key="lengths", value=value):
        as_rows(torch.zeros(2, 9), lengths)


def test_a_list_has_its_own_lengths() -> None:
    with refused(AudioError, "usage", key="lengths"):
        as_rows([torch.zeros(5), torch.zeros(6)], [5, 6])


@pytest.mark.parametrize(
    "rate", [0, -1, 44100.5, "16000", None, float("nan"), float("inf"), True, 16000j]
)
def test_rates_that_are_none(rate: object) -> None:
    with refused(AudioError, "value", key="sample rate") as caught:
        Embedder.untrained(dim=8)(torch.zeros(16000), rate)
    assert caught.value.value is rate


@pytest.mark.parametrize("rate", [8000, 16000, 48000])
def test_a_clip_of_a_hundredth_of_a_second(rate: int) -> None:
    embedder = Embedder.untrained(dim=8)
    short = torch.zeros(rate // 100)
    with refused(AudioError, "too-short", key="waveform", value=0.01):
        embedder(short, rate)
    with refused(AudioError, "too-short", key="waveform 1", value=0.01):
        embedder.frames([torch.zeros(rate), short], rate)


def _strided() -> list[np.ndarray]:
    """Return a waveform in every memory layout of array views."""
    stereo = np.stack([TONE, np.zeros_like(TONE)], 1)
    unaligned = np.zeros(TONE.nbytes + 1, np.uint8)[1:].view(TONE.dtype)
    unaligned[:] = TONE
    fields = np.zeros(len(TONE), [("flag", "i1"), ("sample", "f8")])
    fields["sample"] = TONE
    frozen = TONE.copy()
    frozen.flags.writeable = False
    every_third = np.repeat(TONE, 3)[::3]
    backwards = TONE[::-1].copy()[::-1]
    return [stereo[:, 0], unaligned, fields["sample"], frozen, every_third, backwards]


def test_any_strides() -> None:
    for samples in _strided():
        np.testing.assert_array_equal(as_rows(samples)[0], TONE.astype("f4"))
    batch = np.stack([TONE, -TONE, 0.5 * TONE])
    for rows in (np.asfortranarray(batch), batch[::-1][::-1], np.repeat(batch, 2, 0)[::2]):
        np.testing.assert_array_equal(as_rows(rows), batch.astype("f4"))
    repeated = np.broadcast_to(TONE, (3, len(TONE)))
    np.testing.assert_array_equal(as_rows(repeated), np.repeat(TONE[None], 3, 0).astype("f4"))


@pytest.mark.parametrize("shape", [(16000, 2), (16000, 6), (300, 64), (3, 2, 16000)])
def test_channels_are_no_waveforms(shape: tuple[int, ...]) -> None:
    for each in (np.zeros(shape), [np.zeros(shape)] * 2):
        key = "waveform 0" if isinstance(each, list) else "waveform"
        with refused(AudioError, "value", key=key, value=shape) as caught:
            as_rows(each)
        assert "channels" in str(caught.value)
    axis = shape.index(min(shape))
    if len(shape) == 2:
        assert as_rows(np.zeros(shape).mean(axis)).shape == (1, max(shape))


@pytest.mark.parametrize("scale", [2**15 - 1, 2**31, 2**7])
def test_integers_as_floating_point_are_refused(scale: int) -> None:
    loud = np.stack([TONE, TONE * scale])
    for each in (loud, list(loud), torch.from_numpy(loud)):
        key = "waveform 1" if isinstance(each, list) else "waveform"
        with refused(AudioError, "too-large", key=key) as caught:
            as_rows(each)
        assert caught.value.value == pytest.approx(np.abs(TONE).max() * scale)
    assert as_rows(loud, lengths=[4000, 1]).__class__ is list  # of the second nothing but its zero
    assert as_rows(TONE * 4).shape == (1, 4000)  # mixed too loud, all the same sound


RATES = [44100, 44100.0, np.int32(44100), np.float64(44100), np.array(44100), np.array([44100] * 3)]
RATES += [torch.tensor(44100), torch.tensor([44100] * 3), [44100], torch.tensor(44100.0)]
RATES += [Fraction(44100), Decimal(44100)]


@pytest.mark.parametrize("rate", RATES)
def test_rates_as_libraries_give_them(rate: object) -> None:
    found = as_sample_rate(rate)  # type: ignore[arg-type]
    assert found == 44100
    assert type(found) is int


@pytest.mark.parametrize("rate", [torch.tensor([16000, 44100]), np.array([]), [8000, 8001]])
def test_rates_that_are_not_one(rate: object) -> None:
    with refused(AudioError, "value", key="sample rate"):
        Embedder.untrained(dim=8)(torch.zeros(2, 16000), rate)  # type: ignore[arg-type]


def test_integers_in_floating_point_are_refused_by_name() -> None:
    loud = torch.full((9,), 16.5)
    for waveform, key in ((loud, "waveform"), ([torch.zeros(9), loud], "waveform 1")):
        with refused(AudioError, "too-large", key=key):
            as_rows(waveform)
    assert torch.equal(as_rows(loud - 0.5), (loud - 0.5)[None])
