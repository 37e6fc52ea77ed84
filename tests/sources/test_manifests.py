"""Manifests: which files, parts, labels and ids their rows give, and which rows are refused."""

import os
from pathlib import Path

import pandas as pd
import pytest

from byola_rq.errors import Code, CorpusError
from byola_rq.sources.clip_source import Listing
from byola_rq.sources.manifests import list_manifest
from tests.refusal import refused


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """`data` with a few files, which are never opened."""
    for name in ("data/a.wav", "data/b.wav", "data/x/c.wav", "far/x/d.wav", "far/e.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    return tmp_path / "data"


def list_one(manifest: Path | str) -> Listing:
    listing = Listing()
    listing.clips.extend(list_manifest(str(manifest), listing))
    return listing


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("m.csv", "path,label\nb.wav,x\na.wav,y\n"),
        ("m.csv", '﻿label, path \r\n"x", b.wav\r\n\r\ny,a.wav\r\n'),
        ("m.csv", "labels,file_name\nx,b.wav\ny,a.wav,surplus\n"),
        ("m.tsv", "path\tlabels\nb.wav\tx\na.wav\ty\n"),
        ("m.csv", "Path;Label\nb.wav;x\nx\\..\\a.wav;y\n"),
        ("m.tsv", 'text\t"path"\tlabels\n"he said\tb.wav\tx\nan inch: 1"\t"a.wav"\ty\n'),
    ],
)
def test_text_tables(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text, encoding="utf-8", newline="")
    listing = list_one(folder / name)
    found = [(clip.clip_id, os.path.normpath(clip.file), clip.labels) for clip in listing.clips]
    assert found == [
        ("b.wav", f"{folder}/b.wav", "x"),
        ("a.wav", f"{folder}/a.wav", "y"),
    ]


def test_parquet_tables(folder: Path) -> None:
    table = pd.DataFrame(
        {
            "path": ["b.wav", None, "x/c.wav", "a.wav"],
            "labels": [["dog", "barking"], None, [], ["cat"]],
            "start": [None, None, 1.5, 2],
            "end": [None, None, None, 4.25],
        }
    )
    table.to_parquet(folder / "m.parquet", row_group_size=2)
    listing = list_one(folder / "m.parquet")
    rows = [(c.clip_id, c.labels, c.start_seconds, c.num_seconds) for c in listing.clips]
    assert rows == [
        ("b.wav", "dog,barking", 0.0, -1.0),
        ("x/c.wav@1.5-", "", 1.5, -1.0),
        ("a.wav@2-4.25", "cat", 2.0, 2.25),
    ]
    assert [str(clip).removeprefix(f"{folder}/") for clip in listing.clips] == [
        row[0] for row in rows
    ]
    assert listing.missing == [f"{folder}/m.parquet: row 1: no such file: ''"]


