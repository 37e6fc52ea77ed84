"""One clip: how it reads in messages, what part of its audio it is, how it travels."""

import pickle
from pathlib import Path

import pytest

from byola_rq.errors import AudioError
from byola_rq.sources.clip_source import ClipSource, clean_name, joined_labels
from byola_rq.text.shown import printable
from tests.refusal import refused


@pytest.mark.parametrize(
    ("clip", "text"),
    [
        (ClipSource("a", file="dir/a.wav"), "dir/a.wav"),
        (ClipSource("a", file="s.tar", offset=0, size=9, name="x/a.wav"), "s.tar::x/a.wav"),
        (ClipSource("a", file="x.parquet", row=12, name="a"), "x.parquet::12 (a)"),
        (ClipSource("a", file="x.parquet", row=0), "x.parquet::0"),
        (ClipSource("a", file="a.wav", start_seconds=5, num_seconds=10), "a.wav@5-15"),
        (ClipSource("a", file="a.wav", start_seconds=0.1, num_seconds=0.2), "a.wav@0.1-0.3"),
        (ClipSource("a", file="a.wav", start_seconds=5), "a.wav@5-"),
        (ClipSource("a", file="caf\udce9/é.wav"), "caf\\xe9/é.wav"),
    ],
)
def test_a_clip_reads_as_its_place(clip: ClipSource, text: str) -> None:
    assert str(clip) == text
    assert str(clip).encode()
    assert isinstance(clip.path, Path)
    # It travels to other processes.
    assert pickle.loads(pickle.dumps(clip)) == clip


@pytest.mark.parametrize(
    ("start", "num", "part"),
    [(0, -1, (0, 8)), (2, -1, (2, 8)), (2, 3, (2, 5)), (2, 30, (2, 8)), (7.5, 1, (7.5, 8))],
)
def test_a_part_ends_with_its_audio(start: float, num: float, part: tuple[float, float]) -> None:
    clip = ClipSource("a", file="a.wav", start_seconds=start, num_seconds=num)
    assert clip.part_of(8.0) == part


def test_a_part_behind_the_audio_is_an_error() -> None:
    clip = ClipSource("a", file="a.wav", start_seconds=8.0, num_seconds=2.0)
    with refused(AudioError, "value", Path("a.wav"), value=8.0):
        clip.part_of(8.0)


def test_texts() -> None:
    assert clean_name("/a/./b//../c.wav") == "a/b/c.wav"
    assert clean_name("../..") == ""
    labels = [None, "a ", 3, ["a", None, 4], [], ("x",), "x\udcff"]
    assert [joined_labels(each) for each in labels] == ["", "a", "3", "a,4", "", "x", "x\\xff"]
    assert printable("é.wav") == "é.wav"
