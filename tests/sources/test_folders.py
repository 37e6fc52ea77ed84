"""Folders: what is found in them, in which order, and what is said about the rest."""

import os
from pathlib import Path

import pytest

from byola_rq.errors import CorpusError
from byola_rq.sources.clip_source import Listing
from byola_rq.sources.folders import FileIndex, walk_folder
from tests.refusal import refused


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


def walk(folder: Path | str) -> tuple[list[str], Listing]:
    listing = Listing()
    found = list(walk_folder(str(folder), listing))
    assert [path for path, _ in found] == [os.path.join(folder, name) for _, name in found]
    return [name for _, name in found], listing


def test_files_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    names = ["a.wav", "a/2.WAV", "a/10.flac", "a/x/y/z.opus", "a-b/1.tar", "b.parquet", "B.aiff"]
    touch(tmp_path, *names, "notes.txt", ".hidden.wav", "a/._2.wav", ".git/c.wav", "noext", "wav")
    found, listing = walk(tmp_path)
    assert found == [
        "B.aiff", "a/10.flac", "a/2.WAV", "a/x/y/z.opus", "a-b/1.tar", "a.wav", "b.parquet",
    ]  # fmt: skip
    assert found == [
        str(path.relative_to(tmp_path)) for path in sorted(map(tmp_path.joinpath, names))
    ]
    note = f"{tmp_path}: not read: 2 (no suffix), 1 .txt, 1 hidden .wav"
    assert listing == Listing(notes=[note])
    assert [name for _, name in walk_folder(f"{tmp_path}/", listing)] == found


def test_a_folder_reached_twice_is_searched_once(tmp_path: Path) -> None:
    touch(tmp_path, "real/a.wav", "real/in/b.wav", "else/c.wav")
    (tmp_path / "real" / "in" / "up").symlink_to(tmp_path)
    (tmp_path / "zlink").symlink_to(tmp_path / "real" / "in")
    (tmp_path / "alink").symlink_to("else")
    found, listing = walk(tmp_path)
    assert found == ["alink/c.wav", "real/a.wav", "real/in/b.wav"]
    assert listing.duplicates == [
        (f"{tmp_path}/alink", f"{tmp_path}/else"),
        (f"{tmp_path}", f"{tmp_path}/real/in/up"),
        (f"{tmp_path}/real/in", f"{tmp_path}/zlink"),
    ]


def test_links_to_files_are_followed(tmp_path: Path) -> None:
    touch(tmp_path, "store/x1")
    touch(tmp_path, "data/a.wav")
    data = tmp_path / "data"
    (data / "b.wav").symlink_to("../store/x1")
    (data / "c.wav").symlink_to("../store/gone")
    (data / "d.wav").symlink_to("/dev/null")
    (data / "itself.wav").symlink_to("itself.wav")
    (data / "itself").symlink_to("itself")
    os.mkfifo(data / "e.wav")
    found, listing = walk(data)
    assert found == ["a.wav", "b.wav"]
    assert listing.links == {f"{data}/b.wav": f"{tmp_path}/store/x1"}
    assert listing.missing == [
        f"{data}/c.wav: links to {tmp_path}/store/gone, which does not exist",
        f"{data}/itself.wav: links to {data}/itself.wav, which does not exist",
    ]
    assert listing.damaged == [
        (f"{data}/d.wav", "must be a file; got a link to a device or pipe"),
        (f"{data}/e.wav", "must be a file; got a device or pipe"),
    ]


def test_what_is_not_read_is_reported(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav", "1.wma", "x/2.WMA", "3.wv", "x/b.tar.gz", "c.zip", "d.jpg", ".e.wma")
    touch(tmp_path, "README", "._a.wav", ".DS_Store", "__MACOSX/._a.wav", "__MACOSX/b.wav")
    found, listing = walk(tmp_path)
    assert found == ["a.wav"]
    assert listing.notes == [
        f"{tmp_path}: not read: 2 .wma, 1 (no suffix), 1 .jpg, 1 .wv, 1 hidden .wma; "
        "some are audio: convert these to wav or flac"
    ]
    assert listing.damaged == [
        (f"{tmp_path}/c.zip", "archives must be plain tar; got zip. Unpack it to a folder"),
        (
            f"{tmp_path}/x/b.tar.gz",
            "archives must be plain tar; got a compressed one. Unpack the compression, not the tar",
        ),
    ]


def test_a_folder_that_cannot_be_read_costs_only_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "a/1.wav", "b/2.wav", "c/3.wav")
    original = os.scandir

    def refuse(path: str):
        if path == closed:
            raise PermissionError(13, "Permission denied")
        return original(path)

    monkeypatch.setattr(os, "scandir", refuse)
    closed = f"{tmp_path}/b"
    found, listing = walk(tmp_path)
    assert found == ["a/1.wav", "c/3.wav"]
    assert listing.damaged == [(closed, "cannot be read (Permission denied)")]
    closed = str(tmp_path)
    with refused(CorpusError, "unreadable", tmp_path):
        walk(tmp_path)