def test_fairseq_tables(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for root in (str(folder), ".", "../data"):
        (folder / "train.tsv").write_text(f"{root}\nx/c.wav\t16000\nb.wav\t320\n\nz.wav\t1\n")
        listing = list_one(folder / "train.tsv")
        assert [clip.clip_id for clip in listing.clips] == ["x/c.wav", "b.wav"]
        assert [os.path.samefile(clip.file, folder / clip.clip_id) for clip in listing.clips]
        assert listing.missing == [f"{folder}/train.tsv: row 5: no such file: 'z.wav'"]
    monkeypatch.chdir(folder)
    assert [clip.clip_id for clip in list_one("train.tsv").clips] == ["x/c.wav", "b.wav"]


@pytest.mark.parametrize(
    ("paths", "ids"),
    [
        (["a.wav", "./x//c.wav", "x/../b.wav"], ["a.wav", "x/c.wav", "b.wav"]),
        (["{root}/data/a.wav", "x/c.wav"], ["a.wav", "x/c.wav"]),
        # Outside of the manifest's folder: below the deepest folder that holds them all.
        (["{root}/far/x/d.wav", "{root}/far/e.wav"], ["x/d.wav", "e.wav"]),
        (["../far/e.wav"], ["e.wav"]),
        (["a.wav", "{root}/far/e.wav"], ["data/a.wav", "far/e.wav"]),
    ],
)
def test_ids_are_relative(folder: Path, paths: list[str], ids: list[str]) -> None:
    rows = [path.format(root=folder.parent) for path in paths]
    (folder / "m.csv").write_text("path\n" + "".join(f"{row}\n" for row in rows))
    listing = list_one(folder / "m.csv")
    assert [clip.clip_id for clip in listing.clips] == ids
    for clip, row in zip(listing.clips, rows, strict=True):
        assert os.path.samefile(clip.file, folder / row)


def test_a_manifest_may_name_its_ids(folder: Path) -> None:
    (folder / "m.csv").write_text("clip_id,path,start,end\none,a.wav,0,1\n,a.wav,1,2\n")
    assert [clip.clip_id for clip in list_one(folder / "m.csv").clips] == ["one", "a.wav@1-2"]


def test_bad_rows_cost_only_themselves(folder: Path) -> None:
    (folder / "m.csv").write_text(
        "path,start_seconds,end_seconds\n"
        "a.wav,,\n"
        "gone.wav,,\n"
        "a.wav,-1,\n"
        "a.wav,2,1\n"
        "a.wav,x,1\n"
        ",0,1\n"
        "a.wav,nan,inf\n"
        "x,,\n"
        "b.wav,0,2.5\n"
    )
    listing = list_one(folder / "m.csv")
    assert [clip.clip_id for clip in listing.clips] == ["a.wav", "b.wav@0-2.5"]
    assert [text.split(": ", 1)[1] for text in listing.missing] == [
        "row 3: no such file: 'gone.wav'",
        "row 7: no such file: ''",
        "row 9: no such file: 'x'",
    ]
    assert listing.damaged == [
        (f"{folder}/m.csv: row {row}", reason)
        for row, reason in [
            (4, "start must be a number of seconds, at least 0; got '-1'"),
            (5, "end must be after start; got 2 s to 1 s"),
            (6, "start must be a number of seconds, at least 0; got 'x'"),
            (8, "start must be a number of seconds, at least 0; got 'nan'"),
        ]
    ]


@pytest.mark.parametrize(
    ("name", "content", "code", "facts"),
    [
        ("m.csv", b"", "empty", {}),
        ("m.csv", b"path\n", "empty", {}),
        ("m.csv", b"name\na.wav\n", "malformed", {"key": "path", "value": ["name"]}),
        ("m.csv", b"\xff\xfe\0\n", "malformed", {"key": "path"}),
        ("m.csv", b"path\n" + b"x" * 200_000, "unreadable", {}),
        ("m.csv", b"path\nq.wav\nr.wav\n", "missing", {"value": "r.wav"}),
        ("m.csv", b"path\na\0/q.wav\n", "missing", {"value": "a\0/q.wav"}),
        ("m.csv", b"path\n" + b"\xc3\xa9/" * 1500 + b"q.wav\n", "missing", {}),
        ("m.csv", b'path,text\na.wav,"he said\nb.wav,x\n', "unreadable", {}),
        ("m.tsv", b"name\na.wav\n", "malformed", {"key": None, "value": "name"}),
        ("m.tsv", b"a\tb\n", "malformed", {"key": "path", "value": ["a", "b"]}),
        ("m.parquet", b"no table", "unreadable", {}),
    ],
)
def test_what_is_no_manifest_is_refused(
    folder: Path, name: str, content: bytes, code: Code, facts: dict[str, object]
) -> None:
    (folder / name).write_bytes(content)
    with refused(CorpusError, code, folder / name, **facts):
        list_one(folder / name)
    pd.DataFrame({"name": ["a.wav"]}).to_parquet(folder / "n.parquet")
    with refused(CorpusError, "malformed", folder / "n.parquet", key="path", value=["name"]):
        list_one(folder / "n.parquet")


def test_names_that_are_not_utf_8(folder: Path) -> None:
    raw = b"caf\xe9.wav"
    Path(os.fsdecode(os.fsencode(folder) + b"/" + raw)).write_bytes(b"")
    (folder / "m.csv").write_bytes(b"path,label\n" + raw + b",\xe9\n")
    (clip,) = list_one(folder / "m.csv").clips
    assert clip.path.exists()
    assert (clip.clip_id, clip.labels) == ("caf\\xe9.wav", "\\xe9")
    assert str(clip).encode().endswith(b"caf\\xe9.wav")


def test_a_tilde_is_the_home_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    elsewhere = folder.parent / "lists"
    elsewhere.mkdir()
    (elsewhere / "m.csv").write_text("path\n~/a.wav\n~/x/c.wav\n")
    (elsewhere / "m.tsv").write_text("~/x\nc.wav\t0\n")
    files = [clip.file for clip in list_one(elsewhere / "m.csv").clips]
    assert files == [f"{folder}/a.wav", f"{folder}/x/c.wav"]
    assert [clip.file for clip in list_one(elsewhere / "m.tsv").clips] == [f"{folder}/x/c.wav"]


def test_names_in_another_unicode_form_are_found(folder: Path) -> None:
    (folder / "cafe\u0301.wav").write_bytes(b"")
    (folder / "m.csv").write_text("path\ncaf\u00e9.wav\n", encoding="utf-8")
    assert [clip.file for clip in list_one(folder / "m.csv").clips] == [f"{folder}/cafe\u0301.wav"]
