"""The examples of docs/interfaces/, executed: by what they promise, and in the real packages."""

import importlib.util
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import byola_rq
from byola_rq import Embedder
from byola_rq.audio.frontend import Statistics
from byola_rq.audio.io import read_audio
from tests.conftest import ROOT

INTERFACES = ROOT / "docs" / "interfaces"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "encoder.safetensors"
    Embedder.untrained(dim=16, seed=3).with_statistics(Statistics(-7.5, 4.5)).save(path)
    return path


@pytest.fixture(scope="module")
def paths(sounds: Path) -> list[Path]:
    return sorted(sounds.glob("*.wav"))


def load_example(name: str) -> ModuleType:
    """Run an example file as its own module."""
    spec = importlib.util.spec_from_file_location(f"interface_{name}", INTERFACES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_tested_and_listed() -> None:
    listed = (INTERFACES / "README.md").read_text()
    source = Path(__file__).read_text()
    for path in INTERFACES.glob("*.py"):
        assert f'"{path.stem}"' in source, path
        assert path.name in listed, path


# X-ARES ---------------------------------------------------------------------------------------


@pytest.fixture
def xares_encoder(model: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("BYOLA_RQ_MODEL", str(model))
    return load_example("xares_encoder").ByolaRQEncoder()


def test_xares_contract(xares_encoder: Any, model: Path) -> None:
    # README of X-ARES 0.1 and its audio_encoder_checker.
    assert type(xares_encoder).__name__.endswith("Encoder")
    assert isinstance(xares_encoder, torch.nn.Module)
    assert xares_encoder.sampling_rate == 16000
    assert xares_encoder.output_dim == 16
    assert xares_encoder.hop_size_in_ms == 80
    for num_samples in (1600, 16000, 50000):
        audio = torch.randn(2, num_samples) * 0.1
        frames = xares_encoder(audio)
        assert frames.ndim == 3
        assert frames.shape[::2] == (2, xares_encoder.output_dim)
        assert frames.dtype == torch.float32
        expected = num_samples / 16 / xares_encoder.hop_size_in_ms
        assert abs(frames.shape[1] - expected) <= 1
        frames.detach().cpu().numpy()
    torch.testing.assert_close(frames, byola_rq.load(model).frames(audio, 16000)[0])


# MTEB -----------------------------------------------------------------------------------------


class _Base:
    """Stand-in for MTEB's AbsEncoder, as far as a subclass needs it."""


@pytest.fixture
def mteb_encoder(model: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    if importlib.util.find_spec("mteb") is None:
        # The example as written, over the little of MTEB that it names.
        for name, content in {
            "mteb": {},
            "mteb.models": {"ModelMeta": _Meta},
            "mteb.models.abs_encoder": {"AbsEncoder": _Base},
        }.items():
            module = ModuleType(name)
            module.__dict__.update(content)
            monkeypatch.setitem(sys.modules, name, module)
    return load_example("mteb_encoder").ByolaRQEncoder(str(model))


class _Meta:
    @classmethod
    def create_empty(cls, overwrites: dict[str, Any]) -> dict[str, Any]:
        return overwrites


def audio_rows(paths: list[Path]) -> Iterator[dict[str, Any]]:
    for path in paths:
        waveform = read_audio(path, 16000).numpy()
        yield {"array": waveform, "sampling_rate": 16000}


def test_mteb_contract(mteb_encoder: Any, model: Path, paths: list[Path]) -> None:
    # EncoderProtocol of mteb 2: encode(inputs, *, task_metadata, hf_split, hf_subset, prompt_type).
    parameters = inspect.signature(type(mteb_encoder).__init__).parameters
    assert list(parameters)[1:4] == ["model_name", "revision", "device"]
    clips = list(audio_rows(paths[:5]))
    clips[1]["array"] = np.stack([clips[1]["array"]] * 2)  # two channels
    clips[2]["sampling_rate"] = 22050
    inputs = [{"audio": clips[:3], "label": [0, 1, 0]}, {"audio": clips[3:], "label": [1, 1]}]
    embeddings = mteb_encoder.encode(
        inputs, task_metadata=None, hf_split="test", hf_subset="default", batch_size=3
    )
    assert embeddings.shape == (5, 16)
    embedder = byola_rq.load(model)
    for row, clip in zip(embeddings, clips, strict=True):
        array = clip["array"] if clip["array"].ndim == 1 else clip["array"][0]
        expected = embedder(array, clip["sampling_rate"])[0]
        torch.testing.assert_close(row, expected, atol=1e-5, rtol=1e-5)


def test_without_a_model_both_take_the_built_in_one(
    mteb_encoder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BYOLA_RQ_MODEL", raising=False)
    expected = byola_rq.load().weights_sha256
    assert load_example("xares_encoder").ByolaRQEncoder().model.weights_sha256 == expected
    assert type(mteb_encoder)().embedder.weights_sha256 == expected


# scikit-learn and PyTorch ---------------------------------------------------------------------


def test_sklearn_pipeline(model: Path, paths: list[Path]) -> None:
    example = load_example("sklearn_pipeline")
    labels = ["odd" if number % 2 else "even" for number in range(len(paths))]
    classifier = example.fit_classifier(paths, labels, str(model))
    assert set(classifier.predict(paths)) <= {"odd", "even"}
    # A probe may learn 24 labels of 16 numbers by heart, up to a few.
    assert classifier.score(paths, labels) > 0.6


def test_torch_dataset(model: Path, paths: list[Path]) -> None:
    example = load_example("torch_dataset")
    labels = [number % 3 for number in range(len(paths))]
    dataset = example.EmbeddingDataset(paths, labels, str(model))
    assert len(dataset) == len(paths)
    embedding, label = dataset[4]
    torch.testing.assert_close(
        embedding,
        byola_rq.load(model)(read_audio(paths[4], 16000), 16000)[0],
        atol=1e-5,
        rtol=1e-5,
    )
    assert label == 1
    # A head learns on it, in batches.
    head = torch.nn.Linear(16, 3)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.01)
    losses = []
    for _ in range(15):
        total = 0.0
        for embeddings, targets in DataLoader(dataset, batch_size=8):
            loss = torch.nn.functional.cross_entropy(head(embeddings), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += float(loss.detach())
        losses.append(total)
    assert losses[-1] < losses[0]
