"""The step as a CUDA graph: the same bits as eagerly, and eagerly where it cannot be captured."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from byola_rq.corpus.segments import SegmentBatch
from byola_rq.train.graph import WARM_UP_STEPS, GraphedStep, choose_step
from byola_rq.train.loop import pretrain
from byola_rq.train.state import TrainState
from byola_rq.train.step import StepOutcome, compute_step, train_step
from tests.conftest import small_run
from tests.train.test_step import batch, small_training

CHAINS = {
    "paper": [],
    "all": [
        "views.augmentations=[mixup,random_resized_crop,random_linear_fader,randomized_quantization]",
        "views.mixup.memory=20",  # fewer than three batches: it goes round
        "byol.ema_schedule=cosine",
        "optimizer.schedule=cosine",
        "optimizer.clip_norm=1.0",
    ],
    "rivals": [
        "objective.name=infonce",
        "views.augmentations=[random_resized_crop,spec_augment,imix]",
    ],
    "waiting": ["encoder.freeze_steps=10"],
}

Step = Callable[[SegmentBatch], StepOutcome]


def everything_in(state: TrainState) -> dict[str, Tensor]:
    checkpoint = state.snapshot(corpus_digest="")
    tensors = {**checkpoint.model, **{f"adam.{k}": v for k, v in checkpoint.optimizer.items()}}
    return {name: value.clone() for name, value in tensors.items()}


def do_steps(step: Step, first: int, last: int) -> list[tuple[Tensor, ...]]:
    """Steps, the sixth of them with a clip that is not finite; copies of their outcomes."""
    outcomes = []
    for number in range(first, last):
        each = batch(number)
        if number == 5:
            each.waveform[3, 700] = float("nan")
        loss, embedding, is_skipped, is_finite, views = step(each)
        tensors = (loss, embedding, is_skipped, is_finite, *views)
        outcomes.append(tuple(tensor.clone() for tensor in tensors))
    return outcomes


def assert_same(own: TrainState, other: TrainState) -> None:
    expected = everything_in(other)
    for name, value in everything_in(own).items():
        assert torch.equal(value, expected[name]), name


class InPlace:
    """Step that passes each batch through the same memory, as a graph does, without capture."""

    def __init__(self, state: TrainState) -> None:
        self.state = state
        self.waveform, self.key = torch.zeros(8, 15200), torch.zeros(8, dtype=torch.int64)

    def __call__(self, each: SegmentBatch) -> StepOutcome:
        self.state.begin_step()
        self.waveform.copy_(each.waveform)
        self.key.copy_(each.key)
        outcome = compute_step(self.state, self.waveform, self.key)
        self.state.step += 1
        return outcome


@pytest.mark.parametrize("chain", CHAINS)
def test_a_step_depends_on_nothing_but_its_memory(chain: str) -> None:
    eager, in_place = (small_training(*CHAINS[chain]) for _ in range(2))
    step = InPlace(in_place)
    storages = {each.data_ptr() for each in in_place.byol.state_dict().values()}
    expected = do_steps(lambda each: train_step(eager, each), 0, 8)
    for own, other in zip(do_steps(step, 0, 8), expected, strict=True):
        assert all(map(torch.equal, own, other))
    assert_same(in_place, eager)
    # A graph writes to where the tensors were: none may have been replaced.
    assert storages == {each.data_ptr() for each in in_place.byol.state_dict().values()}


@pytest.mark.parametrize("asked", ["auto", "false", "true"])
def test_a_cpu_runs_eagerly(asked: str, capsys: pytest.CaptureFixture[str]) -> None:
    state = small_training(f"train.cuda_graph={asked}")
    step = choose_step(state)
    assert not isinstance(step, GraphedStep)
    assert step(batch(0)).loss.isfinite()
    # Said where it was asked for, and there in one line.
    assert capsys.readouterr().err.count("\n") == (asked == "true")


@pytest.fixture
def deterministic() -> Iterator[None]:
    """Algorithms of cuDNN that repeat themselves."""
    torch.backends.cudnn.deterministic = True
    yield
    torch.backends.cudnn.deterministic = False


def on_gpu(*overrides: str) -> TrainState:
    return small_training(*overrides, device="cuda")


@pytest.mark.gpu
@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_twenty_replays_are_twenty_eager_steps(chain: str, accumulate: int) -> None:
    overrides = [*CHAINS[chain], f"train.accumulate={accumulate}"]
    eager, graphed = on_gpu(*overrides), on_gpu(*overrides)
    step = choose_step(graphed)
    assert isinstance(step, GraphedStep)
    last = WARM_UP_STEPS + 20
    expected = do_steps(lambda each: train_step(eager, each), 0, last)
    for own, other in zip(do_steps(step, 0, last), expected, strict=True):
        assert all(map(torch.equal, own, other))
    assert step.is_replaying
    assert [bool(each[2]) for each in expected] == [number == 5 for number in range(last)]
    assert_same(graphed, eager)


@pytest.mark.gpu
@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("first", ["eager", "graph"])
def test_a_run_goes_on_in_the_other_way(first: str) -> None:
    whole, half, rest = (on_gpu(*CHAINS["all"]) for _ in range(3))
    do_steps(lambda each: train_step(whole, each), 0, 16)
    ways: list[Step] = [lambda each: train_step(half, each), choose_step(rest)]
    if first == "graph":
        ways = [choose_step(half), lambda each: train_step(rest, each)]
    do_steps(ways[0], 0, 8)
    rest.load(half.snapshot(corpus_digest=""))
    do_steps(ways[1], 8, 16)
    assert_same(rest, whole)


@pytest.mark.gpu
@pytest.mark.usefixtures("deterministic")
def test_a_step_that_waits_for_the_device_stays_eager(capfd: pytest.CaptureFixture[str]) -> None:
    eager, waiting = on_gpu(), on_gpu()

    def wait(module: Any, inputs: Any, embedding: Tensor) -> None:
        embedding.sum().item()

    waiting.byol.encoder.register_forward_hook(wait)
    step = choose_step(waiting)
    do_steps(lambda each: train_step(eager, each), 0, 8)
    do_steps(step, 0, 8)
    assert isinstance(step, GraphedStep)
    assert not step.is_replaying
    assert capfd.readouterr().err.count("train.cuda_graph") == 1
    assert_same(waiting, eager)


@pytest.mark.gpu
@pytest.mark.usefixtures("deterministic")
def test_a_batch_of_another_size_is_done_eagerly() -> None:
    eager, graphed = on_gpu(), on_gpu()
    step = choose_step(graphed)
    for number in range(8):
        each = batch(number)
        if number == 6:
            each = SegmentBatch(each.waveform[:5], each.key[:5])
        train_step(eager, each)
        step(each)
    assert_same(graphed, eager)


@pytest.mark.gpu
@pytest.mark.usefixtures("deterministic")
def test_a_run_writes_the_same_model_with_a_graph(tmp_path: Path, sounds: Path) -> None:
    models = []
    for asked in ("true", "false"):
        config = small_run(
            tmp_path / asked, sounds, f"train.cuda_graph={asked}", "run.device=cuda",
            "train.max_steps=12", "train.epochs=100",
        )  # fmt: skip
        models.append(load_file(pretrain(config)))
    for name, value in models[0].items():
        assert torch.equal(value, models[1][name]), name
