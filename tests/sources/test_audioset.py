"""AudioSet's lists joined to files, under all the names that people give them."""

import math
import string
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from byola_rq.errors import AudioError, Code, CorpusError
from byola_rq.sources.audioset import SegmentList, is_segment_list, join_segments
from byola_rq.sources.clip_source import ClipSource, Listing
from tests.refusal import refused

HEADER = """\
# Segments csv created Sun Mar  5 10:54:25 2017
# num_ytids={n}, num_segs={n}, num_unique_labels=527, num_positive_labels=51804
# YTID, start_seconds, end_seconds, positive_labels
"""


def write_list(path: Path, rows: str) -> Path:
    path.write_text(HEADER.format(n=len(rows.splitlines())) + rows)
    return path


def join(path: Path, names: list[str]) -> Listing:
    listing = Listing()
    clips = [ClipSource(name, file=f"/data/{name}") for name in names]
    listing.clips = join_segments(SegmentList(str(path), listing), clips, "/data", listing)
    return listing


def test_rows_as_they_are_published(tmp_path: Path) -> None:
    path = write_list(
        tmp_path / "eval_segments.csv",
        '--4gqARaEJE, 0.000, 10.000, "/m/068hy,/m/07q6cd_,/m/0bt9lr,/m/0jbk"\n'
        '--BfvyPmVMo, 20.000, 30.000, "/m/03l9g"\n'
        '-0_0SO7Gx9_, 30.500, 40.500, "/m/04rlf"\n',
    )
    assert is_segment_list(str(path))
    listing = join(
        path, ["-0_0SO7Gx9__30500.flac", "a/--4gqARaEJE.wav", "other.wav", "x.WAV", "y.wav", "z"]
    )
    whole, by_id = listing.clips
    assert (whole.clip_id, whole.labels) == ("-0_0SO7Gx9__30500", "/m/04rlf")
    assert (whole.start_seconds, whole.num_seconds, whole.may_be_cut) == (0, -1, False)
    assert by_id.clip_id == "--4gqARaEJE_0"
    assert by_id.labels == "/m/068hy,/m/07q6cd_,/m/0bt9lr,/m/0jbk"
    assert (by_id.start_seconds, by_id.num_seconds, by_id.may_be_cut) == (0, 10, True)
    assert listing.missing == [f"{path}: --BfvyPmVMo_20000"]
    assert listing.notes == [
        f"{path}: 3 segments listed, 2 found, 1 missing; 4 files in /data match no segment and are "
        "not used, like /data/other.wav, /data/x.WAV, /data/y.wav",
        f"{path}: 1 files are named by their YTID alone; each counts as the cut segment unless it "
        "is longer than the segment by more than 1 s: then the segment is cut out of it",
    ]


ytids = st.text(string.ascii_letters + string.digits + "-_Y", min_size=11, max_size=11)


