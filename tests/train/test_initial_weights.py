"""Runs that start from the weights of another model, and whose encoder waits for the heads."""

import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

import byola_rq
from byola_rq import CheckpointError, ConfigError, Embedder
from byola_rq.audio.frontend import LogMelSpectrogram, Statistics
from byola_rq.config import Config
from byola_rq.model.builtin import builtin_path
from byola_rq.runs.checkpoint import load_newest_checkpoint
from byola_rq.train.loop import pretrain
from tests.conftest import small_run
from tests.refusal import refused


@pytest.fixture
def model_path(tmp_path: Path) -> Path:
    """A model file of the width that small runs have."""
    path = tmp_path / "model.safetensors"
    Embedder.untrained(dim=16, seed=9).with_statistics(Statistics(-3.0, 2.0)).save(path)
    return path


def weights(run_dir: Path) -> dict[str, Tensor]:
    """The networks of the newest checkpoint: name below `byol` -> tensor."""
    checkpoint, damages = load_newest_checkpoint(run_dir)
    assert checkpoint is not None
    assert not damages
    return {name.removeprefix("byol."): each for name, each in checkpoint.model.items()}


def assert_encoders_hold(run_dir: Path, expected: dict[str, Tensor]) -> None:
    """Assert that both encoders have the expected weights, but their own batch statistics."""
    found = weights(run_dir)
    for prefix in ("encoder.", "target_encoder."):
        for name, tensor in expected.items():
            is_statistic = "running" in name or "num_batches" in name
            assert torch.equal(found[prefix + name], tensor) != is_statistic, prefix + name


def test_a_run_starts_from_a_model_file(
    model_path: Path, tmp_path: Path, sounds: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Seen through an encoder that waits for the whole run, while the heads learn."""
    config = small_run(
        tmp_path / "run", sounds, f"encoder.init={model_path}", "encoder.freeze_steps=4"
    )
    trained = byola_rq.load(pretrain(config))
    model = byola_rq.load(model_path)
    assert_encoders_hold(config.run.dir, model.encoder.state_dict())
    drawn = small_run(tmp_path / "drawn", sounds, "encoder.freeze_steps=4")
    pretrain(drawn)
    assert trained.statistics == byola_rq.load(drawn.run.dir / "encoder.safetensors").statistics
    assert trained.statistics != model.statistics
    ours, theirs = weights(config.run.dir), weights(drawn.run.dir)
    assert not torch.equal(ours["encoder.features.0.weight"], theirs["encoder.features.0.weight"])
    told = capfd.readouterr().err
    assert f"encoder.init: {model_path}, weights {model.weights_sha256[:12]}" in told
    assert "worse than the initial one" in told


def test_a_run_starts_from_the_built_in_encoder(tmp_path: Path, sounds: Path) -> None:
    if not builtin_path().exists():
        pytest.skip("this checkout has no built-in encoder")
    model = byola_rq.load(builtin_path())
    config = small_run(
        tmp_path / "run",
        sounds,
        "encoder.init=builtin",
        f"encoder.name={model.encoder_name}",
        f"encoder.dim={model.embedding_dim}",
        "encoder.freeze_steps=2",
        "train.max_steps=2",
    )
    pretrain(config)
    assert_encoders_hold(config.run.dir, model.encoder.state_dict())


@pytest.mark.parametrize("last_step", [2, 4])
def test_a_run_whose_encoder_waits_goes_on_to_the_same_bits(
    model_path: Path, tmp_path: Path, sounds: Path, last_step: int
) -> None:
    """Stopped within the three steps of waiting, or after them; its model file is gone by then."""
    overrides = [
        f"encoder.init={model_path}",
        "encoder.freeze_steps=3",
        "train.max_steps=6",
        "checkpoint.keep=9",
        "optimizer.name=adamw",
        "optimizer.weight_decay=0.1",
    ]
    whole = small_run(tmp_path / "whole", sounds, *overrides)
    pretrain(whole)
    stopped = small_run(tmp_path / "stopped", sounds, *overrides)
    shutil.copytree(whole.run.dir, stopped.run.dir)
    for step in range(last_step + 2, 7, 2):
        shutil.rmtree(stopped.run.dir / f"step-{step:08d}")
    (stopped.run.dir / "encoder.safetensors").unlink()
    model_path.unlink()
    pretrain(stopped)
    for name in ("model.safetensors", "optimizer.safetensors"):
        ours = (stopped.run.dir / "step-00000006" / name).read_bytes()
        assert ours == (whole.run.dir / "step-00000006" / name).read_bytes()
    with pytest.raises(CheckpointError):  # a run that starts does read it
        pretrain(small_run(tmp_path / "new", sounds, *overrides))


def another(path: Path, dim: int = 16, name: str = "audio_ntt_2020", hop_length: int = 160) -> Path:
    frontend = LogMelSpectrogram(hop_length=hop_length)
    Embedder.untrained(name, dim=dim, frontend=frontend).save(path)
    return path


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"dim": 24}, "encoder.dim"),
        ({"name": "audio_ntt_2022", "dim": 1040}, "encoder.name"),
        ({"hop_length": 80}, "frontend.hop_length"),
    ],
)
def test_a_model_of_another_kind_is_refused(
    tmp_path: Path, sounds: Path, options: dict[str, object], key: str
) -> None:
    path = another(tmp_path / "other.safetensors", **options)  # type: ignore[arg-type]
    config = small_run(tmp_path / "run", sounds, f"encoder.init={path}")
    value = next(iter(options.values()))
    with refused(ConfigError, "different", path, key=key, value=value) as caught:
        pretrain(config)
    # Both are named: what the file has and what the run asks for.
    section, name = key.split(".")
    for each in (value, getattr(getattr(config, section), name)):
        assert str(each) in str(caught.value)
    # Put right, the same directory will do.
    pretrain(small_run(tmp_path / "run", sounds))


def test_the_backend_of_the_frontend_may_differ(model_path: Path, sounds: Path) -> None:
    config = small_run(
        model_path.parent / "run",
        sounds,
        f"encoder.init={model_path}",
        "frontend.backend=librosa",
        "train.max_steps=1",
    )
    pretrain(config)


def test_what_is_no_model_is_refused(model_path: Path, tmp_path: Path, sounds: Path) -> None:
    def start(source: Path) -> Config:
        return small_run(tmp_path / "run", sounds, f"encoder.init={source}")

    gone = tmp_path / "gone.safetensors"
    with refused(CheckpointError, "missing", gone):
        pretrain(start(gone))
    with refused(CheckpointError, "foreign", tmp_path):
        pretrain(start(tmp_path))
    with model_path.open("r+b") as file:
        file.seek(-4000, 2)
        file.write(bytes(100))
    with refused(CheckpointError, "damaged", model_path, key="weights"):
        pretrain(start(model_path))
    model_path.write_bytes(model_path.read_bytes()[:-1000])
    with refused(CheckpointError, "cut", model_path):
        pretrain(start(model_path))
