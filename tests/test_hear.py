"""HEAR 2021: every rule that its validator and its rules page state."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from byola_rq import AudioError, CheckpointError, Embedder, hear
from byola_rq.audio.frontend import LogMelSpectrogram, Statistics
from byola_rq.audio.io import read_audio
from tests.refusal import refused

DIMS = {"audio_ntt_2020": 24, "audio_ntt_2022": 1048}


@pytest.fixture(scope="module", params=list(DIMS))
def model(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> hear.HearModel:
    embedder = Embedder.untrained(request.param, dim=DIMS[request.param], seed=3)
    path = tmp_path_factory.mktemp("hear") / "encoder.safetensors"
    embedder.with_statistics(Statistics(-7.5, 4.5)).save(path)
    return hear.load_model(str(path))


def noise(num_sounds: int, seconds: float, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(num_sounds, int(seconds * 16000), generator=generator) * 2 - 1


def test_the_model_is_a_module_with_the_attributes_asked_for(model: hear.HearModel) -> None:
    assert isinstance(model, torch.nn.Module)
    assert model.sample_rate in (16000, 22050, 44100, 48000)
    assert type(model.scene_embedding_size) is int
    assert type(model.timestamp_embedding_size) is int
    assert model.to("cpu") is model
    assert not model.train().embedder.encoder.training


def test_timestamp_embeddings(model: hear.HearModel) -> None:
    audio = noise(16, 2.0)
    embeddings, timestamps = hear.get_timestamp_embeddings(audio, model)
    assert embeddings.dtype == timestamps.dtype == torch.float32
    assert embeddings.shape[0] == len(audio)
    assert embeddings.shape[:2] == timestamps.shape
    assert embeddings.shape[2] == model.timestamp_embedding_size
    spacing = torch.diff(timestamps)
    assert 0 < spacing.mean() <= 50.0
    assert torch.all((spacing - spacing.mean()).abs() < 1e-3)
    assert 0 <= timestamps.min() <= 50
    assert 1950 <= timestamps.max() <= 2000


def test_scene_embeddings(model: hear.HearModel) -> None:
    audio = noise(8, 3.74)
    embeddings = hear.get_scene_embeddings(audio, model)
    assert embeddings.dtype == torch.float32
    assert embeddings.shape == (len(audio), model.scene_embedding_size)
    torch.testing.assert_close(model(audio), embeddings)


@pytest.mark.parametrize("seconds", [0.1, 0.105, 0.12, 0.56, 0.6, 0.999, 5.03])
def test_any_length_is_embedded_at_regular_moments(model: hear.HearModel, seconds: float) -> None:
    embeddings, timestamps = hear.get_timestamp_embeddings(noise(2, seconds), model)
    assert embeddings.shape[1] == timestamps.shape[1] >= 1
    assert torch.isfinite(embeddings).all()
    assert torch.all(torch.diff(timestamps) == 40.0)
    assert hear.get_scene_embeddings(noise(2, seconds), model).shape[1] == embeddings.shape[2]


def test_a_long_sound_stays_regular(model: hear.HearModel) -> None:
    num_samples = 16000 * 60
    quiet = noise(1, 60) * 0.01
    _, timestamps = hear.get_timestamp_embeddings(quiet, model)
    assert torch.all(torch.diff(timestamps) == 40.0)
    assert timestamps[0, -1] > 1000 * num_samples / 16000 - 100


def test_every_second_embedding_is_the_models_own(model: hear.HearModel) -> None:
    audio = noise(3, 1.3)
    frames, seconds = model.embedder.frames(audio, 16000)
    embeddings, timestamps = hear.get_timestamp_embeddings(audio, model)
    assert torch.equal(embeddings[:, :: model.num_passes], frames)
    torch.testing.assert_close(timestamps[0, :: model.num_passes], seconds * 1000)


def test_the_others_are_those_of_the_sound_begun_later(sounds: Path) -> None:
    model = hear.HearModel(Embedder.untrained(dim=24, seed=3))
    assert model.num_passes == 2
    audio = read_audio(sorted(sounds.glob("*.wav"))[3], 16000)[None]
    frames, seconds = model.embedder.frames(audio[:, 640:], 16000)  # 40 ms later
    embeddings, timestamps = hear.get_timestamp_embeddings(audio, model)
    between = embeddings[:, 1::2]
    assert frames.shape == between.shape
    torch.testing.assert_close(timestamps[0, 1::2], (seconds + 0.04) * 1000)
    # Beyond what the encoder sees to the left, the sound's beginning is nothing to them.
    torch.testing.assert_close(between[:, 2:], frames[:, 2:], atol=1e-5, rtol=1e-5)
    # And they are no repetition of their neighbors.
    assert (between - embeddings[:, 0::2][:, : between.shape[1]]).norm() > 0.1 * between.norm()


def test_a_click_is_found_where_it_is(model: hear.HearModel) -> None:
    quiet = noise(1, 2.0) * 0.01
    for at in (0.52, 0.56, 1.0, 1.04):
        clicked = quiet.clone()
        clicked[0, round(at * 16000)] = 1.0
        before, timestamps = hear.get_timestamp_embeddings(quiet, model)
        after, _ = hear.get_timestamp_embeddings(clicked, model)
        loudest = (after - before).norm(dim=-1)[0].argmax()
        assert abs(timestamps[0, loudest] - 1000 * at) <= 50


def test_a_sound_does_not_depend_on_the_others_of_the_call(model: hear.HearModel) -> None:
    # Statistics are the model's: beside louder or other sounds each stays what it is.
    audio = noise(4, 1.1) * torch.tensor([[1.0], [0.1], [0.01], [0.0]])
    together, _ = hear.get_timestamp_embeddings(audio, model)
    scenes = hear.get_scene_embeddings(audio, model)
    for row in range(len(audio)):
        alone, _ = hear.get_timestamp_embeddings(audio[row : row + 1], model)
        torch.testing.assert_close(together[row], alone[0], atol=1e-5, rtol=1e-5)
        scene = hear.get_scene_embeddings(audio[row : row + 1], model)
        torch.testing.assert_close(scenes[row], scene[0], atol=1e-5, rtol=1e-5)
    assert torch.equal(scenes, hear.get_scene_embeddings(audio, model))


def test_a_head_can_be_trained_on_them(model: hear.HearModel) -> None:
    audio = noise(2, 0.5)
    head = torch.nn.Linear(model.scene_embedding_size, 3)
    for features in (
        hear.get_scene_embeddings(audio, model),
        hear.get_timestamp_embeddings(audio, model)[0],
    ):
        head(features).sum().backward()
        assert head.weight.grad is not None


def test_wrong_calls_are_refused(model: hear.HearModel, tmp_path: Path) -> None:
    with refused(CheckpointError, "missing", tmp_path / "none.safetensors"):
        hear.load_model(tmp_path / "none.safetensors")
    for embed in (hear.get_timestamp_embeddings, hear.get_scene_embeddings):
        with refused(AudioError, "value", key="audio", value=(16000,)):
            embed(torch.zeros(16000), model)
        with refused(AudioError, "not-finite"):
            embed(torch.full((1, 16000), torch.nan), model)
        with refused(AudioError, "too-short"):
            embed(torch.zeros(1, 160), model)


def test_models_that_hear_has_no_sound_for_are_refused() -> None:
    frontend = LogMelSpectrogram(sample_rate=8000, f_max=3900)
    with refused(CheckpointError, "value", key="sample rate", value=8000):
        hear.HearModel(Embedder.untrained(dim=8, frontend=frontend))
    frontend = LogMelSpectrogram(hop_length=1600)
    with refused(CheckpointError, "value", key="log-mel frames", value=100):
        hear.HearModel(Embedder.untrained(dim=8, frontend=frontend))
