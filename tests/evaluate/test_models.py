from pathlib import Path

import numpy as np
import pytest
import torch

from byola_rq.audio.frontend import LogMelSpectrogram, Statistics
from byola_rq.audio.io import read_audio
from byola_rq.embed.embedder import Embedder
from byola_rq.errors import CheckpointError
from evaluate.log_mels import LogMels
from evaluate.models import (
    default_batch_size,
    describe_bands,
    embed,
    load_model,
    make_baseline,
)
from evaluate.tasks.labelled_csv import read_labelled_csv
from tests.refusal import refused

STATISTICS = Statistics(mean=-6.0, std=4.0)


@pytest.fixture
def log_mels(tmp_path, write_set, split_rows):
    task = read_labelled_csv(write_set(tmp_path / "a.csv", split_rows))
    return LogMels(task, LogMelSpectrogram(), device="cpu", num_workers=2)


def baseline(name, seed=0, dim=16):
    return make_baseline(
        name,
        encoder_name="audio_ntt_2020",
        dim=dim,
        frontend=LogMelSpectrogram(),
        seed=seed,
        device="cpu",
    )


def embed_all(model, log_mels, statistics, batch_size):
    positions = range(len(log_mels.task.clips))
    batches = list(embed(model, log_mels, statistics, positions, batch_size=batch_size))
    assert [p for readable, _ in batches for p in readable] == list(positions)
    return np.concatenate([embeddings for _, embeddings in batches])


def test_model_file_gives_what_its_embedder_gives(tmp_path, log_mels):
    embedder = Embedder.untrained(dim=24, seed=3)
    embedder.save(tmp_path / "small.safetensors")
    model = load_model(tmp_path / "small.safetensors", "cpu")
    assert (model.name, model.embedding_dim) == ("small", 24)
    assert model.weights_sha256 == embedder.weights_sha256
    got = embed_all(model, log_mels, STATISTICS, batch_size=8)
    expected = embedder.with_statistics(STATISTICS)
    for clip, embedding in zip(log_mels.task.clips, got, strict=True):
        whole = expected(read_audio(clip.path, 16_000), 16_000)[0]  # the unit is the clip's length
        np.testing.assert_allclose(embedding, whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("small.safetensors", "small"),
        ("run_7/encoder.safetensors", "run_7"),
        ("run_7/step-10.safetensors", "step-10"),
    ],
)
def test_name_of_a_model_file(tmp_path, path, name):
    (tmp_path / path).parent.mkdir(exist_ok=True)
    Embedder.untrained(dim=8).save(tmp_path / path)
    assert load_model(tmp_path / path, "cpu").name == name


def test_model_file_in_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Embedder.untrained(dim=8).save("encoder.safetensors")
    assert load_model(Path("encoder.safetensors"), "cpu").name == "encoder"
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    assert load_model(Path("../encoder.safetensors"), "cpu").name == "encoder"


def test_logmel_is_mean_and_std_of_each_band():
    log_mel = torch.randn(3, 1, 64, 31) * 2 + 5
    expected = np.hstack([log_mel[:, 0].numpy().mean(axis=2), log_mel[:, 0].numpy().std(axis=2)])
    np.testing.assert_allclose(describe_bands(log_mel), expected, rtol=1e-4)


@pytest.mark.parametrize("name", ["logmel", "random"])
def test_batch_size_changes_nothing(log_mels, name):
    model = baseline(name)
    one_by_one = embed_all(model, log_mels, STATISTICS, batch_size=1)
    assert one_by_one.shape == (30, model.embedding_dim)
    together = embed_all(model, log_mels, STATISTICS, batch_size=30)
    np.testing.assert_allclose(one_by_one, together, rtol=1e-4, atol=1e-5)


def test_random_is_drawn_from_its_seed(log_mels):
    first, again, other = (baseline("random", seed) for seed in (1, 1, 2))
    assert first.weights_sha256 == again.weights_sha256 != other.weights_sha256
    np.testing.assert_array_equal(
        embed_all(first, log_mels, STATISTICS, batch_size=8),
        embed_all(again, log_mels, STATISTICS, batch_size=8),
    )


def test_baselines_have_no_statistics_of_their_own():
    assert baseline("random").statistics is None
    assert baseline("logmel").statistics is None


def test_embedding_that_is_not_finite(log_mels):
    model = baseline("random")
    with torch.no_grad():
        next(model.encoder.parameters()).fill_(float("nan"))
    with refused(CheckpointError, "not-finite", value=log_mels.task.clips[0].file_name) as caught:
        embed_all(model, log_mels, STATISTICS, batch_size=8)
    assert "random" in str(caught.value)


def test_default_batch_shrinks_with_the_clip():
    sizes = [default_batch_size(num_frames, "cpu") for num_frames in (101, 1001, 100_000)]
    assert sizes[0] > sizes[1] > sizes[2] == 1
    assert default_batch_size(101, "cuda") > sizes[0]
