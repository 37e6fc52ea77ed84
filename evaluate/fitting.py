"""One probe fitted on the labelled clips of a fold, and what it says of the test clips."""

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
# Log-mel frames of a step of fine-tuning: its activations take about 100 KiB of each, 1.6 GiB.
_MAX_FRAMES = 16_384
_MIN_CLIPS = 8  # of a step, for batch norm's sake

Fitted = FittedProbe | FineTuned


def can_fit(probe: str, model: EmbeddingModel) -> bool:
    """Whether a model has what the probe needs: an encoder, to fine-tune it."""
    return probe != FINETUNE or isinstance(model.encoder, nn.Module)


@dataclass(frozen=True, kw_only=True, eq=False)
class FoldData:
    """A fold as a model sees it.

    Attributes:
        task: The set.
        fold: The clips of each part that can be read and whose labels count.
        log_mels: Of the task.
        statistics: What they are standardized by.
        embeddings: Of every clip of the task, `(N, D)`.
    """

    task: Task
    fold: Fold
    log_mels: LogMels
    statistics: Statistics
    embeddings: Features


def fit_and_score(
    probe: str, model: EmbeddingModel, data: FoldData, *, seed: int, device: str, what: str
) -> Iterator[tuple[Fitted, Features]]:
    """Fit a probe from each of its seeds.

    Args:
        probe: Of `PROBES` and `OFFICIAL_PROBES`, or `FINETUNE`.
        model: Whose encoder is fine-tuned.
        data: The clips.
        seed: The first.
        device: A torch device.
        what: Names the work on the progress bar.

    Yields:
        What was fitted, and its scores of the test clips, `(N, classes)`.
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
    """The log-mel of digital silence, a scalar."""
    silent: Tensor = frontend(torch.zeros(1, frontend.min_samples, device=device))
    return silent.amin()
