"""The loop over tasks, models, folds and probes; what is finished goes to results.csv at once."""

import hashlib
import json
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
import torch

from byola_rq.cli.options import describe_fault
from byola_rq.errors import ByolaRQError
from byola_rq.runtime.terminal import say, warn
from evaluate.embedding_cache import digest_task
from evaluate.models import EmbeddingModel
from evaluate.probes.metrics import METRICS
from evaluate.protocol import (
    Clock,
    Job,
    Outcome,
    Settings,
    fold_suffix,
    prepare,
    run_fold,
    version_of,
)
from evaluate.publishers.layouts import LAYOUTS, find_layouts, read_layout
from evaluate.reports.results import (
    PredictionRow,
    ReportError,
    ResultRow,
    append_fold,
    finished,
    open_folder,
)
from evaluate.tasks.folds import class_targets, make_folds
from evaluate.tasks.labelled_csv import read_labelled_csv
from evaluate.tasks.task import Task, TaskError, check_names, limit_clips

# What a probe's name meant before is another run: rows of it are not taken for those of today.
_RULES = {"adam": "adam, the last best epoch"}


def gather_tasks(
    data_root: Path | None,
    names: Sequence[str] | None,
    csvs: Sequence[Path],
    *,
    unit_seconds: float | None,
    limit: int | None,
    seed: int,
    by_archive: bool = False,
) -> tuple[list[Task], list[Exception]]:
    """Read every set that was asked for, before the first is evaluated.

    Args:
        data_root: Folder of published sets.
        names: Of those, which; all that are there by default.
        csvs: Labelled csvs.
        unit_seconds: For the csvs.
        limit: Clips of each class and part at most.
        seed: Of splits and of what `limit` draws.
        by_archive: Whether VoxForge is divided by archive; by speaker otherwise.

    Returns:
        The tasks that can be evaluated, and why the others cannot.

    Raises:
        TaskError: If two tasks have one name.
    """
    tasks: list[Task] = []
    errors: list[Exception] = []
    readers: list[Callable[[], Task]] = []
    if data_root is not None:
        try:
            found = names or _names_found(data_root)
        except ByolaRQError as error:
            found = []
            errors.append(error)
        read_published = partial(read_layout, data_root=data_root, seed=seed, by_archive=by_archive)
        readers += [partial(read_published, name) for name in found]
    readers += [partial(read_labelled_csv, path, unit_seconds) for path in csvs]
    for read in readers:
        try:
            task = read()
            make_folds(task, seed)  # what cannot be divided is found now, not after hours
            tasks.append(task)
        except (ByolaRQError, OSError) as error:
            errors.append(error)
    check_names(tasks)
    if limit is not None:
        tasks = [limit_clips(task, limit, seed) for task in tasks]
    return tasks, errors


def evaluate(
    models: Sequence[EmbeddingModel], tasks: Sequence[Task], settings: Settings, out: Path
) -> int:
    """Evaluate every model on every task; results.csv grows with each fold.

    Runs that results.csv holds already are not done again; one that was killed goes on with its
    first missing fold. A model that fails on a task is reported, and the next one taken.

    Returns:
        How many pairs of task and model failed.

    Raises:
        ReportError: Before any work, if the output folder cannot be used; later, if the disk
            refuses more results.
    """
    open_folder(out)
    num_failed = 0
    for task in tasks:
        with _reported(task.name, settings.debug) as failures:
            job = prepare(task, settings)
            _introduce(job)
            for model in models:
                with _reported(f"{task.name}: {model.name}", settings.debug) as failures_of_model:
                    evaluate_model(model, job, settings, out)
                num_failed += len(failures_of_model)
        num_failed += len(failures)
    return num_failed


