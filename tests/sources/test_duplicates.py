"""Deduplication: the clip that is kept, and different clips of equal id."""

import itertools
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from byola_rq.sources.clip_source import ClipSource, Listing
from byola_rq.sources.duplicates import SourceSpan, settle_duplicates


def settle(*sources: list[ClipSource], are_lists: bool = False) -> Listing:
    listing = Listing(clips=[clip for clips in sources for clip in clips])
    stops = itertools.accumulate(map(len, sources))
    settle_duplicates(listing, [SourceSpan(stop, are_lists) for stop in stops])
    return listing


contents = st.binary(min_size=1, max_size=2)


@given(
    folders=st.lists(
        st.dictionaries(st.sampled_from(["a", "b", "2/a", "3/2/a"]), contents, min_size=1),
        min_size=1,
        max_size=4,
    ),
    do_hashes_collide=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_the_rule_of_equal_ids(tmp_path_factory, folders, do_hashes_collide: bool) -> None:
    """Against the rule, one clip after the other."""
    root = tmp_path_factory.mktemp("folders")
    sources = []
    for number, files in enumerate(folders):
        (root / str(number)).mkdir()
        clips = []
        for clip_id, data in sorted(files.items()):
            path = root / str(number) / clip_id.replace("/", "-")
            path.write_bytes(data)
            clips.append(ClipSource(clip_id, file=str(path)))
        sources.append(clips)
    expected: dict[str, str] = {}
    own_ids = {clip.clip_id for clips in sources for clip in clips}
    seen: set[tuple[str, bytes]] = set()
    left_out: list[str] = []
    for number, clips in enumerate(sources, start=1):
        for clip in clips:
            key = (clip.clip_id, clip.path.read_bytes())
            if key in seen:
                continue
            seen.add(key)
            if clip.clip_id not in expected:
                expected[clip.clip_id] = clip.file
            elif (numbered := f"{number}/{clip.clip_id}") not in expected.keys() | own_ids:
                expected[numbered] = clip.file
            else:
                left_out.append(clip.file)
    with pytest.MonkeyPatch.context() as patch:
        if do_hashes_collide:
            patch.setattr("byola_rq.sources.duplicates.hash", lambda _: 7, raising=False)
        listing = settle(*sources)
    assert [(clip.clip_id, clip.file) for clip in listing.clips] == list(expected.items())
    assert [where for where, _ in listing.damaged] == left_out
    num_dropped = sum(map(len, sources)) - len(listing.clips) - len(left_out)
    assert len(listing.duplicates) == num_dropped
    for kept, dropped in listing.duplicates:
        assert Path(kept).read_bytes() == Path(dropped).read_bytes()
        assert Path(kept).name == Path(dropped).name


def test_the_same_piece_of_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.tar").write_bytes(b"x" * 100)
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    member = {"offset": 10, "size": 5}
    clips = [
        ClipSource("0", file=str(tmp_path / "real" / "a.tar"), **member),
        ClipSource("1", file="link/a.tar", **member),
        ClipSource("2", file="real/../link/a.tar", **member),
        ClipSource("3", file="real/a.tar", offset=20, size=5),
        ClipSource("4", file="real/a.tar", **member, start_seconds=1.0, num_seconds=2.0),
        ClipSource("5", file="real/a.tar", **member, start_seconds=1.0, num_seconds=2.0),
        ClipSource("6", file="real/a.tar", **member, start_seconds=1.0),
        ClipSource("7", file="real/a.tar", row=10),
        # What may be the cut clip is the whole file, as in a folder.
        ClipSource(
            "8", file="real/a.tar", row=10, start_seconds=30.0, num_seconds=10, may_be_cut=True
        ),
    ]
    listing = settle(clips)
    assert [clip.clip_id for clip in listing.clips] == ["0", "3", "4", "6", "7"]
    assert [(kept, dropped) for kept, dropped in listing.duplicates] == [
        (str(clips[kept]), str(clips[dropped]))
        for kept, dropped in [(0, 1), (0, 2), (4, 5), (7, 8)]
    ]


def test_segments_of_one_id_are_one_clip_unread(tmp_path: Path) -> None:
    clips = [ClipSource("id_0", file=str(tmp_path / f"{name}.wav")) for name in "ab"]
    listing = settle(clips[:1], clips[1:], are_lists=True)
    assert listing.clips == clips[:1]
    assert listing.duplicates == [(str(clips[0]), str(clips[1]))]


def test_parts_of_one_id_and_files_that_cannot_be_read_stay(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_bytes(b"same")
    whole, part = (
        ClipSource("x", file=str(tmp_path / "a")),
        ClipSource("x", file=str(tmp_path / "b"), num_seconds=1.0),
    )
    gone = ClipSource("x", file=str(tmp_path / "gone"))
    assert [c.clip_id for c in settle([whole], [part], [gone]).clips] == ["x", "2/x", "3/x"]


def test_files_that_differ_at_a_glance_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    middle = 50_000
    one = bytearray(os.urandom(2 * middle))
    other = bytearray(one)
    other[middle] ^= 1
    for name, data in {"a": one, "b": other, "c": one + b"!", "d": one}.items():
        (tmp_path / name).write_bytes(data)
    read: list[ClipSource] = []

    def iterate(clips: list[ClipSource]):
        read.extend(clips)
        return (clip.path for clip in clips)

    monkeypatch.setattr("byola_rq.sources.duplicates.iterate_encoded", iterate)
    clips = [ClipSource("x", file=str(tmp_path / name)) for name in "abcd"]
    listing = settle(clips)
    assert read == [clips[0], clips[3]]
    assert [(clip.clip_id, clip.file) for clip in listing.clips] == [
        ("x", clips[0].file),
        ("1/x", clips[1].file),
    ]
    assert [where for where, _ in listing.damaged] == [clips[2].file]
    assert listing.duplicates == [(str(clips[0]), str(clips[3]))]


def test_rows_without_a_name_are_never_the_same(tmp_path: Path) -> None:
    rows = [ClipSource("t/0", file=str(tmp_path / name / "t.parquet"), row=0) for name in "ab"]
    assert [c.clip_id for c in settle(rows[:1], rows[1:]).clips] == ["t/0", "2/t/0"]


def test_nothing_to_settle() -> None:
    assert settle([]).clips == []
    assert settle([ClipSource("x", file="/x")]).clips == [ClipSource("x", file="/x")]
