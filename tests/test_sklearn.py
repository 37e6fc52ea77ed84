"""AudioEmbedder: scikit-learn's own checks, pipelines, and what it takes."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator

import byola_rq
from byola_rq import AudioError, CheckpointError, ConfigError, Embedder
from byola_rq.audio.frontend import Statistics
from byola_rq.audio.io import read_audio
from byola_rq.sklearn import AudioEmbedder
from tests.refusal import refused

# What scikit-learn checks and we do not follow. Everything else must pass.
SAMPLES_ARE_NO_FEATURES = "waveforms may be of other lengths in transform than in fit"
NUMBERS_ARE_NO_SAMPLES = "numbers near 100 are more than 16 times full scale"
NOT_FOLLOWED = {
    "check_n_features_in": SAMPLES_ARE_NO_FEATURES,
    "check_n_features_in_after_fitting": SAMPLES_ARE_NO_FEATURES,
    "check_transformer_general": SAMPLES_ARE_NO_FEATURES,
    "check_fit_check_is_fitted": NUMBERS_ARE_NO_SAMPLES,
    "check_fit_idempotent": NUMBERS_ARE_NO_SAMPLES,
    "check_estimators_dtypes": "int64 is no sample format: its full scale is unknown",
}
# Runs only where SCIPY_ARRAY_API=1 was set before scipy's import, and then for any estimator.
SKIPPED = {"check_array_api_input"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "encoder.safetensors"
    Embedder.untrained(dim=16, seed=3).with_statistics(Statistics(-7.5, 4.5)).save(path)
    return path


@pytest.fixture(scope="module")
def paths(sounds: Path) -> list[Path]:
    return sorted(sounds.glob("*.wav"))


def test_the_checks_of_scikit_learn(model: Path) -> None:
    # They embed arrays of a few numbers; padded, these are clips like any other.
    results = check_estimator(AudioEmbedder(str(model), short="pad"), on_fail=None, on_skip=None)
    failed = {each["check_name"] for each in results if each["status"] == "failed"}
    assert failed == set(NOT_FOLLOWED)
    assert {each["check_name"] for each in results if each["status"] == "skipped"} <= SKIPPED
    assert sum(each["status"] == "passed" for each in results) >= 39


def test_paths_and_arrays_give_the_models_embeddings(model: Path, paths: list[Path]) -> None:
    embedder = byola_rq.load(model)
    waveforms = [read_audio(path, 16000) for path in paths[:6]]
    expected = torch.cat([embedder(each, 16000) for each in waveforms]).numpy()
    transformer = AudioEmbedder(model).fit(paths)
    assert len({len(each) for each in waveforms}) > 1
    ragged = np.empty(6, object)
    ragged[:] = [each.numpy() for each in waveforms]
    for sounds in (
        paths[:6],
        ragged,
        [str(path) for path in paths[:6]],
        np.array([str(path) for path in paths[:6]]),
        np.array([[str(path)] for path in paths[:6]], object),
        pd.Series([str(path) for path in paths[:6]]),
        waveforms,
        [each.numpy() for each in waveforms],
    ):
        found = transformer.transform(sounds)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-5)
    batch = np.stack([each[:16000].numpy() for each in waveforms])
    expected = embedder(batch, 16000).numpy()
    for array in (batch, batch.astype(np.float64), torch.from_numpy(batch), list(batch)):
        np.testing.assert_allclose(transformer.transform(array), expected, atol=1e-5)


def test_integers_and_rates(model: Path, paths: list[Path]) -> None:
    waveform = read_audio(paths[3], 16000)[:16000].numpy() * 0.5
    whole = np.round(waveform * 2**15).astype(np.int16)
    transformer = AudioEmbedder(model).fit([waveform])
    np.testing.assert_array_equal(
        transformer.transform(whole[None]), transformer.transform(whole[None] / 2.0**15)
    )
    slower = AudioEmbedder(model, sample_rate=8000).fit([waveform])
    expected = byola_rq.load(model)(waveform, 8000).numpy()
    np.testing.assert_allclose(slower.transform([waveform]), expected, atol=1e-5)


def test_it_is_cloned_with_any_model(model: Path, paths: list[Path]) -> None:
    expected = AudioEmbedder(model).fit_transform(paths[:3])
    for given in (model, str(model), byola_rq.load(model)):
        original = AudioEmbedder(given, short="pad").fit(paths)
        copy = clone(original)
        assert not hasattr(copy, "embedder_")
        assert copy.get_params()["short"] == "pad"
        np.testing.assert_array_equal(copy.fit(paths).transform(paths[:3]), expected)


def test_a_pipeline_learns_and_is_searched(model: Path, sounds: Path) -> None:
    # Hum or hiss: two kinds of sound that anyone can tell apart, of many lengths.
    generator = np.random.default_rng(0)
    clips, labels = [], []
    for number in range(24):
        seconds = np.arange(int(16000 * generator.uniform(0.3, 0.6))) / 16000
        hum = np.sin(2 * np.pi * generator.uniform(150, 400) * seconds)
        hiss = generator.standard_normal(len(seconds)) * 0.3
        clips.append((hiss if number % 2 else hum).astype(np.float32) * generator.uniform(0.1, 0.9))
        labels.append("hiss" if number % 2 else "hum")
    pipeline = make_pipeline(AudioEmbedder(model), LogisticRegression(max_iter=500))
    pipeline.fit(clips[:16], labels[:16])
    assert pipeline.score(clips[16:], labels[16:]) == 1.0
    search = GridSearchCV(pipeline, {"logisticregression__C": [0.1, 1.0]}, cv=2)
    assert search.fit(clips, labels).best_score_ == 1.0


def test_pandas_output_names_its_columns(model: Path, paths: list[Path]) -> None:
    transformer = AudioEmbedder(model).set_output(transform="pandas").fit(paths)
    table = transformer.transform(paths[:2])
    assert list(table.columns) == [f"audioembedder{number}" for number in range(16)]


def test_without_a_model_it_is_the_built_in_one(paths: list[Path]) -> None:
    embeddings = AudioEmbedder().fit_transform(paths[:2])
    np.testing.assert_array_equal(embeddings, byola_rq.load("builtin").embed_files(paths[:2]))
    assert AudioEmbedder("untrained").fit_transform(paths[:1]).shape == (1, 2048)


def test_short_sound_is_refused_or_padded(model: Path, tmp_path: Path, paths: list[Path]) -> None:
    soundfile.write(tmp_path / "short.wav", np.full(500, 0.1), 16000)
    for sounds in ([paths[0], tmp_path / "short.wav"], [np.full(16000, 0.1), np.full(500, 0.1)]):
        with refused(AudioError, "too-short", value=500 / 16000):
            AudioEmbedder(model).fit(sounds).transform(sounds)
        padded = AudioEmbedder(model, short="pad").fit(sounds).transform(sounds)
        expected = byola_rq.load(model)(np.pad(np.full(500, 0.1), 550), 16000).numpy()[0]
        np.testing.assert_allclose(padded[1], expected, atol=1e-3)
        alone = AudioEmbedder(model).fit_transform(sounds[:1])
        np.testing.assert_allclose(padded[:1], alone, atol=1e-5)


def test_wrong_input_is_refused(model: Path, tmp_path: Path) -> None:
    fitted = AudioEmbedder(model).fit(np.zeros((1, 1600)))
    with pytest.raises(NotFittedError):
        AudioEmbedder(model).transform(np.zeros((1, 1600)))
    with pytest.raises(TypeError, match=r"a\.wav"):
        fitted.transform("a.wav")
    with refused(AudioError, "missing", tmp_path / "none.wav"):
        fitted.transform([tmp_path / "none.wav"])
    with pytest.raises(ValueError, match="contains NaN"):
        fitted.transform(np.full((1, 1600), np.nan))
    with refused(AudioError, "not-finite", key="waveform 0"):
        fitted.transform([np.full(1600, np.nan), np.zeros(1700)])
    for nothing in ([], np.empty((0, 1600))):
        with pytest.raises(ValueError, match="0 sample"):
            fitted.transform(nothing)
    with refused(AudioError, "value", value=torch.int64):
        fitted.transform(np.zeros((1, 1600), np.int64))
    with refused(AudioError, "value", key="sample rate", value=0):
        AudioEmbedder(model, sample_rate=0).fit_transform(np.zeros((1, 1600)))
    with refused(ConfigError, "value", key="short", value="cut"):
        AudioEmbedder(model, short="cut").fit(np.zeros((1, 1600)))  # type: ignore[arg-type]
    with refused(CheckpointError, "missing", tmp_path / "none.safetensors"):
        AudioEmbedder(tmp_path / "none.safetensors").fit(np.zeros((1, 1600)))
