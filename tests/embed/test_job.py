"""An embedding job: a row for each clip named, whatever is broken, spelled otherwise or busy."""

import csv
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

from byola_rq import AudioError, Embedder
from byola_rq.audio.io import read_audio
from byola_rq.cli.app import main
from byola_rq.embed import folder as embedding_folder
from byola_rq.embed.folder import EmbeddingFolder
from byola_rq.embed.job import Embedded, embed_clips
from byola_rq.errors import CorpusError
from tests.refusal import refused


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder.untrained(dim=16)


@pytest.fixture
def source(sounds: Path, tmp_path: Path) -> Path:
    """Five clips, a.wav to e.wav."""
    folder = tmp_path / "source"
    folder.mkdir()
    for name, path in zip("abcde", sorted(sounds.glob("*.wav")), strict=False):
        soundfile.write(folder / f"{name}.wav", read_audio(path, 16000).numpy()[:16000], 16000)
    return folder


def embed(embedder: Embedder, sources: Sequence[Path], out: Path, **options: bool) -> Embedded:
    return embed_clips(embedder, sources, out, num_workers=1, **options)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def rows_by_name(out: Path) -> dict[str, np.ndarray]:
    rows = np.load(out / "embeddings.npy", allow_pickle=False)
    index = table(out / "index.csv")
    assert len(index) == len(rows)
    return {Path(line["path"]).name: rows[int(line["row"])] for line in index}


