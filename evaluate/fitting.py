"""Fit a probe on the labeled clips of a fold and score the test clips."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from byola_rq.audio.frontend import LogMelSpectrogram, Statistics
from byola_rq.runtime.progress import ProgressBar
from evaluate.log_mels import LogMels
from evaluate.models import EmbeddingModel
from evaluate.probes.finetune import Rules, finetune
from evaluate.probes.fit import PROBES
from evaluate.probes.official import OFFICIAL_PROBES, fit_official
from evaluate.probes.prepared import FittedProbe, Part
from evaluate.probes.scaling import Features
from evaluate.probes.tuned import FineTuned, LabelledClips
from evaluate.tasks.folds import Fold, class_targets
from evaluate.tasks.task import Task

FINETUNE = "finetune"
# Log-mel frames per step of fine-tuning: activations take about 100 KiB a frame, 1.6 GiB in all.
_MAX_FRAMES = 16_384
_MIN_CLIPS = 8  # clips per step that batch norm needs

Fitted = FittedProbe | FineTuned


def can_fit(probe: str, model: EmbeddingModel) -> bool:
    """Return True if a model can be probed so: fine-tuning needs an encoder with weights."""
    return probe != FINETUNE or isinstance(model.encoder, nn.Module)


@dataclass(frozen=True, kw_only=True, eq=False)
class FoldData:
    """Fold with a model's inputs and embeddings.

    Attributes:
        task: Labeled set.
        fold: Clips of each part that are readable and whose labels are used.
        log_mels: Log-mel spectrograms of the task.
        statistics: Mean and std that standardize the log-mels.
        embeddings: Embeddings of every clip of the task, `(N, D)`.
    """

    task: Task
    fold: Fold
    log_mels: LogMels
    statistics: Statistics
    embeddings: Features


def fit_and_score(
    probe: str, model: EmbeddingModel, data: FoldData, *, seed: int, device: str, what: str
) -> Iterator[tuple[Fitted, Features]]:
    """Fit a probe from each of its seeds and score the test clips.

    Args:
        probe: Key of `PROBES` or `OFFICIAL_PROBES`, or `FINETUNE`.
        model: Model whose encoder is fine-tuned.
        data: Fold to fit and score.
        seed: First seed; the others follow it.
        device: Torch device.
        what: Label of the progress bar.

    Yields:
        The fitted probe and its scores of the test clips, `(N, C)`.
    """
    fold = data.fold
    if probe == FINETUNE:
        for tuned in _finetune(model, data, seed=seed, device=device, what=what):
            yield tuned, tuned.scores(fold.test.tolist())
        return
    for fitted in _fit(probe, data, seed=seed, device=device):
        yield fitted, fitted.scores(data.embeddings[fold.test])


def _fit(probe: str, data: FoldData, *, seed: int, device: str) -> tuple[FittedProbe, ...]:
    fold, targets = data.fold, class_targets(data.task)
    train, valid = (Part(data.embeddings[p], targets[p]) for p in (fold.train, fold.valid))
    if probe not in OFFICIAL_PROBES:
        return PROBES[probe](train, valid, seed=seed, device=device)
    return fit_official(
        probe,
        train,
        valid,
        task=data.task.name,
        is_valid_drawn=fold.is_valid_drawn,
        seed=seed,
        device=device,
    )


def _finetune(
    model: EmbeddingModel, data: FoldData, *, seed: int, device: str, what: str
) -> Iterator[FineTuned]:
    assert isinstance(model.encoder, nn.Module)
    clips = LabelledClips(
        batches=lambda positions, batch_size: _standardized(data, positions, batch_size),
        targets=class_targets(data.task),
        train=data.fold.train,
        valid=data.fold.valid,
        silence=float(data.statistics.standardize(_silence(model.frontend, device))),
    )
    rules = Rules()
    num_clips = max(_MIN_CLIPS, _MAX_FRAMES // data.log_mels.num_frames)
    rules = replace(rules, batch_size=min(rules.batch_size, num_clips))
    with ProgressBar(f"{what}, epochs", rules.num_epochs) as bar:
        yield from finetune(
            model.encoder, clips, rules=rules, seed=seed, device=device, on_epochs=bar.advance
        )


def _standardized(
    data: FoldData, positions: Sequence[int], batch_size: int
) -> Iterator[tuple[list[int], Tensor]]:
    for readable, log_mel in data.log_mels.batches(positions, batch_size):
        yield readable, data.statistics.standardize(log_mel)


def _silence(frontend: LogMelSpectrogram, device: str) -> Tensor:
    """Return the log-mel value of digital silence, a scalar."""
    silent: Tensor = frontend(torch.zeros(1, frontend.min_samples, device=device))
    return silent.amin()