@given(
    segments=st.lists(
        st.tuples(ytids, st.integers(0, 40_000)), min_size=1, max_size=30, unique_by=lambda s: s[0]
    ),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_every_naming_finds_its_segment(tmp_path_factory, segments, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("list")
    rows = "".join(
        f'{ytid}, {ms / 1000:.3f}, {ms / 1000 + 10:.3f}, "/m/{number}"\n'
        for number, (ytid, ms) in enumerate(segments)
    )
    names, are_whole = [], []
    for ytid, ms in segments:
        end = ms + 10_000
        starts = {
            "none": "",
            "ms": f"_{ms}",
            "decimals": f"_{ms / 1000:.3f}",
            "shortest": f"_{ms / 1000:g}" if ms < 10**7 and ms % 1000 in {0, 500} else f"_{ms}",
            "whole": f"_{ms // 1000}",
            "ms_ms": f"_{ms}_{end}",
            "s_s": f"_{ms / 1000}_{end / 1000}",
            "s-s": f"_{ms / 1000}-{end / 1000}",
            "ms-ms": f"_{ms}-{end}",
            "zeros": f"_{ms // 1000:06d}",
        }
        kind = data.draw(st.sampled_from(sorted(starts)))
        prefix = data.draw(st.sampled_from(["", "Y", "00/", "deep/er/Y"]))
        names.append(f"{prefix}{ytid}{starts[kind]}{data.draw(st.sampled_from(['.wav', '.FLAC']))}")
        are_whole.append(kind != "none")
    order = data.draw(st.permutations(range(len(segments))))
    listing = join(write_list(folder / "l.csv", rows), [names[place] for place in order])
    assert not listing.missing
    assert not listing.duplicates
    for clip, place in zip(listing.clips, order, strict=True):
        ytid, ms = segments[place]
        assert (clip.clip_id, clip.labels) == (f"{ytid}_{ms}", f"/m/{place}")
        assert clip.file == f"/data/{names[place]}"
        expected = (0, -1) if are_whole[place] else (ms / 1000, pytest.approx(10))
        assert (clip.start_seconds, clip.num_seconds) == expected


def test_names_that_mean_no_segment_are_surplus(tmp_path: Path) -> None:
    path = write_list(tmp_path / "l.csv", "abcdefghijk, 30.000, 40.000, /m/a\n")
    names = [
        "abcdefghijk_31.wav",
        "abcdefghijk_0.wav",
        "abcdefghijk_.wav",
        "abcdefghijk_30_.wav",
        "abcdefghijk-30.wav",
        "Xabcdefghijk.wav",
        "ABCDEFGHIJK.wav",
        "abcdefghijk_30e0.wav",
    ]
    with refused(CorpusError, "missing", path) as caught:
        join(path, names)
    assert "8 other files" in str(caught.value)
    listing = join(path, [*names, "abcdefghijk_30.wav"])
    assert len(listing.clips) == 1
    assert "8 files in /data match no segment" in listing.notes[0]


def test_of_two_files_the_one_with_the_start_is_kept(tmp_path: Path) -> None:
    path = write_list(tmp_path / "l.csv", "abcdefghijk, 30.000, 40.000, /m/a\n")
    names = ["Yabcdefghijk.wav", "abcdefghijk.flac", "abcdefghijk_30.wav", "abcdefghijk_30000.wav"]
    listing = join(path, names)
    assert [clip.file for clip in listing.clips] == ["/data/abcdefghijk_30.wav"]
    assert listing.duplicates == [
        ("/data/Yabcdefghijk.wav@30-40", "/data/abcdefghijk.flac@30-40"),
        ("/data/abcdefghijk_30.wav", "/data/Yabcdefghijk.wav@30-40"),
        ("/data/abcdefghijk_30.wav", "/data/abcdefghijk_30000.wav"),
    ]


def test_several_segments_of_one_recording(tmp_path: Path) -> None:
    rows = "abcdefghijk, 30, 40, /m/a\nabcdefghijk, 0, 10, /m/b\nabcdefghijk, 5.5, 15.5, /m/c\n"
    path = write_list(tmp_path / "l.csv", rows)
    listing = join(path, ["abcdefghijk_5500.wav", "Yabcdefghijk_0.wav"])
    assert [clip.labels for clip in listing.clips] == ["/m/c", "/m/b"]
    assert listing.missing == [f"{path}: abcdefghijk_30000"]
    # One whole recording serves them all; at most one can be what it was cut to.
    listing = join(path, ["abcdefghijk.wav"])
    parts = [(clip.start_seconds, clip.may_be_cut) for clip in listing.clips]
    assert parts == [(30, True), (0, False), (5.5, False)]


def test_broken_rows_cost_only_themselves(tmp_path: Path) -> None:
    rows = (
        "aaaaaaaaaaa, 0.000, 10.000, /m/a\n"
        "bbbbbbbbbbb, x, 10.000, /m/a\n"
        "ccccccccccc, 10.000, 10.000, /m/a\n"
        "\n"
        "ddddddddddd, 0.000\n"
        "eeeeeeeeeee, 1e307, 1e308, /m/a\n"
        "fffffffffff, nan, 10.000, /m/a\n"
        "aaaaaaaaaaa, 0.000, 10.000, /m/a\n"
        "ggggggggggg, 0.000, 10.000\n"
    )
    path = write_list(tmp_path / "l.csv", rows)
    listing = join(path, [f"{letter * 11}.wav" for letter in "abcdefg"])
    assert [clip.clip_id for clip in listing.clips] == ["aaaaaaaaaaa_0", "ggggggggggg_0"]
    lines = [f"{path}: line {number}" for number in (5, 6, 8, 9, 10)]
    assert [where for where, _ in listing.damaged] == lines
    assert "got 'ccccccccccc,10.000,10.000,/m/a'" in listing.damaged[1][1]
    assert listing.duplicates == [(f"{path}: aaaaaaaaaaa_0", f"{path}: aaaaaaaaaaa_0")]
    assert listing.notes[0] == f"{path}: its header announces 9 segments; it has 2"


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "empty"),
        (HEADER.encode(), "empty"),
        (b"# x\n\xff\xfe\x00", "empty"),
        (b"# x\n" + b'"' + b"x" * 200_000, "unreadable"),
    ],
)
def test_what_is_no_list_is_refused(tmp_path: Path, content: bytes, code: Code) -> None:
    (tmp_path / "l.csv").write_bytes(content)
    with refused(CorpusError, code, tmp_path / "l.csv"):
        SegmentList(str(tmp_path / "l.csv"), Listing())