def evaluate_model(model: EmbeddingModel, job: Job, settings: Settings, out: Path) -> None:
    """Fit and test every probe on every fold that is not in results.csv yet.

    Raises:
        ByolaRQError: As one line; what was finished before stays.
    """
    task = job.task
    run_ids = {probe: make_run_id(model, job, probe, settings) for probe in settings.probes}
    done = {probe: {fold for fold, _ in finished(out, id_)} for probe, id_ in run_ids.items()}
    clock = Clock()
    for fold in job.folds:
        probes = [probe for probe in settings.probes if fold.name not in done[probe]]
        if not probes:
            continue
        for outcomes in run_fold(model, job, fold, probes=probes, settings=settings, clock=clock):
            probe = outcomes[0].probe
            rows = make_rows(run_ids[probe], model, task, outcomes, settings)
            predictions = make_predictions(task, outcomes)
            append_fold(out, rows, predictions, task.classes if task.is_multilabel else ())
            where = f"{task.name}{fold_suffix(fold)}: {model.name}, {probe}"
            score = np.mean([row.score for row in rows])
            say(f"{where}: {rows[0].metric} {score:.1f} %")
    if clock.probe:
        say(f"{task.name}: {model.name}: {clock}")
    else:
        say(f"{task.name}: {model.name}: in results.csv already")


def make_run_id(model: EmbeddingModel, job: Job, probe: str, settings: Settings) -> str:
    """A digest of all that decides a run: the same run has the same id whenever it starts."""
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
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def make_rows(
    run_id: str, model: EmbeddingModel, task: Task, outcomes: Sequence[Outcome], settings: Settings
) -> list[ResultRow]:
    """The rows of results.csv of one run's fold, a row for each seed."""
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
        )
        for outcome in outcomes
    ]


def make_predictions(task: Task, outcomes: Sequence[Outcome]) -> list[PredictionRow]:
    """What each outcome says of every test clip."""
    classes = np.array(task.classes, dtype=object)
    predictions = []
    for outcome in outcomes:
        for position, scores in zip(outcome.fold.test, outcome.scores, strict=True):
            if task.is_multilabel:
                said = ",".join(classes[scores >= 0.5])
            else:
                said = classes[scores.argmax()]
            predictions.append(
                PredictionRow(
                    file_name=task.clips[position].file_name,
                    label=task.clips[position].label,
                    prediction=said,
                    fold=outcome.fold.name,
                    seed=outcome.fitted.seed,
                    scores=tuple(scores.tolist()) if task.is_multilabel else (),
                )
            )
    return predictions


def _names_found(data_root: Path) -> list[str]:
    names = list(find_layouts(data_root))
    if not names:
        wanted = "; ".join(f"{layout.name}: {layout.holds}" for layout in LAYOUTS)
        raise TaskError(
            f"{data_root}: must hold a published set; found none of these: {wanted}",
            code="missing",
            path=data_root,
        )
    return names


def _norm_of(model: EmbeddingModel, settings: Settings) -> str:
    return settings.norm if model.statistics is not None else "task"


@contextmanager
def _reported(what: str, debug: bool) -> Iterator[list[str]]:
    """Print an error as one line, note it in the list given, and go on.

    Not where the results cannot be written: what follows would be lost too.
    """
    failures: list[str] = []
    try:
        yield failures
    except ReportError:
        raise
    except Exception as error:
        if debug:
            traceback.print_exc()
        reason = " ".join(str(error).split())
        if not isinstance(error, ByolaRQError | OSError):  # nothing that a user could have caused
            reason = describe_fault(error)
        failures.append(what)
        warn(f"error: {what}: {reason}")


def _introduce(job: Job) -> None:
    task, folds = job.task, job.folds
    if task.has_folds:
        division = f"{len(folds)} folds"
    else:
        sizes = (len(folds[0].train), len(folds[0].valid), len(folds[0].test))
        division = "{} train / {} valid / {} test".format(*sizes)
    facts = [f"{len(task.clips)} clips, {len(task.classes)} classes", division, *task.notes]
    say(f"{task.name}: {'; '.join(facts)}")
    for warning in task.warnings:
        warn(f"warning: {task.name}: {warning}")
    if task.problems:
        warn(
            f"warning: {task.name}: {len(task.problems)} problems in {task.source} "
            f"({task.num_missing} clips missing); `python -m evaluate inspect` lists them"
        )


def _describe_device(device: str) -> str:
    return f"cuda ({torch.cuda.get_device_name()})" if device == "cuda" else device
