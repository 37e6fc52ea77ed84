"""A batch in parts: the gradient of the whole batch, where batch norm allows."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from byola_rq.audio.frontend import Statistics
from byola_rq.config import Config, default_config_path, load_config
from byola_rq.corpus.decoded_clips import measure_clips
from byola_rq.corpus.order import ClipOrder, StepSampler
from byola_rq.corpus.segments import SegmentCorpus, find_clips
from byola_rq.errors import ConfigError
from byola_rq.train.state import build_state
from byola_rq.train.step import train_step
from tests.conftest import SMALL
from tests.rank_steps import DoubleLogMel
from tests.refusal import refused


def gradient(config: Config, sounds: Path, *, batch_norm_is_fixed: bool) -> dict[str, Tensor]:
    """Gradient of one step in float64, before the optimizer."""
    clips = measure_clips(find_clips([sounds])[0], 16000)
    frontend = DoubleLogMel(**config.frontend.model_dump())
    torch.set_default_dtype(torch.float64)
    try:
        training = build_state(
            config,
            Statistics(-6.0, 4.0),
            frontend,
            device=torch.device("cpu"),
            precision="float32",
            num_steps=1,
        )
    finally:
        torch.set_default_dtype(torch.float32)
    for module in training.byol.modules():
        if isinstance(module, nn.Dropout):
            module.eval()  # it draws for each part anew
        if batch_norm_is_fixed and isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.eval()
    corpus = SegmentCorpus(clips, segment_samples=config.segment_samples, seed=0)
    (items,) = StepSampler(
        ClipOrder(len(clips), seed=0), config.train.batch_size, first_step=0, num_steps=1
    )
    train_step(training, corpus.load(items))
    return {
        name: parameter.grad
        for name, parameter in training.byol.named_parameters()
        if parameter.grad is not None
    }


def config_of(accumulate: int) -> Config:
    return load_config(
        default_config_path(), [*SMALL, "train.batch_size=12", f"train.accumulate={accumulate}"]
    )


@pytest.mark.parametrize("accumulate", [2, 3, 6])
def test_parts_add_up_to_the_gradient_of_the_batch(sounds: Path, accumulate: int) -> None:
    expected = gradient(config_of(1), sounds, batch_norm_is_fixed=True)
    found = gradient(config_of(accumulate), sounds, batch_norm_is_fixed=True)
    assert found.keys() == expected.keys()
    for name, each in found.items():
        # Sums of some 1e6 products in another order, in float64.
        torch.testing.assert_close(each, expected[name], rtol=1e-9, atol=1e-12)


def test_batch_norm_sees_a_part_at_a_time(sounds: Path) -> None:
    expected = gradient(config_of(1), sounds, batch_norm_is_fixed=False)
    found = gradient(config_of(2), sounds, batch_norm_is_fixed=False)
    weight = "encoder.features.0.weight"
    assert (found[weight] - expected[weight]).norm() > 0.01 * expected[weight].norm()


def test_parts_must_be_equal_and_of_two_clips() -> None:
    for accumulate in (5, 12):
        with refused(ConfigError, "value", key="train.accumulate"):
            config_of(accumulate)
