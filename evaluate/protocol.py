"""The protocol on one fold: standardize, embed, fit every probe, predict the test clips."""

import hashlib
import json
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import numpy.typing as npt

from byola_rq.audio.frontend import Statistics
from byola_rq.runtime.progress import ProgressBar
from byola_rq.runtime.terminal import warn
from evaluate.embedding_cache import (
    CachedRows,
    ClipKeys,
    EmbeddingCache,
    digest_places,
    make_clip_keys,
)
from evaluate.fitting import Fitted, FoldData, fit_and_score
from evaluate.log_mels import LogMels
from evaluate.models import EmbeddingModel, default_batch_size, embed
from evaluate.tasks.few_labels import keep_labels
from evaluate.tasks.folds import Fold, describe_copies, make_folds
from evaluate.tasks.task import Task


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Options of a call; everything else is fixed by the protocol."""

    probes: tuple[str, ...]  # keys of PROBES and OFFICIAL_PROBES, or FINETUNE
    label_fractions: tuple[float, ...] = (1.0,)
    norm: str  # task or checkpoint
    seed: int
    device: str
    num_workers: int
    batch_size: int | None  # None: chosen by the length of the clips
    cache: Path
    debug: bool = False  # show the traceback of a task that fails


@dataclass
class Clock:
    """Seconds that one model spends on one task, by stage."""

    decode: float = 0.0
    model: float = 0.0  # log-mel and encoder
    probe: float = 0.0
    num_embedded: int = 0

    def __str__(self) -> str:
        spent = self.decode + self.model
        rate = f", {self.num_embedded / spent:.0f} clips/s" if self.num_embedded else ", all cached"
        return (
            f"decoding {self.decode:.1f} s, model {self.model:.1f} s{rate}; "
            f"probes {self.probe:.1f} s"
        )


@dataclass(frozen=True, eq=False)
class Job:
    """Task with its folds, clip keys, embedding cache and log-mels."""

    task: Task
    folds: tuple[Fold, ...]
    clip_keys: ClipKeys
    cache: EmbeddingCache
    log_mels: dict[str, LogMels] = field(default_factory=dict)  # only those of the last frontend
    searched: set[str] = field(default_factory=set)  # folds in which copies were looked for


def prepare(task: Task, settings: Settings) -> Job:
    """Divide a task into folds and key its files.

    Raises:
        TaskError: If its folds cannot be made or a file is missing.
    """
    folds = make_folds(task, settings.seed)
    return Job(task, folds, make_clip_keys(task.clips), EmbeddingCache(settings.cache))


@dataclass(frozen=True, eq=False)
class Outcome:
    """Fitted probe of one fold with its scores of the test clips."""

    fold: Fold  # without unreadable clips and clips whose labels were not used
    probe: str
    fitted: Fitted
    statistics: Statistics
    num_skipped: int
    num_unlabelled: int
    label_fraction: float
    embed_seconds: float
    scores: npt.NDArray[np.float32]  # scores of the test clips, (N, C)


def run_fold(
    model: EmbeddingModel,
    job: Job,
    fold: Fold,
    *,
    probes: Sequence[str],
    settings: Settings,
    clock: Clock,
    label_fraction: float = 1.0,
) -> Iterator[list[Outcome]]:
    """Standardize by a fold's training clips, embed, fit every probe, predict the test clips.

    Nothing fitted here sees a test clip: not the statistics, the scaler, C, k or the best epoch.
    The statistics need no label: they are of all training clips for any `label_fraction`.

    Yields:
        The outcomes of each probe as it is fitted, one for each of its seeds.

    Raises:
        ByolaRQError: If clips cannot be read, embedded or kept.
    """
    task, log_mels = job.task, _log_mels(model, job, settings)
    start, decoding = time.perf_counter(), log_mels.decode_seconds
    statistics = _choose_statistics(model, job, fold, settings)
    rows = _embed_missing(model, job, fold, statistics, settings=settings, clock=clock)
    seconds = time.perf_counter() - start
    clock.decode += log_mels.decode_seconds - decoding
    clock.model += seconds - (log_mels.decode_seconds - decoding)
    whole = leave_out(fold, log_mels.unreadable)
    if fold.name not in job.searched:  # once, not for each model
        job.searched.add(fold.name)
        if copies := describe_copies(task, whole, rows.embeddings):
            warn(f"warning: {task.name}{fold_suffix(fold)}: {copies}")
    fold = keep_labels(task, whole, label_fraction, settings.seed)
    where = f"{task.name}{fold_suffix(fold)}: {model.name}"
    data = FoldData(
        task=task, fold=fold, log_mels=log_mels, statistics=statistics, embeddings=rows.embeddings
    )
    make_outcome = partial(
        Outcome,
        fold=fold,
        statistics=statistics,
        num_skipped=task.num_missing + len(log_mels.unreadable),
        num_unlabelled=_num_labels(whole) - _num_labels(fold),
        label_fraction=label_fraction,
        embed_seconds=seconds,
    )
    for probe in probes:
        start = time.perf_counter()
        fits = fit_and_score(
            probe, model, data, seed=settings.seed, device=settings.device, what=f"{where}, {probe}"
        )
        outcomes = [make_outcome(probe=probe, fitted=each, scores=scores) for each, scores in fits]
        for warning in (warning for each in outcomes for warning in each.fitted.warnings):
            warn(f"warning: {where}: {warning}")
        clock.probe += time.perf_counter() - start
        yield outcomes


def _num_labels(fold: Fold) -> int:
    return len(fold.train) + len(fold.valid)


def leave_out(fold: Fold, positions: Collection[int]) -> Fold:
    """Return the fold without the clips at `positions`."""
    if not positions:
        return fold
    train, valid, test = (
        np.setdiff1d(part, list(positions)) for part in (fold.train, fold.valid, fold.test)
    )
    return replace(fold, train=train, valid=valid, test=test)


def fold_suffix(fold: Fold) -> str:
    """Return the text that names a fold after its task."""
    return f" fold {fold.name}" if fold.name else ""


def version_of(distribution: str) -> str:
    """Return the installed version of a distribution."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed"  # byola_rq used from its checkout