def test_folders_may_be_deeper_than_python_recurses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(1500):
        os.mkdir("d")
        os.chdir("d")
    Path("a.wav").write_bytes(b"")
    deepest = os.open(".", os.O_RDONLY)
    try:
        os.chdir(tmp_path)
        found, listing = walk(".")
    finally:
        # pytest removes the folders of earlier runs, and does recurse.
        os.chdir(deepest)
        os.close(deepest)
        os.unlink("a.wav")
        for _ in range(1500):
            os.chdir("..")
            os.rmdir("d")
    assert found == ["d/" * 1500 + "a.wav"]
    assert not listing.damaged


def test_names_that_are_not_utf_8_are_found(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/caf\xe9.wav"
    Path(os.fsdecode(path)).write_bytes(b"")
    found, _ = walk(tmp_path)
    assert os.fsencode(found[0]) == b"caf\xe9.wav"


def test_an_index_looks_once_at_each_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, *(f"{folder}/{file}.wav" for folder in range(20) for file in range(3)))
    (tmp_path / "0" / "dir.wav").mkdir()
    (tmp_path / "0" / "link.wav").symlink_to("../1/1.wav")
    (tmp_path / "0" / "broken.wav").symlink_to("gone")
    looks = []
    original = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: looks.append(path) or original(path))
    listing = Listing()
    index = FileIndex(listing)
    assert all(index.find_file(f"{tmp_path}/{d}/{f}.wav") for d in range(20) for f in range(3))
    assert len(looks) == 20
    # Only the last folders are remembered.
    assert index.find_file(f"{tmp_path}/19/1.wav")
    assert len(looks) == 20
    assert index.find_file(f"{tmp_path}/0/link.wav")
    assert len(looks) == 21
    assert listing.links == {f"{tmp_path}/0/link.wav": f"{tmp_path}/1/1.wav"}
    for name in ("0/dir.wav", "0/broken.wav", "0/3.wav", "gone/1.wav", "0"):
        assert not index.find_file(f"{tmp_path}/{name}")


def test_names_in_another_unicode_form_are_found(tmp_path: Path) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    touch(tmp_path, f"{decomposed}/{decomposed}.wav", f"{decomposed}.wav")
    index = FileIndex(Listing())
    wanted = f"{tmp_path}/{decomposed}/{decomposed}.wav"
    for name in (composed, decomposed):
        assert index.find_file(f"{tmp_path}/{name}/{name}.wav") == wanted
    assert index.find_file(f"{tmp_path}/{composed}.flac") is None
    # Both are there: each is itself.
    touch(tmp_path, f"{composed}.wav")
    again = FileIndex(Listing())
    for name in (composed, decomposed):
        assert again.find_file(f"{tmp_path}/{name}.wav") == f"{tmp_path}/{name}.wav"


def test_no_more_suffixes_are_named_than_anyone_reads(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav", *(f"{number}.x{number}" for number in range(30)), "b.x29")
    _, listing = walk(tmp_path)
    (note,) = listing.notes
    assert note.startswith(f"{tmp_path}: not read: 2 .x29, 1 .x0, ")
    assert note.endswith(", 10 others")


@pytest.mark.parametrize("name", ["a.wav", "m.wav", "z.wav"])
def test_a_link_to_itself_hides_nothing_beside_it(tmp_path: Path, name: str) -> None:
    """Wherever in its folder the file system puts it."""
    touch(tmp_path, "b.wav", "n.wav", "y.wav", "in/c.wav")
    (tmp_path / name).symlink_to(name)
    (tmp_path / "loop").symlink_to("loop")
    found, listing = walk(tmp_path)
    assert found == ["b.wav", "in/c.wav", "n.wav", "y.wav"]
    assert len(listing.missing) == 1
    assert f"{tmp_path}/{name}" in listing.missing[0]
    index = FileIndex(Listing())
    assert index.find_file(f"{tmp_path}/{name}") is None
    assert index.find_file(f"{tmp_path}/n.wav") == f"{tmp_path}/n.wav"
