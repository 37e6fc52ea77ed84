"""Which of equal clips is kept, and what different clips of one id are called."""

import itertools
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from byola_rq.sources.clip_source import ClipSource, Listing
from byola_rq.sources.duplicates import SourceSpan, settle_duplicates


def settle(*sources: tuple[str, list[ClipSource]], are_lists: bool = False) -> Listing:
    listing = Listing(clips=[clip for _, clips in sources for clip in clips])
    stops = list(itertools.accumulate(len(clips) for _, clips in sources))
    settle_duplicates(
        listing,
        [
            SourceSpan(name, stop - len(clips), stop, are_lists)
            for (name, clips), stop in zip(sources, stops, strict=True)
        ],
    )
    return listing


contents = st.binary(min_size=1, max_size=2)


@given(
    folders=st.lists(
        st.dictionaries(st.sampled_from("abcd"), contents, min_size=1), min_size=1, max_size=4
    ),
    names=st.lists(st.sampled_from(["x", "y", "x/a"]), min_size=4, max_size=4),
    do_hashes_collide=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_the_rule_of_equal_ids(tmp_path_factory, folders, names, do_hashes_collide: bool) -> None:
    """Against the rule, one clip after the other."""
    root = tmp_path_factory.mktemp("folders")
    sources = []
    for number, files in enumerate(folders):
        (root / str(number)).mkdir()
        for name, data in files.items():
            (root / str(number) / name).write_bytes(data)
        clips = [ClipSource(name, root / str(number) / name) for name in sorted(files)]
        sources.append((names[number], clips))
    expected: dict[str, ClipSource] = {}
    own_ids = {clip.clip_id for _, clips in sources for clip in clips}
    seen: set[tuple[str, bytes]] = set()
    for name, clips in sources:
        for clip in clips:
            key = (clip.clip_id, clip.path.read_bytes())
            if key in seen:
                continue
            seen.add(key)
            new_ids = itertools.chain(
                [clip.clip_id, f"{name}/{clip.clip_id}"],
                (f"{name}~{n}/{clip.clip_id}" for n in itertools.count(2)),
            )
            taken = expected.keys() | own_ids if clip.clip_id in expected else set()
            expected[next(each for each in new_ids if each not in taken)] = clip
    with pytest.MonkeyPatch.context() as patch:
        if do_hashes_collide:
            patch.setattr("byola_rq.sources.duplicates.hash", lambda _: 7, raising=False)
        listing = settle(*sources)
    assert {clip.clip_id: clip.file for clip in listing.clips} == {
        clip_id: clip.file for clip_id, clip in expected.items()
    }
    assert [clip.file for clip in listing.clips] == [clip.file for clip in expected.values()]
    num_dropped = sum(len(clips) for _, clips in sources) - len(listing.clips)
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
        ClipSource("0", tmp_path / "real" / "a.tar", **member),
        ClipSource("1", "link/a.tar", **member),
        ClipSource("2", "real/../link/a.tar", **member),
        ClipSource("3", "real/a.tar", offset=20, size=5),
        ClipSource("4", "real/a.tar", **member, start_seconds=1.0, num_seconds=2.0),
        ClipSource("5", "real/a.tar", **member, start_seconds=1.0, num_seconds=2.0),
        ClipSource("6", "real/a.tar", **member, start_seconds=1.0),
        ClipSource("7", "real/a.tar", row=10),
        # What may be the cut clip is the whole file, as in a folder.
        ClipSource("8", "real/a.tar", row=10, start_seconds=30.0, num_seconds=10, may_be_cut=True),
    ]
    listing = settle(("x", clips))
    assert [clip.clip_id for clip in listing.clips] == ["0", "3", "4", "6", "7"]
    assert [(kept, dropped) for kept, dropped in listing.duplicates] == [
        (str(clips[kept]), str(clips[dropped]))
        for kept, dropped in [(0, 1), (0, 2), (4, 5), (7, 8)]
    ]


def test_segments_of_one_id_are_one_clip_unread(tmp_path: Path) -> None:
    clips = [ClipSource("id_0", tmp_path / f"{name}.wav") for name in "ab"]
    listing = settle(("a", clips[:1]), ("b", clips[1:]), are_lists=True)
    assert listing.clips == clips[:1]
    assert listing.duplicates == [(str(clips[0]), str(clips[1]))]


def test_parts_of_one_id_and_files_that_cannot_be_read_stay(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_bytes(b"same")
    whole, part = ClipSource("x", tmp_path / "a"), ClipSource("x", tmp_path / "b", num_seconds=1.0)
    gone = ClipSource("x", tmp_path / "gone")
    assert [c.clip_id for c in settle(("s", [whole, part, gone])).clips] == ["x", "s/x", "s~2/x"]


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
    clips = [ClipSource("x", tmp_path / name) for name in "abcd"]
    listing = settle(("s", clips))
    assert read == [clips[0], clips[3]]
    assert [clip.clip_id for clip in listing.clips] == ["x", "s/x", "s~2/x"]
    assert listing.duplicates == [(str(clips[0]), str(clips[3]))]


def test_rows_without_a_name_are_never_the_same(tmp_path: Path) -> None:
    rows = [ClipSource("t/0", tmp_path / name / "t.parquet", row=0) for name in "ab"]
    assert [c.clip_id for c in settle(("t", rows[:1]), ("t", rows[1:])).clips] == ["t/0", "t/t/0"]


def test_nothing_to_settle() -> None:
    assert settle(("a", [])).clips == []
    assert settle(("a", [ClipSource("x", "/x")])).clips == [ClipSource("x", "/x")]
