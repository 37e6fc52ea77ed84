"""The training step: its changes, and none if it is not finite."""

import pytest
import torch
from torch import Tensor

from byola_rq.audio.frontend import LogMelSpectrogram, Statistics
from byola_rq.config import Config, default_config_path, load_config
from byola_rq.corpus.segments import SegmentBatch
from byola_rq.runtime.device import can_compile
from byola_rq.train import state as training_module
from byola_rq.train.state import TrainState, build_state
from byola_rq.train.step import train_step
from tests.conftest import SMALL


def small_training(*overrides: str, device: str = "cpu") -> TrainState:
    config: Config = load_config(default_config_path(), [*SMALL, "run.dir=unused", *overrides])
    place = torch.device(device)
    statistics, frontend = Statistics(mean=-6.0, std=4.0), LogMelSpectrogram().to(place)
    return build_state(config, statistics, frontend, device=place, precision="float32", num_steps=8)


def batch(number: int) -> SegmentBatch:
    generator = torch.Generator().manual_seed(number)
    waveform = torch.randn(8, 15200, generator=generator) * 0.1
    return SegmentBatch(waveform, torch.arange(8) + 100 * number)


def copy_of(training: TrainState) -> dict[str, Tensor]:
    """Everything that a checkpoint holds, the inputs that mixup remembers left out."""
    checkpoint = training.snapshot(corpus_digest="")
    everything = {**checkpoint.model, **{f"adam.{k}": v for k, v in checkpoint.optimizer.items()}}
    return {name: value.clone() for name, value in everything.items() if "views" not in name}


def changed_names(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name in after if name in before and not torch.equal(before[name], after[name])}


DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=pytest.mark.gpu,
    ),
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("cause", [float("nan"), float("inf"), 1e30, "loss", "gradient"])
@pytest.mark.parametrize("clip_norm", ["null", "1.0"])
def test_a_step_that_is_not_finite_changes_nothing(
    cause: float | str, clip_norm: str, device: str
) -> None:
    training = small_training(f"optimizer.clip_norm={clip_norm}", device=device)
    for number in range(2):
        assert not train_step(training, batch(number)).is_skipped
    before = copy_of(training)
    spoilt = batch(2)
    undo = None
    if cause == "gradient":
        weight = training.byol.predictor[0].weight
        undo = weight.register_hook(lambda gradient: gradient / 0.0)
    elif cause == "loss":
        undo = training.byol.register_forward_hook(lambda m, i, out: (out[0] * torch.inf, out[1]))
    else:
        spoilt.waveform[3, 700] = cause
    outcome = train_step(training, spoilt)
    assert outcome.is_skipped
    is_input = undo is None
    assert outcome.is_finite.tolist() == [not (is_input and row == 3) for row in range(8)]
    assert changed_names(before, copy_of(training)) == set()
    assert training.step == 3
    if undo is not None:
        undo.remove()
    # The next step learns again, everything included.
    assert not train_step(training, batch(3)).is_skipped
    after = copy_of(training)
    assert all(torch.isfinite(value).all() for value in after.values())
    assert len(changed_names(before, after)) > 0.9 * len(after)


def test_a_first_step_that_is_skipped_leaves_the_optimizer_fresh() -> None:
    skipping, plain = small_training(), small_training()
    spoilt = batch(0)
    spoilt.waveform[0, 0] = float("nan")
    assert train_step(skipping, spoilt).is_skipped
    # The step's number alone differs, which seeds dropout.
    skipping.step = plain.step
    for number in range(1, 3):
        train_step(skipping, batch(number))
        train_step(plain, batch(number))
    assert changed_names(copy_of(plain), copy_of(skipping)) == set()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("clip_norm", ["null", "1.0"])