def break_clips(folder: Path) -> set[str]:
    """Files that are no sound, or only begin to be: by header, by length, and when decoded."""
    (folder / "empty.wav").write_bytes(b"")
    (folder / "page.wav").write_bytes(b"<!DOCTYPE html>")
    (folder / "pointer.wav").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    soundfile.write(folder / "short.wav", np.zeros(10), 16000)
    samples, _ = soundfile.read(folder / "a.wav", dtype="float32")
    samples[9000] = np.nan
    soundfile.write(folder / "nan.wav", samples, 16000, "FLOAT")
    soundfile.write(folder / "torn.flac", np.random.default_rng(0).uniform(-1, 1, 40000), 16000)
    encoded = (folder / "torn.flac").read_bytes()
    (folder / "torn.flac").write_bytes(encoded[: len(encoded) // 2])
    return {"empty.wav", "page.wav", "pointer.wav", "short.wav", "nan.wav", "torn.flac"}


def test_a_clip_has_as_many_rows_as_it_is_named(
    embedder: Embedder, source: Path, tmp_path: Path
) -> None:
    (source / "same.wav").write_bytes((source / "b.wav").read_bytes())
    (source / "link.wav").symlink_to(source / "a.wav")
    names = ["a.wav", "a.wav", "link.wav", "b.wav", "same.wav", "a.wav"]
    (source / "list.csv").write_text("path,label\n" + "".join(f"{name},x\n" for name in names))
    outcome = embed(embedder, [source / "list.csv", source / "a.wav"], tmp_path / "out")
    assert (outcome.num_clips, outcome.num_rejected) == (7, 0)
    index = table(tmp_path / "out" / "index.csv")
    assert [Path(line["path"]).name for line in index] == [*names, "a.wav"]
    rows = np.load(outcome.path, allow_pickle=False)
    np.testing.assert_array_equal(rows[[1, 2, 5, 6]], rows[[0] * 4])
    np.testing.assert_array_equal(rows[3], rows[4])
    assert not np.allclose(rows[0], rows[3])


def test_folders_of_one_content_keep_all_their_clips(
    embedder: Embedder, source: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.wav").write_bytes((source / "a.wav").read_bytes())
    outcome = embed(embedder, [source, other, other], tmp_path / "out")
    assert len(np.load(outcome.path, allow_pickle=False)) == 7


@pytest.mark.parametrize("frames", [False, True])
def test_broken_clips_are_listed_and_the_rest_is_embedded(
    embedder: Embedder, source: Path, tmp_path: Path, frames: bool
) -> None:
    whole = embed(embedder, [source], tmp_path / "whole", frames=frames)
    broken = break_clips(source)
    out = tmp_path / "out"
    outcome = embed(embedder, [source], out, frames=frames)
    assert (outcome.num_clips, outcome.num_rejected) == (5, len(broken))
    np.testing.assert_array_equal(np.load(outcome.path), np.load(whole.path))
    assert (out / "index.csv").read_bytes() == (tmp_path / "whole" / "index.csv").read_bytes()
    rejected = {line["source"]: line["reason"] for line in table(out / "rejected.csv")}
    assert rejected.keys() == {str(source / name) for name in broken}
    assert all(rejected.values())
    assert "9000" in rejected[str(source / "nan.wav")]
    assert {each.name for each in out.iterdir()} == {
        outcome.path.name,
        "index.csv",
        "meta.json",
        "rejected.csv",
    }
    # The same command again finds all done, and says the same.
    before = outcome.path.stat().st_mtime_ns
    assert embed(embedder, [source], out, frames=frames) == outcome
    assert outcome.path.stat().st_mtime_ns == before


def test_what_is_rejected_is_reported_as_it_is_now(
    embedder: Embedder, source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    embed(embedder, [source], out)
    (source / "empty.wav").write_bytes(b"")
    assert embed(embedder, [source], out).num_rejected == 1
    assert [line["source"] for line in table(out / "rejected.csv")] == [str(source / "empty.wav")]
    (source / "empty.wav").unlink()
    assert embed(embedder, [source], out).num_rejected == 0
    assert not (out / "rejected.csv").exists()


def test_files_that_a_list_names_in_vain_are_rejected(
    embedder: Embedder, source: Path, tmp_path: Path
) -> None:
    (source / "list.csv").write_text("path,start\na.wav,\ngone.wav,\nb.wav,-1\nc.wav,\n")
    outcome = embed(embedder, [source / "list.csv"], tmp_path / "out")
    assert rows_by_name(tmp_path / "out").keys() == {"a.wav", "c.wav"}
    assert outcome.num_rejected == 2
    missing, bad_row = sorted(
        table(tmp_path / "out" / "rejected.csv"), key=lambda row: "gone.wav" not in row["reason"]
    )
    assert missing["source"] == str(source / "list.csv")
    assert "start" in bad_row["reason"]


def test_a_job_goes_on_past_a_clip_that_does_not_decode(
    embedder: Embedder, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_clips(source)
    expected = embed(embedder, [source], tmp_path / "whole")
    add = EmbeddingFolder.add
    calls = 0

    def stop_at_the_second(self: EmbeddingFolder, *arguments: np.ndarray) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        add(self, *arguments)

    soundfile.write(source / "f.wav", np.random.default_rng(1).uniform(-1, 1, 30000), 16000)
    expected = embed(embedder, [source], tmp_path / "whole", overwrite=True)
    with monkeypatch.context() as patch:
        patch.setattr(EmbeddingFolder, "add", stop_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            embed(embedder, [source], tmp_path / "out")
    assert not (tmp_path / "out" / "embeddings.npy").exists()
    embed(embedder, [source], tmp_path / "out")
    for path in expected.path.parent.iterdir():
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.parametrize("name", ["empty.wav", "nan.wav", "short.wav"])
def test_strict_stops_at_the_first(
    embedder: Embedder, source: Path, tmp_path: Path, name: str
) -> None:
    for other in break_clips(source) - {name}:
        (source / other).unlink()
    codes = {"empty.wav": "empty", "nan.wav": "not-finite", "short.wav": "too-short"}
    with refused(AudioError, codes[name], source / name):  # type: ignore[arg-type]
        embed(embedder, [source], tmp_path / "out", strict=True)
    assert not (tmp_path / "out" / "embeddings.npy").exists()


@pytest.mark.parametrize("name", ["empty.wav", "nan.wav"])
def test_a_job_without_a_usable_clip_is_refused(
    embedder: Embedder, source: Path, tmp_path: Path, name: str
) -> None:
    break_clips(source)
    with refused(AudioError, "empty" if name == "empty.wav" else "not-finite", source / name):
        embed(embedder, [source / name], tmp_path / "out")
    assert not (tmp_path / "out" / "embeddings.npy").exists()


def test_the_command_counts_what_it_left_out(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    num_broken = len(break_clips(source))
    with pytest.raises(SystemExit) as end:
        main(["embed", str(source), "-o", str(tmp_path / "out"), "--device", "cpu"])
    assert end.value.code == 1
    told = capsys.readouterr()
    assert told.out == f"{tmp_path / 'out' / 'embeddings.npy'}\n"
    (line,) = [line for line in told.err.splitlines() if line.startswith("error: ")]
    assert f" {num_broken} " in line
    assert str(tmp_path / "out" / "rejected.csv") in line


def test_a_folder_is_one_job_s_at_a_time(
    embedder: Embedder, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding_folder, "PATIENCE", 0.0)
    out, other = tmp_path / "out", Embedder.untrained(dim=16, seed=7)
    with EmbeddingFolder(out, "of another job").locked():
        for options in ({}, {"overwrite": True}):
            with refused(CorpusError, "held", out):
                embed(embedder, [source], out, **options)
    embed(embedder, [source], out)
    with EmbeddingFolder(out, "of another job").locked(), refused(CorpusError, "held", out):
        embed(other, [source], out, overwrite=True)
    before = (out / "embeddings.npy").read_bytes()
    embed(other, [source], out, overwrite=True)
    assert (out / "embeddings.npy").read_bytes() != before
    assert not (out / ".lock").exists()


def test_a_finished_job_needs_no_right_to_write(
    embedder: Embedder, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = embed(embedder, [source], tmp_path / "out")
    monkeypatch.setattr(EmbeddingFolder, "locked", None)  # what would write
    assert embed(embedder, [source], tmp_path / "out") == expected


def spellings(source: Path) -> list[Path]:
    (source.parent / "link").symlink_to(source)
    return [
        Path(os.path.relpath(source)),
        source.parent / "link",
        Path(f"{source.parent}/../{source.parent.name}/./{source.name}/"),
    ]


def test_another_spelling_is_the_same_job(
    embedder: Embedder, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (source / "list.csv").write_text("path\na.wav\n../source/b.wav\n")
    for number, name in enumerate(("", "list.csv", "a.wav")):
        path = embed(embedder, [source / name], tmp_path / f"out{number}").path
        before = path.stat().st_mtime_ns
        for other in spellings(source):
            assert embed(embedder, [other / name], tmp_path / f"out{number}").path == path
            assert path.stat().st_mtime_ns == before
        (tmp_path / "link").unlink()
    copy = Path(shutil.copytree(source, tmp_path / "copy"))
    with refused(CorpusError, "exists", tmp_path / "out0" / "embeddings.npy"):
        embed(embedder, [copy], tmp_path / "out0")
