"""Search: against scikit-learn, on real sound, and with bad input."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from byola_rq.cli.app import main
from byola_rq.embed.embedder import Embedder, load
from byola_rq.embed.scaling import Scaling
from byola_rq.errors import AudioError, ConfigError, CorpusError
from byola_rq.explore.collection import Collection, cache_folder, is_embedded, open_collection
from byola_rq.explore.search import (
    find_clips,
    find_duplicates,
    find_moments,
    pool_stretches,
)
from byola_rq.model.encoder import pool_over_time
from byola_rq.synthesis.generate import make_clip
from tests.refusal import refused

RATE = 16_000


def run(*arguments: object) -> int:
    """Exit status of `byola-rq`."""
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    return int(left.value.code or 0)


def collection_of(rows: np.ndarray) -> Collection:
    """Rows without sound."""
    return Collection(Path("x"), [f"{n}.wav" for n in range(len(rows))], np.ones(len(rows)), rows)


@pytest.fixture
def rows() -> np.ndarray:
    """Correlated rows with a large mean and a dimension that is constant, `(300, 12)`."""
    rng = np.random.default_rng(0)
    rows = 5 + rng.standard_normal((300, 12)) @ rng.standard_normal((12, 12))
    rows[:, 3] = 7
    return rows.astype(np.float32)


@pytest.fixture(scope="module")
def model() -> Embedder:
    return load()


def test_standardized_equals_scikit_learn(rows: np.ndarray) -> None:
    reference = StandardScaler().fit_transform(rows.astype(np.float64))
    reference /= np.linalg.norm(reference, axis=1, keepdims=True)
    scaled = Scaling.standardized(rows)(torch.from_numpy(rows)).numpy()
    np.testing.assert_allclose(scaled, reference, atol=1e-5)  # float32 near 5: 5e-7 of std 1 to 4


def test_whitened_without_shrinkage_equals_scikit_learn_up_to_a_rotation(rows: np.ndarray) -> None:
    """Cosines do not see the rotation; the constant dimension has no part in them."""
    reference = PCA(11, whiten=True).fit_transform(rows.astype(np.float64))
    reference /= np.linalg.norm(reference, axis=1, keepdims=True)
    scaled = Scaling.whitened(rows, shrinkage=0.0)(torch.from_numpy(rows)).numpy()
    np.testing.assert_allclose(scaled @ scaled.T, reference @ reference.T, atol=1e-3)


def test_blocks_change_nothing(rows: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = find_clips(torch.from_numpy(rows[5]), collection_of(rows), 300).clips
    monkeypatch.setattr("byola_rq.embed.scaling.ROWS_AT_ONCE", 7)
    parts = find_clips(torch.from_numpy(rows[5]), collection_of(rows), 300).clips
    assert [each.path for each in whole[:50]] == [each.path for each in parts[:50]]
    assert whole[0].path == "5.wav"
    assert whole[0].similarity == pytest.approx(1, abs=1e-6)
    values = [each.similarity for each in whole]
    assert values == sorted(values, reverse=True)
    assert len(whole) == len(rows)


def test_a_stretch_is_pooled_as_a_clip_is() -> None:
    frames = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    stretches = pool_stretches(frames, 5, 1)
    assert len(stretches) == 16
    for first in range(16):
        torch.testing.assert_close(
            stretches[first], pool_over_time(frames[None, first : first + 5])[0]
        )
    torch.testing.assert_close(pool_stretches(frames, 99, 1)[0], pool_over_time(frames[None])[0])


def test_the_best_moment_is_where_the_query_was_cut(
    tmp_path: Path, model: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compare within two frames of 80 ms: stretches begin at whole frames, the query need not."""
    sounds = [
        make_clip(kind, seed=1, seconds=4) for kind in ("voice-en", "background-pink", "note-brass")
    ]
    for name, order in (("a", (0, 1, 2)), ("b", (1, 1, 1)), ("c", (1, 2, 1))):
        waveform = np.concatenate([sounds[place] for place in order])
        soundfile.write(tmp_path / f"{name}.wav", waveform, RATE)
    collection = open_collection(tmp_path, model, frames=True, out=tmp_path / "frames")
    query = torch.from_numpy(sounds[0][RATE // 2 : 2 * RATE])
    step = float(model.frame_seconds(2).diff())
    wanted = model.frames(query, RATE)[0][0]
    found = find_moments(wanted, collection, 3, frame_seconds=step).clips
    monkeypatch.setattr("byola_rq.explore.search.FRAMES_AT_ONCE", 7)  # blocks change nothing
    blocks = find_moments(wanted, collection, 3, frame_seconds=step).clips
    assert [each[:2] for each in blocks] == [each[:2] for each in found]
    assert Path(found[0].path).name == "a.wav"
    assert abs(found[0].second - 0.5) <= 2 * step


def test_copies_are_found_and_nothing_else(rows: np.ndarray) -> None:
    rng = np.random.default_rng(1)
    copies = rows[[3, 50, 50]] + 1e-3 * rng.standard_normal((3, 12)).astype(np.float32)
    pairs, threshold = find_duplicates(collection_of(np.concatenate([rows, copies])))
    assert {(pair.first, pair.second) for pair in pairs} == {
        (3, 300),
        (50, 301),
        (50, 302),
        (301, 302),
    }
    assert all(pair.similarity >= threshold for pair in pairs)


def test_exact_copies_of_half_the_clips_are_found(rows: np.ndarray) -> None:
    pairs, _ = find_duplicates(collection_of(np.concatenate([rows, rows[:140]])))
    assert {(pair.first, pair.second) for pair in pairs} == {(n, 300 + n) for n in range(140)}


def test_an_index_finds_the_pairs_that_exact_search_finds(
    rows: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = collection_of(np.concatenate([rows, rows[:20]]))
    exact, _ = find_duplicates(copies)
    monkeypatch.setattr("byola_rq.explore.search.MANY_CLIPS", 10)
    indexed, _ = find_duplicates(copies)
    assert {pair[:2] for pair in indexed} == {pair[:2] for pair in exact}


def test_a_folder_is_embedded_once_into_the_cache(
    sounds: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    model: Embedder,
) -> None:
    folder = tmp_path / "sounds"
    shutil.copytree(sounds, folder)
    before = sorted(folder.rglob("*"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    query = sorted(folder.rglob("*.wav"))[0]
    monkeypatch.chdir(tmp_path)  # later calls come from elsewhere, and find whole paths
    assert run("search", query, "sounds", "-k", 2) == 0
    monkeypatch.chdir("/")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[1].split() == ["1.000", str(query)]
    (made,) = (tmp_path / "cache" / "byola_rq" / "embeddings").iterdir()
    written = (made / "embeddings.npy").stat().st_mtime_ns
    assert run("search", query, folder, "-k", 2) == 0
    assert capsys.readouterr().out.splitlines() == lines
    assert (made / "embeddings.npy").stat().st_mtime_ns == written
    assert sorted(folder.rglob("*")) == before
    assert not is_embedded(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", "elsewhere")  # not absolute: no answer
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    with refused(ConfigError, "missing", key="XDG_CACHE_HOME"):
        cache_folder(folder, model, frames=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    query.unlink()  # what is gone is not found
    assert run("search", min(folder.rglob("*.wav")), folder, "-k", 999) == 0
    assert str(query) not in capsys.readouterr().out


def test_what_is_refused(sounds: Path, tmp_path: Path, model: Embedder) -> None:
    query = sorted(sounds.rglob("*.wav"))[0]
    made = tmp_path / "made"
    open_collection(sounds, model, out=made)
    with refused(CorpusError, "different", made, key="encoder"):
        open_collection(made, Embedder.untrained(dim=64))
    with refused(CorpusError, "foreign", made, key="--frames"):
        open_collection(made, model, frames=True)
    with refused(CorpusError, "too-short", Path("x"), value=9):
        find_duplicates(collection_of(np.eye(9, dtype=np.float32)))
    short = tmp_path / "short.wav"
    soundfile.write(short, np.zeros(100), RATE)
    for arguments, kind, code in (
        ([query, tmp_path / "nothing"], CorpusError, "missing"),
        ([short, made], AudioError, "too-short"),
        ([query], ConfigError, "usage"),
        ([query, made, "--duplicates"], ConfigError, "usage"),
    ):
        assert run("search", *arguments) == kind.exit_code, (code, arguments)
    rows = np.load(made / "embeddings.npy")
    rows[5, 5] = np.nan
    np.save(made / "embeddings.npy", rows)
    with refused(CorpusError, "foreign", made):
        open_collection(made, model)
    np.save(made / "embeddings.npy", np.zeros((3, model.embedding_dim), np.float32))
    with refused(CorpusError, "foreign", made):
        open_collection(made, model)
