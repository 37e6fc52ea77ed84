"""The loop over tasks, models, folds and probes, in reading order."""

import json
import secrets
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch

from byola_rq.frontend import Statistics
from byola_rq.progress import ProgressBar
from evaluate.embeddings import EmbeddingModel, default_batch_size, embed
from evaluate.folds import Fold, class_indices, make_folds
from evaluate.log_mels import LogMels
from evaluate.probe import PROBES, FittedProbe, Labels, Part
from evaluate.report import summarize, write_summary
from evaluate.results import PredictionRow, ResultRow, append_run, open_folder
from evaluate.table import print_table
from evaluate.tasks import Task


@dataclass(frozen=True)
class Settings:
    """What a call chooses; everything else is the protocol's."""

    probes: tuple[str, ...]
    norm: str  # task or checkpoint
    seed: int
    device: str
    num_workers: int
    batch_size: int | None  # None: by the length of the clips


@dataclass(frozen=True, eq=False)
class Outcome:
    """One fitted probe on one fold, and what it says of the test clips."""

    fold: Fold
    probe: str
    fitted: FittedProbe
    statistics: Statistics
    embed_seconds: float
    predictions: Labels  # of the test clips, in their order


def evaluate(
    models: Sequence[EmbeddingModel],
    tasks: Sequence[Task],
    settings: Settings,
    out: Path,
) -> None:
    """Evaluate every model on every task; results.csv grows with each, the summary with each task.

    Raises:
        TaskError: Before any work, if a task's folds cannot be made.
        ReportError: Before any work, if the output folder cannot be used.
    """
    folds_of = [make_folds(task, settings.seed) for task in tasks]
    open_folder(out)
    for task, folds in zip(tasks, folds_of, strict=True):
        _introduce(task, folds)
        log_mels = None
        for model in models:
            if log_mels is None or log_mels.frontend.options != model.frontend.options:
                log_mels = decode(task, model, settings)
            outcomes = evaluate_model(model, log_mels, folds, settings)
            for probe in settings.probes:
                of_probe = [outcome for outcome in outcomes if outcome.probe == probe]
                rows = make_rows(task, model, of_probe, settings)
                append_run(out, rows, make_predictions(task, of_probe))
                score = np.mean([row.score for row in rows])
                print(f"{task.name}: {model.name}, {probe}: {score:.1f} %", flush=True)
        summary = summarize(out)
        write_summary(out, summary)
    for note in summary.notes:
        print(f"warning: {note}", file=sys.stderr)
    print_table(summary)


def decode(task: Task, model: EmbeddingModel, settings: Settings) -> LogMels:
    """The task's log-mels as the model's frontend makes them."""
    with ProgressBar(f"{task.name}: decoding", len(task.clips)) as bar:
        log_mels = LogMels(
            task,
            model.frontend,
            device=settings.device,
            num_workers=settings.num_workers,
            on_progress=bar.advance,
        )
    if not log_mels.is_kept:
        print(f"{task.name}: too large to keep, every pass decodes the clips anew", flush=True)
    return log_mels


def evaluate_model(
    model: EmbeddingModel,
    log_mels: LogMels,
    folds: Sequence[Fold],
    settings: Settings,
) -> list[Outcome]:
    """Each fold: standardize by its training clips, embed, fit every probe, predict the test clips.

    Nothing fitted here sees a test clip: not the statistics, the scaler, C or the best epoch.
    """
    task = log_mels.task
    labels = class_indices(task)
    batch_size = settings.batch_size or default_batch_size(log_mels.num_frames)
    passes = 1 if _norm_of(model, settings) == "checkpoint" else len(folds)
    outcomes = []
    last_statistics, features, seconds = None, np.empty((0, 0), dtype=np.float32), 0.0
    with ProgressBar(f"{task.name}: {model.name}", passes * len(task.clips)) as bar:
        for fold in folds:
            statistics = _choose_statistics(model, log_mels, fold, settings, batch_size)
            if statistics != last_statistics:  # a checkpoint's are the same for all folds
                start = time.perf_counter()
                features = embed(
                    model, log_mels, statistics, batch_size=batch_size, on_progress=bar.advance
                )
                last_statistics, seconds = statistics, time.perf_counter() - start
            train, valid = (Part(features[p], labels[p]) for p in (fold.train, fold.valid))
            for probe in settings.probes:
                fit = PROBES[probe]
                for fitted in fit(train, valid, seed=settings.seed, device=settings.device):
                    for warning in fitted.warnings:
                        bar.say(f"warning: {_where(task, model, fold)}: {warning}")
                    predictions = fitted.predict(features[fold.test])
                    outcomes.append(Outcome(fold, probe, fitted, statistics, seconds, predictions))
    return outcomes


