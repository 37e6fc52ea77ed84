"""Files are whole or not there, whatever ends their writing."""

import os
import secrets
from pathlib import Path

import numpy as np
import pytest

from byola_rq.runtime.files import (
    is_own,
    new_file,
    open_own,
    own_folder,
    remove_folder,
    remove_leftovers,
    replace_file,
    whole_file,
)
from byola_rq.runtime.lock import locked
from byola_rq.runtime.resumable_rows import ResumableRows


@pytest.mark.parametrize("content", ["zwölf\r\n", b"\xff\0"])
def test_a_file_holds_what_it_was_given(tmp_path: Path, content: str | bytes) -> None:
    path = tmp_path / "file"
    path.write_text("something longer that was there before")
    replace_file(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("is_there", [True, False])
def test_an_error_leaves_what_was_there(tmp_path: Path, is_there: bool) -> None:
    path = tmp_path / "file"
    if is_there:
        path.write_text("old")

    def write() -> None:
        with whole_file(path) as temporary:
            temporary.write_text("new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    assert [each.read_text() for each in tmp_path.iterdir()] == ["old"] * is_there


def test_the_temporary_file_may_lie_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    with whole_file(tmp_path / "file", folder=tmp_path / "parts") as temporary:
        assert temporary.parent == tmp_path / "parts"
        temporary.write_text("whole")
    assert (tmp_path / "file").read_text() == "whole"
    assert not list((tmp_path / "parts").iterdir())


@pytest.mark.parametrize("has_links", [True, False])
def test_a_file_that_is_there_may_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("no links here")

    if not has_links:
        monkeypatch.setattr("os.link", refuse)
    for text in ("first", "second"):
        replace_file(tmp_path / "file", text, may_replace=False)
    assert (tmp_path / "file").read_text() == "first"
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_nothing_is_written_where_a_link_leads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secrets, "token_hex", lambda _: "known")
    (tmp_path / "others").write_text("do not touch")
    (tmp_path / ".file.known.partial").symlink_to(tmp_path / "others")
    with pytest.raises(FileExistsError):
        replace_file(tmp_path / "file", "new")
    assert (tmp_path / "others").read_text() == "do not touch"
    assert not (tmp_path / "file").exists()


def test_others_may_read_what_the_umask_lets_them(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        replace_file(tmp_path / "file", "")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


@pytest.fixture
def others(tmp_path: Path) -> Path:
    """A file outside of the folder that is written to."""
    path = tmp_path / "others"
    path.write_text("do not touch")
    return path


def test_a_link_is_replaced_and_not_followed(tmp_path: Path, others: Path) -> None:
    (out := tmp_path / "out").mkdir()
    (out / "file").symlink_to(others)
    (out / "new").symlink_to(others)
    replace_file(out / "file", "mine")
    with new_file(out / "new") as file:
        file.write(b"mine")
    assert [(out / name).read_text() for name in ("file", "new")] == ["mine", "mine"]
    assert is_own(out / "file")
    assert others.read_text() == "do not touch"


def test_no_file_goes_on_behind_a_link(tmp_path: Path, others: Path) -> None:
    (tmp_path / "link").symlink_to(others)
    (tmp_path / "nowhere").symlink_to(tmp_path / "made")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "nowhere", "pipe", "."):
        with pytest.raises(OSError):  # noqa: PT011 - each has a number of its own
            open_own(tmp_path / name)
    with pytest.raises(OSError), locked(tmp_path / "link", patience=0):  # noqa: PT011
        pass
    for text in (b"a", b"b"):
        with open_own(tmp_path / "file") as file:
            file.write(text)
    assert (tmp_path / "file").read_bytes() == b"ab"
    assert others.read_text() == "do not touch"
    assert not (tmp_path / "made").exists()


def test_an_own_folder_is_not_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "named").symlink_to(tmp_path / "real")
    # What the user names may be one.
    assert own_folder(tmp_path / "named" / "ours").is_dir()
    (tmp_path / "named" / "link").symlink_to(tmp_path / "real")
    with pytest.raises(OSError, match="link"):
        own_folder(tmp_path / "named" / "link")


def test_others_cannot_read_what_is_being_written(tmp_path: Path) -> None:
    with whole_file(tmp_path / "file") as temporary, new_file(tmp_path / "other"):
        assert temporary.stat().st_mode & 0o777 == 0o600
        assert (tmp_path / "other").stat().st_mode & 0o777 == 0o600


def test_only_own_files_are_removed(tmp_path: Path, others: Path) -> None:
    (out := tmp_path / "out").mkdir()
    for name in (".a.npy.0123abcd.partial", ".mode.0123abcd.partial"):
        (out / name).touch()
    kept = {".a.partial", "a.0123abcd.partial", ".notes.12345678.txt"}
    for name in kept:
        (out / name).touch()
    (out / ".l.0123abcd.partial").symlink_to(others)
    remove_leftovers(out)
    assert {path.name for path in out.iterdir()} == kept | {".l.0123abcd.partial"}
    (tmp_path / "link").symlink_to(out)
    remove_folder(tmp_path / "link")
    assert not (tmp_path / "link").is_symlink()
    assert len(list(out.iterdir())) == 4
    assert others.exists()


@pytest.mark.parametrize("name", ["rows.npy", "rows.done.npy", "rows.key"])
def test_rows_do_not_go_on_behind_a_link(tmp_path: Path, name: str) -> None:
    (out := tmp_path / "out").mkdir()
    marks = np.ones((2, 1), np.uint8)
    ResumableRows(out / "rows.npy", "key", marks, 3).add([0], np.ones((1, 3), np.float32))
    moved = (out / name).rename(tmp_path / name)
    (out / name).symlink_to(moved)
    before = moved.read_bytes()
    rows = ResumableRows(out / "rows.npy", "key", marks, 3)
    rows.add([0, 1], np.full((2, 3), 2, np.float32))
    rows.flush()
    assert rows.array.tolist() == [[2] * 3] * 2
    assert moved.read_bytes() == before
