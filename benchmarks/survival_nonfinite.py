"""Injection of non-finite values into a training run, and their effects."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from benchmarks.survival_runs import make_config
from byola_rq.audio.frontend import LogMelSpectrogram, measure_statistics
from byola_rq.corpus.decoded_clips import DecodedClips, measure_clips
from byola_rq.corpus.order import ClipOrder, StepSampler
from byola_rq.corpus.segments import SegmentCorpus, find_clips
from byola_rq.errors import AudioError
from byola_rq.train.state import TrainState, build_state
from byola_rq.train.step import train_step

VALUES = {"NaN": float("nan"), "+Inf": float("inf"), "-Inf": float("-inf")}
PLACES = ("float wav", "segment", "loss", "gradient")
BATCH_SIZE = 8


@dataclass(frozen=True)
class Injection:
    """Injected value: its place, its step, and its effects."""

    place: str
    value: str
    step: int
    is_caught: bool  # rejected when reading its file, by name; otherwise the step is skipped
    names_clip: bool  # exactly the corrupted clip is named
    changed: tuple[str, ...]  # weights, statistics and optimizer values that differ after it
    learns_after: bool  # the next, undisturbed step changes weights

    @property
    def is_right(self) -> bool:
        """True if it was caught, reported and without effect."""
        return self.is_caught and self.names_clip and not self.changed and self.learns_after


def inject_often(clips: Path, folder: Path, *, values: int, seed: int) -> list[Injection]:
    """Train, and inject a value into file, segment, loss or gradient at every other step.

    Values in files do not reach a step, since reading rejects them.
    """
    rng = random.Random(seed)  # noqa: S311  # nothing secret
    training, batches, paths = _prepare(clips, folder, values)
    train_step(training, batches.corpus.load(batches.items(0)))  # allocates the optimizer's state
    injections = []
    for number in range(values):
        place, value, step = PLACES[number % len(PLACES)], rng.choice(list(VALUES)), training.step
        before = _copy(training)
        if place == "float wav":
            is_caught, names_clip = _inject_into_file(batches, paths, VALUES[value], rng)
        else:
            is_caught, names_clip = _inject_into_step(training, batches, place, VALUES[value], rng)
        after = _copy(training)
        outcome = train_step(training, batches.corpus.load(batches.items(training.step)))
        later = _copy(training)
        injections.append(
            Injection(
                place=place,
                value=value,
                step=step,
                is_caught=is_caught,
                names_clip=names_clip,
                changed=tuple(name for name in after if not _same_bits(before[name], after[name])),
                learns_after=not outcome.is_skipped
                and any(not _same_bits(after[name], later[name]) for name in later),
            )
        )
    return injections


def _inject_into_file(
    batches: "_Batches", paths: list[Path], value: float, rng: random.Random
) -> tuple[bool, bool]:
    clip = rng.randrange(len(paths))
    restore = _corrupt_file(paths[clip], value, rng)
    try:
        batches.clips.read(clip)
    except AudioError as error:
        return True, (error.code, error.path) == ("not-finite", paths[clip])
    finally:
        restore()
    return False, False


def _inject_into_step(
    training: TrainState, batches: "_Batches", place: str, value: float, rng: random.Random
) -> tuple[bool, bool]:
    batch = batches.corpus.load(batches.items(training.step))
    corrupted = [False] * BATCH_SIZE
    hooks: list[RemovableHandle] = []
    if place == "segment":
        row = rng.randrange(BATCH_SIZE)
        corrupted[row] = True
        batch.waveform[row, rng.randrange(batch.waveform.shape[1])] = value
    else:
        hooks.append(_corrupt_network(training, place, value))
    outcome = train_step(training, batch)
    for hook in hooks:
        hook.remove()
    return bool(outcome.is_skipped), (~outcome.is_finite).tolist() == corrupted


@dataclass
class _Batches:
    """Batches of the real sampler over float clips, by step."""

    corpus: SegmentCorpus
    clips: DecodedClips
    seed: int

    def items(self, step: int) -> Any:
        order = ClipOrder(len(self.corpus.clips), seed=self.seed)
        return next(iter(StepSampler(order, BATCH_SIZE, first_step=step, num_steps=step + 1)))


def _prepare(clips: Path, folder: Path, values: int) -> tuple[TrainState, _Batches, list[Path]]:
    """Set up training on clips of one segment each, so that batches contain all their samples."""
    floats = folder / "floats"
    config = make_config(
        floats, folder / "unused", (f"train.batch_size={BATCH_SIZE}", "optimizer.clip_norm=null")
    )
    floats.mkdir(parents=True)
    length, rate = config.segment_samples, config.frontend.sample_rate
    for number, source in enumerate(find_clips([clips])[0]):
        waveform, own_rate = soundfile.read(source.path, dtype="float32", always_2d=True)
        mono = waveform.mean(axis=1)[: length * own_rate // rate]
        soundfile.write(floats / f"{number:05d}.wav", mono, own_rate, subtype="FLOAT")
    found = measure_clips(find_clips([floats])[0], rate)
    corpus = SegmentCorpus(found, segment_samples=length, seed=config.run.seed)
    frontend = LogMelSpectrogram(**config.frontend.model_dump())
    items = np.array([(-1, index) for index in range(len(found))])
    statistics = measure_statistics([frontend(corpus.load(items).waveform)])
    num_steps = 2 * values + 1
    training = build_state(
        config,
        statistics,
        frontend,
        device=torch.device("cpu"),
        precision="float32",
        num_steps=num_steps,
    )
    paths = [source.path for source in found.sources]
    return training, _Batches(corpus, found, config.run.seed), paths


def _corrupt_file(path: Path, value: float, rng: random.Random) -> Callable[[], object]:
    """Write a value into a clip's file; return a function that undoes it."""
    content = path.read_bytes()
    waveform, rate = soundfile.read(path, dtype="float32")
    waveform[rng.randrange(len(waveform))] = value
    soundfile.write(path, waveform, rate, subtype="FLOAT")
    return lambda: path.write_bytes(content)


def _corrupt_network(training: TrainState, place: str, value: float) -> RemovableHandle:
    """Replace the next step's loss, or one element of its gradient, by a value."""
    if place == "loss":

        def corrupt_loss(module: Any, inputs: Any, output: Any) -> Any:
            del module, inputs
            # Added to the loss it leaves the gradient finite: the loss alone must be detected.
            return (output[0] + value, *output[1:])

        return training.network.register_forward_hook(corrupt_loss)
    weights = [each for each in training.byol.parameters() if each.requires_grad]
    weight = weights[training.step % len(weights)]

    def corrupt_gradient(gradient: Tensor) -> Tensor:
        corrupted = gradient.clone(memory_format=torch.contiguous_format)
        corrupted.view(-1)[training.step % corrupted.numel()] = value
        return corrupted

    hook: RemovableHandle = weight.register_hook(corrupt_gradient)  # type: ignore[no-untyped-call]
    return hook


def _copy(training: TrainState) -> dict[str, Tensor]:
    """Copy everything that training changes, except mixup's ring (unused here)."""
    checkpoint = training.snapshot(corpus_digest="")
    optimizer = {f"optimizer.{name}": value for name, value in checkpoint.optimizer.items()}
    return {name: value.clone() for name, value in {**checkpoint.model, **optimizer}.items()}


def _same_bits(first: Tensor, second: Tensor) -> bool:
    views = [each.contiguous().reshape(-1).view(torch.uint8) for each in (first, second)]
    return first.shape == second.shape and torch.equal(*views)
