"""Checkpoints of strangers end in one line, whatever their state says."""

from pathlib import Path
from typing import Any

import pytest
import torch

from byola_rq.config import default_config_path, load_config
from byola_rq.errors import CheckpointError
from byola_rq.export.run import export_run
from byola_rq.runs.checkpoint import Checkpoint, checkpoint_path, save_checkpoint
from tests.refusal import refused

CONFIG = load_config(default_config_path()).model_dump(mode="json")
STATE = {
    "step": 3,
    "config": CONFIG,
    "statistics": {"mean": 0.0, "std": 1.0},
    "corpus_digest": "",
    "num_ranks": 1,
    "precision": "float32",
    "versions": {},
}


def with_encoder(**options: object) -> dict[str, Any]:
    return {"config": {**CONFIG, "encoder": {**CONFIG["encoder"], **options}}}


@pytest.mark.parametrize(
    "changes",
    [
        {"config": []},
        {"config": {**CONFIG, "frontend": {}}},
        {"config": {**CONFIG, "frontend": {**CONFIG["frontend"], "n_mels": 0}}},
        {"statistics": {"mean": "a", "std": 1.0}},
        {"versions": None},
        with_encoder(name="\x1b[31m"),
        with_encoder(dim=-5),
        with_encoder(dim="64"),
        with_encoder(dim=10**9),  # which is not taken from memory
        {},  # and weights that are no encoder's
    ],
)
def test_a_state_of_another_shape(tmp_path: Path, changes: dict[str, Any]) -> None:
    weights = {"byol.encoder.x": torch.zeros(3)}
    save_checkpoint(tmp_path, Checkpoint(weights, {}, {**STATE, **changes}), keep=1)
    with refused(CheckpointError, "malformed", checkpoint_path(tmp_path, 3)) as caught:
        export_run(tmp_path, tmp_path / "encoder.safetensors")
    assert str(caught.value).isprintable()
    assert not (tmp_path / "encoder.safetensors").exists()