def make_rows(
    task: Task, model: EmbeddingModel, outcomes: Sequence[Outcome], settings: Settings
) -> list[ResultRow]:
    """The rows of results.csv of one run: one model, task and probe."""
    labels = class_indices(task)
    now = datetime.now(UTC)
    run_id = f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"
    return [
        ResultRow(
            run_id=run_id,
            date=now.isoformat(timespec="seconds"),
            model=model.name,
            weights_sha256=model.weights_sha256,
            task=task.name,
            split="leave one fold out" if task.has_folds else "given",
            fold=outcome.fold.name,
            seed=outcome.fitted.seed,
            probe=outcome.probe,
            probe_params=json.dumps(outcome.fitted.params),
            metric="accuracy",
            score=100 * float(np.mean(outcome.predictions == labels[outcome.fold.test])),
            n_train=len(outcome.fold.train),
            n_valid=len(outcome.fold.valid),
            n_test=len(outcome.fold.test),
            n_classes=len(task.classes),
            n_skipped=0,  # a clip that cannot be read stops the call
            embedding_dim=model.embedding_dim,
            norm=_norm_of(model, settings),
            unit_seconds=task.unit_seconds,
            fit_seconds=outcome.fitted.fit_seconds,
            embed_seconds=outcome.embed_seconds,
            byola_rq=_version_of("byola_rq"),
            torch=_version_of("torch"),
            sklearn=_version_of("scikit-learn"),
            device=_describe_device(settings.device),
        )
        for outcome in outcomes
    ]


def make_predictions(task: Task, outcomes: Sequence[Outcome]) -> list[PredictionRow]:
    """The run's prediction for every test clip."""
    classes = task.classes
    return [
        PredictionRow(
            file_name=task.clips[position].file_name,
            label=task.clips[position].label,
            prediction=classes[prediction],
            fold=outcome.fold.name,
            seed=outcome.fitted.seed,
        )
        for outcome in outcomes
        for position, prediction in zip(outcome.fold.test, outcome.predictions, strict=True)
    ]


def _choose_statistics(
    model: EmbeddingModel, log_mels: LogMels, fold: Fold, settings: Settings, batch_size: int
) -> Statistics:
    if settings.norm == "checkpoint" and model.statistics is not None:
        return model.statistics
    return log_mels.measure_statistics(fold.train.tolist(), batch_size)


def _norm_of(model: EmbeddingModel, settings: Settings) -> str:
    return settings.norm if model.statistics is not None else "task"


def _introduce(task: Task, folds: Sequence[Fold]) -> None:
    if task.has_folds:
        division = f"{len(folds)} folds"
    else:
        sizes = (len(folds[0].train), len(folds[0].valid), len(folds[0].test))
        division = "{} train / {} valid / {} test".format(*sizes)
    facts = [f"{len(task.clips)} clips, {len(task.classes)} classes", division, *task.notes]
    print(f"{task.name}: {'; '.join(facts)}", flush=True)


def _where(task: Task, model: EmbeddingModel, fold: Fold) -> str:
    return f"{task.name}{f' fold {fold.name}' if fold.name else ''}: {model.name}"


def _version_of(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed"  # byola_rq used from its checkout


def _describe_device(device: str) -> str:
    return f"cuda ({torch.cuda.get_device_name()})" if device == "cuda" else device
