"""Files are whole or not there, whatever ends their writing."""

import os
import secrets
from pathlib import Path

import pytest

from byola_rq.runtime.files import replace_file, whole_file


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