def _log_mels(model: EmbeddingModel, job: Job, settings: Settings) -> LogMels:
    """Return the task's log-mels by the model's frontend; those of one frontend are cached."""
    key = json.dumps(model.frontend.options, sort_keys=True)
    if key not in job.log_mels:
        job.log_mels.clear()
        job.log_mels[key] = LogMels(
            job.task, model.frontend, device=settings.device, num_workers=settings.num_workers
        )
    return job.log_mels[key]


def _choose_statistics(
    model: EmbeddingModel, job: Job, fold: Fold, settings: Settings
) -> Statistics:
    if settings.norm == "checkpoint" and model.statistics is not None:
        return model.statistics
    log_mels = _log_mels(model, job, settings)
    key = {
        "frontend": model.frontend.options,
        "unit_seconds": job.task.unit_seconds,
        "clips": hashlib.sha256(job.clip_keys[fold.train].tobytes()).hexdigest(),
    }
    statistics = job.cache.read_statistics(key)
    if statistics is None:
        batch_size = _batch_size(log_mels, settings)
        with ProgressBar(f"{job.task.name}{fold_suffix(fold)}: statistics", len(fold.train)) as bar:
            statistics = log_mels.measure_statistics(fold.train.tolist(), batch_size, bar.advance)
        job.cache.write_statistics(key, statistics)
    return statistics


def _embed_missing(
    model: EmbeddingModel,
    job: Job,
    fold: Fold,
    statistics: Statistics,
    *,
    settings: Settings,
    clock: Clock,
) -> CachedRows:
    """Embed every readable clip that is not in the cache; return the rows of all."""
    log_mels = _log_mels(model, job, settings)
    key = {
        **model.key,
        "statistics": asdict(statistics),
        "unit_seconds": job.task.unit_seconds,
        "clips": digest_places(job.task.clips),
        "byola_rq": version_of("byola_rq"),
    }
    rows = job.cache.open_rows(key, job.clip_keys, model.embedding_dim)
    missing = rows.missing
    if not missing:
        return rows
    what = f"{job.task.name}{fold_suffix(fold)}: {model.name}"
    total = len(job.clip_keys)
    try:
        with ProgressBar(what, total, done=total - len(missing)) as bar:
            batch_size = _batch_size(log_mels, settings)
            for positions, embeddings in embed(
                model, log_mels, statistics, missing, batch_size=batch_size
            ):
                rows.write(positions, embeddings)
                clock.num_embedded += len(positions)
                bar.advance(len(positions))
    finally:
        rows.sync()  # also on an error, so that finished rows are not embedded again
    return rows


def _batch_size(log_mels: LogMels, settings: Settings) -> int:
    return settings.batch_size or default_batch_size(log_mels.num_frames, settings.device)