def test_an_encoder_waits_while_the_heads_learn(clip_norm: str, device: str) -> None:
    training = small_training(
        "encoder.freeze_steps=2",
        "optimizer.name=adamw",
        "optimizer.weight_decay=0.1",
        f"optimizer.clip_norm={clip_norm}",
        device=device,
    )
    parameters = {
        f"byol.{part}.{name}"
        for part in ("encoder", "target_encoder")
        for name, _ in training.byol.encoder.named_parameters()
    }
    for number in range(2):
        before = copy_of(training)
        assert not train_step(training, batch(number)).is_skipped
        after = copy_of(training)
        # Batch statistics follow; neither gradient nor weight decay has met a weight.
        names = {name for name in before if name.startswith("byol.")} - parameters
        assert changed_names(before, after) & before.keys() >= names
        assert not changed_names(before, after) & parameters
        assert len(training.optimizer.state) == len(
            [*training.byol.projector.parameters(), *training.byol.predictor.parameters()]
        )
    before = copy_of(training)
    train_step(training, batch(2))
    assert changed_names(before, copy_of(training)) >= parameters


def test_mixup_remembers_nothing_that_is_not_finite() -> None:
    training = small_training(
        "views.augmentations=[mixup, random_resized_crop]", "views.mixup.memory=16"
    )
    spoilt = batch(0)
    spoilt.waveform[5, :] = float("inf")
    assert train_step(training, spoilt).is_skipped
    for number in range(1, 4):
        outcome = train_step(training, batch(number))
        assert not outcome.is_skipped
        assert torch.isfinite(outcome.loss)


@pytest.mark.parametrize(
    "options",
    [(), ("objective.name=infonce", "views.augmentations=[dacl,ssql]", "train.accumulate=2")],
)
def test_resuming_a_skipped_step_repeats_it(options: tuple[str, ...]) -> None:
    def run(training: TrainState, first: int) -> dict[str, Tensor]:
        for number in range(first, 5):
            each = batch(number)
            if number == 3:
                each.waveform[1, 9] = float("nan")
            assert train_step(training, each).is_skipped == (number == 3)
        return copy_of(training)

    whole = run(small_training(*options), 0)
    half = small_training(*options)
    for number in range(2):
        train_step(half, batch(number))
    resumed = small_training(*options)
    resumed.load(half.snapshot(corpus_digest=""))
    assert changed_names(whole, run(resumed, 2)) == set()


@pytest.mark.gpu
def test_a_step_does_not_wait_for_the_device() -> None:
    training = small_training(device="cuda")
    for number in range(2):
        train_step(training, batch(number))
    pinned = SegmentBatch(*(each.pin_memory() for each in batch(2)[:2]))
    torch.cuda.set_sync_debug_mode("error")
    try:
        train_step(training, pinned)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.slow
def test_a_compiled_network_learns_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = small_training()
    # Traced and taken apart as for any compiler, whose own code would take a minute to make.
    monkeypatch.setattr(training_module, "can_compile", lambda device: True)
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda module: compile_(module, backend="aot_eager"))
    compiled = small_training("train.compile=true")
    assert compiled.network is not compiled.byol
    outcomes = [train_step(each, batch(0)) for each in (plain, compiled)]
    torch.testing.assert_close(outcomes[0].loss, outcomes[1].loss, rtol=1e-5, atol=1e-6)
    before, after = copy_of(plain), copy_of(compiled)
    for name, each in before.items():
        # Adam's first moments are a tenth of the gradient.
        if "running" in name or "exp_avg." in name:
            torch.testing.assert_close(after[name], each, rtol=1e-3, atol=1e-5, msg=name)
    # Adam's first step goes by the sign alone, also of gradients that are all rounding.
    outcomes = [train_step(each, batch(1)) for each in (plain, compiled)]
    torch.testing.assert_close(outcomes[0].loss, outcomes[1].loss, rtol=0.02, atol=0)


def test_a_missing_compiler_is_reported_once(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CXX", "/no/such/compiler")
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("/no/such/compiler",))
    monkeypatch.setattr("torch._inductor.config.force_disable_caches", True)
    torch._dynamo.reset()
    assert not can_compile(torch.device("cpu"))
    told = capfd.readouterr().err
    assert "train.compile: " in told
    assert told.count("\n") == 1
    network = small_training("train.compile=true")
    assert network.network is network.byol
    assert torch.isfinite(train_step(network, batch(0)).loss)
