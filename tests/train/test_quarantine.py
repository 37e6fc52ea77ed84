"""Clips that training cannot read: each is written down once, and too many of them stop the run."""

import csv
import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile

from byola_rq.corpus.decoded_clips import DecodedClips, measure_clips, measure_readable_clips
from byola_rq.corpus.segments import SegmentCorpus, find_clips
from byola_rq.errors import CheckpointError, Code, TrainingError
from byola_rq.sources.clip_source import ClipSource
from byola_rq.train.quarantine import QUARANTINE_COLUMNS, Quarantine
from tests.refusal import refused


def clips_named(names: list[str]) -> DecodedClips:
    """Clips of which nothing is read."""
    sources = [ClipSource(name, file=name) for name in names]
    return DecodedClips(sources, np.zeros(len(names), int), np.full(len(names), 9), 16000)


def many_clips(num: int) -> DecodedClips:
    return clips_named([f"/data/{number}.wav" for number in range(num)])


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@contextmanager
def full_disk() -> Iterator[None]:
    """No file may have more than ten bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_an_epoch_replaces_is_written_once(tmp_path: Path, sounds: Path) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    sound = soundfile.read(sorted(sounds.glob("*.wav"))[0])[0]
    for number in range(4):
        suffix = ("wav", "flac")[number % 2]
        soundfile.write(folder / f"{number}.{suffix}", sound, 16000)
    corpus = SegmentCorpus(
        measure_clips(find_clips([folder])[0], 16000), segment_samples=15200, seed=0
    )
    (folder / "3.flac").write_bytes((folder / "3.flac").read_bytes()[:2000])
    said: list[str] = []
    path = tmp_path / "quarantine.csv"
    quarantine = Quarantine(path, corpus.clips, said.append)
    quarantine.add(corpus.load([(0, 0), (0, 1), (0, 2)]).replacements)
    assert not path.exists()
    for epoch in range(3):
        batch = corpus.load([(epoch, 2), (epoch, 3), (epoch, 3)])
        assert len(batch.replacements) == 2
        # As other processes send theirs.
        quarantine.add(json.loads(json.dumps(batch.replacements)))
    (row,) = read(path)
    assert list(row) == QUARANTINE_COLUMNS
    assert row["clip"] == str(folder / "3.flac")
    assert row["replaced_by"] == str(folder / "0.wav")
    assert row["reason"]
    (line,) = said
    assert line.startswith(f"warning: {folder}/3.flac: {row['reason']}; {folder}/0.wav ")


def test_a_resumed_run_doubles_nothing(tmp_path: Path) -> None:
    said: list[str] = []
    path = tmp_path / "quarantine.csv"
    first = Quarantine(path, many_clips(1000), said.append)
    first.add([(4, 5, "cut"), (7, 8, "gone")])
    text = path.read_bytes()
    resumed = Quarantine(path, many_clips(1000), said.append)
    assert len(resumed) == 2
    resumed.add([(7, 9, "gone, and its neighbor too")])
    assert path.read_bytes() == text
    assert len(said) == 2
    resumed.add([(2, 3, "cut"), (4, 5, "cut")])
    assert [row["clip"] for row in read(path)] == [f"/data/{number}.wav" for number in (4, 7, 2)]
    assert path.read_bytes().startswith(text)
    assert len(said) == 3


def test_names_and_reasons_of_every_kind_come_back(tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    names = [b'a, "b".wav', b"two\nlines.wav", "größe.wav".encode(), b"not utf-8 \xff.wav"]
    paths = [folder / os.fsdecode(name) for name in names]
    soundfile.write(folder / "good.wav", np.ones(2000) / 2, 16000)
    for path in paths:
        path.write_bytes(b"")
    clips = clips_named([str(path) for path in [*paths, folder / "good.wav"]])
    corpus = SegmentCorpus(clips, segment_samples=9, seed=0)
    path = tmp_path / "quarantine.csv"
    batch = corpus.load([(0, number) for number in range(4)])
    for _ in range(2):
        quarantine = Quarantine(path, clips, lambda _: None)
        with refused(TrainingError, "too-many", path, value=4):
            quarantine.add(batch.replacements)
        rows = read(path)
        assert [row["clip"] for row in rows] == [str(source) for source in clips.sources[:4]]
        assert {row["replaced_by"] for row in rows} == {str(folder / "good.wav")}
        assert all("0 bytes" in row["reason"] for row in rows)


def test_the_first_ten_have_a_line_each(tmp_path: Path) -> None:
    said: list[str] = []
    path = tmp_path / "quarantine.csv"
    quarantine = Quarantine(path, many_clips(3000), said.append)
    quarantine.add([(number, 99, "cut") for number in range(8)])
    assert len(said) == 8
    quarantine.add([(number, 99, "cut") for number in range(5, 15)])
    assert [line.split()[1] for line in said[8:10]] == ["/data/8.wav:", "/data/9.wav:"]
    assert said[10].startswith("warning: 5 more ")
    assert "15 of 3000 " in said[10]
    assert str(path) in said[10]
    quarantine.add([(number, 99, "cut") for number in range(15)])
    assert len(said) == 11
    assert len(read(path)) == 15


@pytest.mark.parametrize(("num_clips", "allowed"), [(2, 1), (99, 1), (199, 1), (200, 2), (700, 7)])
def test_more_than_a_hundredth_stops_the_run(tmp_path: Path, num_clips: int, allowed: int) -> None:
    path = tmp_path / "quarantine.csv"
    quarantine = Quarantine(path, many_clips(num_clips), lambda _: None)
    quarantine.add([(number, 0, "cut") for number in range(allowed)])
    with refused(TrainingError, "too-many", path, value=allowed + 1) as caught:
        quarantine.add([(allowed, 0, "cut")])
    assert f"{allowed + 1} of {num_clips} " in str(caught.value)
    assert len(read(path)) == allowed + 1
    # Started again, it stops where it meets the next of them, and not before.
    again = Quarantine(path, many_clips(num_clips), lambda _: None)
    again.add([])
    with refused(TrainingError, "too-many", path, value=allowed + 1):
        again.add([(0, 1, "cut")])
    path.unlink()
    Quarantine(path, many_clips(num_clips), lambda _: None).add([(0, 1, "cut")])


def test_a_full_disk_loses_no_row(tmp_path: Path) -> None:
    said: list[str] = []
    path = tmp_path / "quarantine.csv"
    quarantine = Quarantine(path, many_clips(1000), said.append)
    quarantine.add([(0, 1, "cut")])
    text = path.read_bytes()
    with full_disk():
        quarantine.add([(5, 6, "cut")])
        quarantine.add([(7, 8, "cut")])
    assert path.read_bytes() == text
    assert [path.name for path in tmp_path.iterdir()] == ["quarantine.csv"]
    assert sum(line.startswith(f"WARNING: {path}: ") for line in said) == 2
    quarantine.add([])  # nothing new, but room
    assert [row["clip"] for row in read(path)] == ["/data/0.wav", "/data/5.wav", "/data/7.wav"]
    assert path.read_bytes().startswith(text)


def test_clips_left_out_at_the_start_are_listed_and_counted(tmp_path: Path, sounds: Path) -> None:
    sources = [ClipSource("x", file=str(path)) for path in sorted(sounds.glob("*.wav"))] * 9
    for number in range(2):
        bad = tmp_path / f"bad {number}.wav"
        bad.write_bytes(b"RIFX" + sources[0].path.read_bytes()[4:400])
        sources.insert(3, ClipSource("x", file=str(bad)))
    clips, unreadable = measure_readable_clips(sources, 16000)
    said: list[str] = []
    path = tmp_path / "quarantine.csv"
    for _ in range(2):  # a resumed run leaves them out again
        quarantine = Quarantine(path, clips, said.append)
        quarantine.add_unreadable(unreadable)
        rows = read(path)
        assert [row["clip"] for row in rows] == [
            f"{tmp_path}/bad {number}.wav" for number in (1, 0)
        ]
        assert {row["replaced_by"] for row in rows} == {""}
        assert rows[0]["reason"]
    assert len(said) == 2
    assert said[0].startswith(f"warning: {tmp_path}/bad 1.wav: {rows[0]['reason']}; ")
    assert " 1 more " in said[0]
    assert str(path) in said[0]
    with refused(TrainingError, "too-many", path, value=3) as caught:
        quarantine.add([(0, 1, "cut")])
    assert "3 of 218 " in str(caught.value)


def test_nothing_is_reported_if_nothing_is_left_out(tmp_path: Path) -> None:
    said: list[str] = []
    Quarantine(tmp_path / "quarantine.csv", many_clips(5), said.append).add_unreadable([])
    assert said == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"clip,reason\na.wav,cut\n", "malformed"),
        (b"clip,replaced_by,reason\na.wav,cut\n", "malformed"),
        (b"clip,replaced_by,reason\na.wav,b.wav,cut,short\n", "malformed"),
        (b"\xff\xfe\x00", "unreadable"),
        (b"step,loss\n", "malformed"),
    ],
)
def test_another_file_of_that_name_is_refused(tmp_path: Path, content: bytes, code: Code) -> None:
    path = tmp_path / "quarantine.csv"
    path.write_bytes(content)
    with refused(CheckpointError, code, path):
        Quarantine(path, many_clips(5), lambda _: None)
    assert path.read_bytes() == content
    path.unlink()
    path.mkdir()
    with refused(CheckpointError, "unreadable", path):
        Quarantine(path, many_clips(5), lambda _: None)
