"""The folder of embeddings, left at any moment."""

import os
from pathlib import Path

import numpy as np
import pytest

from byola_rq.embed.folder import EmbeddingFolder
from byola_rq.errors import CorpusError
from tests.refusal import refused

META = {"content_key": "a"}
ROWS = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)


def fill(path: Path, key: str = "a") -> EmbeddingFolder:
    folder = EmbeddingFolder(path, key)
    assert not folder.is_whole()
    assert not folder.open(5, 3).any()
    folder.add(np.array([4, 0]), ROWS[[4, 0]])
    folder.add(np.array([1, 2, 3]), ROWS[1:4])
    return folder


def test_rows_go_to_their_places(tmp_path: Path) -> None:
    fill(tmp_path / "deep" / "out").finish(META, "index")
    out = tmp_path / "deep" / "out"
    np.testing.assert_array_equal(np.load(out / "embeddings.npy", allow_pickle=False), ROWS)
    assert EmbeddingFolder(out, "a").is_whole()
    assert sorted(each.name for each in out.iterdir()) == [
        "embeddings.npy",
        "index.csv",
        "meta.json",
    ]


def test_what_is_marked_done_is_written(tmp_path: Path) -> None:
    folder = EmbeddingFolder(tmp_path, "a")
    folder.open(5, 3)
    folder.add(np.array([3, 1]), ROWS[[3, 1]])
    folder.flush()
    is_done = EmbeddingFolder(tmp_path, "a").open(5, 3)
    np.testing.assert_array_equal(np.flatnonzero(is_done), [1, 3])
    rows = np.load(tmp_path / ".partial.npy", allow_pickle=False)
    np.testing.assert_array_equal(rows[is_done], ROWS[is_done])
    assert not EmbeddingFolder(tmp_path, "b").open(5, 3).any()


def test_a_kill_while_names_are_given_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever call to the system is the last one, another run makes the folder whole."""
    num_calls = 0
    while True:
        out = tmp_path / str(num_calls)
        fill(out, "b").finish({"content_key": "b"}, "of b")
        filled = fill(out)
        filled.flush()
        left = num_calls

        def killed(call, *arguments, **options):
            nonlocal left
            if left == 0:
                raise KeyboardInterrupt
            left -= 1
            return call(*arguments, **options)

        with monkeypatch.context() as patch:
            for name in ("rename", "replace", "unlink", "fsync"):
                call = getattr(os, name)
                patch.setattr(os, name, lambda *a, call=call, **k: killed(call, *a, **k))
            try:
                filled.finish(META, "of a")
                break
            except KeyboardInterrupt:
                pass
        folder = EmbeddingFolder(out, "a")
        if not folder.is_whole():
            assert folder.open(5, 3).all(), "work was lost"
            folder.finish(META, "of a")
        np.testing.assert_array_equal(np.load(out / "embeddings.npy", allow_pickle=False), ROWS)
        assert (out / "index.csv").read_text() == "of a"
        num_calls += 1
    assert num_calls >= 7


@pytest.mark.parametrize("name", ["embeddings.npy", "frames.npy", ".partial.npy"])
def test_what_another_job_left_stays(tmp_path: Path, name: str) -> None:
    folder = fill(tmp_path)
    if name != ".partial.npy":
        folder.finish(META, "")
        (tmp_path / "embeddings.npy").rename(tmp_path / name)
    with refused(CorpusError, "exists", tmp_path / name):
        EmbeddingFolder(tmp_path, "b").check_free()
    assert EmbeddingFolder(tmp_path, "a").is_whole() == (name == "embeddings.npy")


@pytest.mark.parametrize("damage", ["embeddings.npy", "index.csv", "meta.json"])
def test_a_damaged_folder_is_not_called_whole(tmp_path: Path, damage: str) -> None:
    fill(tmp_path).finish(META, "")
    if damage == "index.csv":
        (tmp_path / damage).unlink()
    else:
        os.truncate(tmp_path / damage, 100 if damage == "embeddings.npy" else 5)
    folder = EmbeddingFolder(tmp_path, "a")
    assert not folder.is_whole()
    with refused(CorpusError, "exists", tmp_path / "embeddings.npy"):
        folder.check_free()


def test_damaged_rows_of_a_stopped_job_are_named(tmp_path: Path) -> None:
    fill(tmp_path).flush()
    os.truncate(tmp_path / ".partial.npy", 100)
    with refused(CorpusError, "damaged", tmp_path):
        EmbeddingFolder(tmp_path, "a").open(5, 3)


@pytest.mark.parametrize("name", ["index.csv", "meta.json", "rejected.csv"])
def test_files_of_no_job_stay(tmp_path: Path, name: str) -> None:
    """A folder of recordings often has an index.csv or a meta.json of its own."""
    (tmp_path / name).write_text("[1]")
    with refused(CorpusError, "exists", tmp_path / name):
        EmbeddingFolder(tmp_path, "a").check_free()
    (tmp_path / name).unlink()
    fill(tmp_path).finish(META, "")
    (tmp_path / "embeddings.npy").unlink()
    EmbeddingFolder(tmp_path, "b").check_free()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with refused(CorpusError, "unwritable", tmp_path / "file"):
        EmbeddingFolder(tmp_path / "file", "a").open(5, 3)
