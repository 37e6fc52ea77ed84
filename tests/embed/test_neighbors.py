"""Neighbors and maps of embeddings that are known."""

import sys
from pathlib import Path

import numpy as np
import pytest

from byola_rq.embed.neighbors import (
    find_nearest,
    guess_labels,
    place_on_map,
    read_embeddings,
    share_of_like_neighbors,
)
from byola_rq.errors import CorpusError, MissingPackageError
from byola_rq.text.cells import csv_text
from tests.refusal import refused


def two_groups(num: int = 20, dim: int = 8) -> np.ndarray:
    """Two groups far apart, in turn, around a mean that is far from 0, as a ReLU leaves it."""
    rng = np.random.default_rng(0)
    centers = np.where(np.arange(num) % 2, 1.0, -1.0)[:, None]
    return 50 + centers + 0.2 * rng.standard_normal((num, dim))


def test_neighbors_are_of_the_same_group() -> None:
    embeddings = two_groups()
    for row in (0, 7):
        nearest = find_nearest(embeddings, row, 5)
        assert all(other % 2 == row % 2 and other != row for other, _ in nearest)
        cosines = [cosine for _, cosine in nearest]
        assert cosines == sorted(cosines, reverse=True)
        assert 0 < cosines[-1] <= cosines[0] <= 1
    labels = ["ab"[row % 2] for row in range(20)]
    assert share_of_like_neighbors(embeddings, labels) == 1
    assert share_of_like_neighbors(embeddings, [str(row) for row in range(20)]) == 0


def test_the_size_of_a_dimension_does_not_matter() -> None:
    embeddings = two_groups()
    scaled = embeddings * np.array([1, 1000, 1, 1, 0.001, 1, 1, 1])
    assert [row for row, _ in find_nearest(scaled, 3, 8)] == [
        row for row, _ in find_nearest(embeddings, 3, 8)
    ]
    dead = np.concatenate((embeddings, np.full((20, 1), 7.0)), axis=1)
    assert find_nearest(dead, 3, 8)[0][1] == pytest.approx(find_nearest(embeddings, 3, 8)[0][1])


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_a_map_keeps_groups_apart(method: str) -> None:
    pytest.importorskip("sklearn", reason="t-SNE needs scikit-learn")
    places = place_on_map(two_groups(), method)  # type: ignore[arg-type]
    assert places.shape == (20, 2)
    first, second = places[::2], places[1::2]
    between = np.linalg.norm(first.mean(axis=0) - second.mean(axis=0))
    within = max(
        np.linalg.norm(group - group.mean(axis=0), axis=1).mean() for group in (first, second)
    )
    assert between > 1.5 * within


def test_wrong_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="'spiral'"):
        place_on_map(two_groups(), "spiral")  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with refused(MissingPackageError, "missing", key="scikit-learn"):
        place_on_map(two_groups(), "tsne")


def test_labels_are_folders_or_names() -> None:
    names = ["00012_voice-fr.wav", "3_note-brass.wav", "rain.wav"]
    assert guess_labels([Path("clips", name) for name in names]) == ["voice", "note", "rain"]
    assert guess_labels([Path("dog/1.wav"), Path("a/cat/1.wav")]) == ["dog", "cat"]


def test_what_is_not_embeddings(tmp_path: Path) -> None:
    with refused(CorpusError, "foreign", tmp_path):
        read_embeddings(tmp_path)
    np.save(tmp_path / "embeddings.npy", np.zeros((2, 3), np.float32))
    (tmp_path / "index.csv").write_text("row,path\n0,a.wav\n1,b.wav\n")
    embeddings, paths = read_embeddings(tmp_path)
    assert embeddings.shape == (2, 3)
    assert paths == [Path("a.wav"), Path("b.wav")]


def test_clips_come_back_by_their_names(tmp_path: Path) -> None:
    names = ["=1+1.wav", "-a.wav", "@home/b.wav", "'=c.wav", 'a\nb\r,".wav', "plain.wav"]
    rows = [("row", "path", "seconds"), *((row, name, "1.0") for row, name in enumerate(names))]
    (tmp_path / "index.csv").write_bytes(csv_text(rows, "\r\n").encode())
    np.save(tmp_path / "embeddings.npy", np.zeros((len(names), 2)))
    assert [str(path) for path in read_embeddings(tmp_path)[1]] == names
    np.save(tmp_path / "embeddings.npy", np.zeros((len(names) + 1, 2)))
    with refused(CorpusError, "foreign", tmp_path):
        read_embeddings(tmp_path)
