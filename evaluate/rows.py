"""Records of a run: its id, its rows of results.csv, its predictions."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime

import numpy as np
import torch

from evaluate.embedding_cache import digest_task
from evaluate.models import EmbeddingModel
from evaluate.probes.metrics import METRICS
from evaluate.protocol import Job, Outcome, Settings, version_of
from evaluate.reports.predictions import PredictionRow
from evaluate.reports.results import ResultRow
from evaluate.tasks.folds import class_targets
from evaluate.tasks.task import Task

# A probe whose rules changed gets new run ids: rows fitted by its old rules are not reused.
_RULES = {"adam": "adam, the last best epoch"}


def make_run_id(
    model: EmbeddingModel, job: Job, probe: str, settings: Settings, label_fraction: float = 1.0
) -> str:
    """Digest all that decides a run: the same run always has the same id."""
    norm = _norm_of(model, settings)
    facts = {
        "name": model.name,
        "model": model.key,
        "statistics": asdict(model.statistics) if norm == "checkpoint" and model.statistics else {},
        "task": digest_task(job.task, job.clip_keys),
        "probe": _RULES.get(probe, probe),
        "norm": norm,
        "seed": settings.seed,
        "byola_rq": version_of("byola_rq"),
    }
    if label_fraction < 1:  # omitted for all labels, so that older folders' run ids stay valid
        facts["label_fraction"] = label_fraction
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def make_rows(
    run_id: str, model: EmbeddingModel, task: Task, outcomes: Sequence[Outcome], settings: Settings
) -> list[ResultRow]:
    """Return the rows of results.csv of one run's fold, one for each seed."""
    metric = "mAP" if task.is_multilabel else "accuracy"
    targets = class_targets(task)
    return [
        ResultRow(
            run_id=run_id,
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            model=model.name,
            weights_sha256=model.weights_sha256,
            task=task.name,
            split=task.split_rule,
            fold=outcome.fold.name,
            seed=outcome.fitted.seed,
            probe=outcome.probe,
            probe_params=json.dumps(outcome.fitted.params),
            metric=metric,
            score=100 * METRICS[metric](targets[outcome.fold.test], outcome.scores),
            n_train=outcome.fitted.num_train,
            n_valid=outcome.fitted.num_valid,
            n_test=len(outcome.fold.test),
            n_classes=len(task.classes),
            n_skipped=outcome.num_skipped,
            embedding_dim=model.embedding_dim,
            norm=_norm_of(model, settings),
            unit_seconds=task.unit_seconds,
            fit_seconds=outcome.fitted.fit_seconds,
            embed_seconds=outcome.embed_seconds,
            byola_rq=version_of("byola_rq"),
            torch=version_of("torch"),
            sklearn=version_of("scikit-learn"),
            device=_describe_device(settings.device),
            model_version=model.version,
            label_fraction=outcome.label_fraction,
            n_unlabelled=outcome.num_unlabelled,
        )
        for outcome in outcomes
    ]


def make_predictions(task: Task, outcomes: Sequence[Outcome]) -> list[PredictionRow]:
    """Return each outcome's prediction for every test clip."""
    classes = np.array(task.classes, dtype=object)
    predictions = []
    for outcome in outcomes:
        for position, scores in zip(outcome.fold.test, outcome.scores, strict=True):
            if task.is_multilabel:
                predicted = ",".join(classes[scores >= 0.5])
            else:
                predicted = classes[scores.argmax()]
            predictions.append(
                PredictionRow(
                    file_name=task.clips[position].file_name,
                    label=task.clips[position].label,
                    prediction=predicted,
                    fold=outcome.fold.name,
                    seed=outcome.fitted.seed,
                    scores=tuple(scores.tolist()) if task.is_multilabel else (),
                )
            )
    return predictions


def _norm_of(model: EmbeddingModel, settings: Settings) -> str:
    return settings.norm if model.statistics is not None else "task"


def _describe_device(device: str) -> str:
    return f"cuda ({torch.cuda.get_device_name()})" if device == "cuda" else device