def test_the_header_may_have_a_mark_or_be_missing(tmp_path: Path) -> None:
    row = "abcdefghijk, 0.000, 10.000, /m/a\r\n"
    for text in ("﻿# YTID, x\r\n" + row, "YTID,start_seconds,end_seconds\r\n" + row, row):
        (tmp_path / "l.csv").write_text(text, encoding="utf-8", newline="")
        listing = join(tmp_path / "l.csv", ["abcdefghijk.wav"])
        assert [clip.labels for clip in listing.clips] == ["/m/a"]
        assert not listing.damaged
        assert is_segment_list(str(tmp_path / "l.csv")) == ("#" in text)


def test_members_and_rows_count_by_their_own_names(tmp_path: Path) -> None:
    path = write_list(
        tmp_path / "l.csv", "abcdefghijk, 1.5, 11.5, /m/a\nlmnopqrstuv, 0, 10, /m/b\n"
    )
    listing = Listing()
    clips = [
        ClipSource("s/0", file="/data/s.tar", offset=512, size=9, name="x/abcdefghijk_1.5.wav"),
        ClipSource("t/0", file="/data/t.parquet", row=4, name="lmnopqrstuv"),
    ]
    member, row = join_segments(SegmentList(str(path), listing), clips, "/data", listing)
    assert (member.clip_id, member.offset, member.size) == ("abcdefghijk_1500", 512, 9)
    assert (row.clip_id, row.row) == ("lmnopqrstuv_0", 4)


@pytest.mark.parametrize(
    ("file_seconds", "part"),
    [
        (10.0, (0, 10)),
        (9.2, (0, 9.2)),
        (11.0, (0, 10)),
        (11.1, None),
        (35.0, (30, 35)),
        (240.0, (30, 40)),
        (math.nextafter(30, 31), (30, math.nextafter(30, 31))),
    ],
)
def test_the_length_tells_a_cut_segment_from_a_recording(
    file_seconds: float, part: tuple[float, float] | None
) -> None:
    clip = ClipSource("a", file="a.wav", start_seconds=30.0, num_seconds=10.0, may_be_cut=True)
    if part is None:
        with refused(AudioError, "value", Path("a.wav"), value=30.0):
            clip.part_of(file_seconds)
    else:
        assert clip.part_of(file_seconds) == part
