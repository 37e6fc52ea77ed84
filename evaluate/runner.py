"""Loop over tasks, models, folds and probes; each finished fold goes to results.csv at once."""

import itertools
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from byola_rq.cli.options import describe_fault
from byola_rq.errors import ByolaRQError
from byola_rq.runtime.terminal import say, warn
from byola_rq.text.shown import one_line
from evaluate.fitting import can_fit
from evaluate.models import EmbeddingModel
from evaluate.protocol import (
    Clock,
    Job,
    Settings,
    fold_suffix,
    prepare,
    run_fold,
)
from evaluate.publishers.layouts import LAYOUTS, find_layouts, read_layout
from evaluate.reports.records import ReportError
from evaluate.reports.results import append_fold, finished, open_folder
from evaluate.reports.scores import name_setting
from evaluate.rows import make_predictions, make_rows, make_run_id
from evaluate.tasks.few_labels import describe_small_classes, find_rejected
from evaluate.tasks.folds import make_folds
from evaluate.tasks.labelled_csv import read_labelled_csv
from evaluate.tasks.task import Task, TaskError, check_names, limit_clips


def gather_tasks(
    data_root: Path | None,
    names: Sequence[str] | None,
    csvs: Sequence[Path],
    *,
    unit_seconds: float | None,
    limit: int | None,
    seed: int,
    label_fractions: Sequence[float] = (1.0,),
    by_archive: bool = False,
) -> tuple[list[Task], list[Exception]]:
    """Read every requested set before the first is evaluated.

    Args:
        data_root: Folder of published sets.
        names: Names of published sets; by default all that are found.
        csvs: Csv files of labeled clips.
        unit_seconds: Unit in seconds of the csv tasks; None for that of the longest clip.
        limit: Maximum number of clips of each class and part.
        seed: Seed of drawn splits and of the clips that `limit` keeps.
        label_fractions: Shares of the labels; a task must allow at least one.
        by_archive: True to divide VoxForge by archive, not by speaker.

    Returns:
        The tasks that can be evaluated, and the errors of others and of shares of the labels.

    Raises:
        TaskError: If two tasks have the same name.
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
            if limit is not None:
                task = limit_clips(task, limit, seed)
            folds = make_folds(task, seed)  # fail here, not after hours
            rejected = find_rejected(task, folds, label_fractions)
            errors += rejected.values()
            if len(rejected) < len(label_fractions):
                tasks.append(task)
        except (ByolaRQError, OSError) as error:
            errors.append(error)
    check_names(tasks)
    return tasks, errors


def evaluate(
    models: Sequence[EmbeddingModel], tasks: Sequence[Task], settings: Settings, out: Path
) -> int:
    """Evaluate every model on every task; results.csv grows with each fold.

    Runs in results.csv are not repeated; a killed run continues with its first missing fold. A
    model that fails on a task is reported and skipped.

    Returns:
        The number of failed pairs of task and model.

    Raises:
        ReportError: Before any work, if the output folder cannot be used; later, if results
            cannot be written.
    """
    open_folder(out)
    num_failed = 0
    for task in tasks:
        with reported(task.name, settings.debug) as failures:
            job = prepare(task, settings)
            introduce(job, settings)
            for model in models:
                with reported(f"{task.name}: {model.name}", settings.debug) as failures_of_model:
                    evaluate_model(model, job, settings, out)
                num_failed += len(failures_of_model)
        num_failed += len(failures)
    return num_failed


def evaluate_model(model: EmbeddingModel, job: Job, settings: Settings, out: Path) -> None:
    """Fit and test every probe on every fold that is not in results.csv yet.

    Raises:
        ByolaRQError: If a fold fails; folds finished before stay in results.csv.
    """
    task, clock = job.task, Clock()
    rejected = find_rejected(task, job.folds, settings.label_fractions)
    run_ids = {
        (probe, fraction): make_run_id(model, job, probe, settings, fraction)
        for fraction in settings.label_fractions
        for probe in settings.probes
        if fraction not in rejected and can_fit(probe, model)
    }
    done = {run: {fold for fold, _ in finished(out, id_)} for run, id_ in run_ids.items()}
    for fold, fraction in itertools.product(job.folds, settings.label_fractions):
        probes = [probe for probe, of in run_ids if of == fraction]
        probes = [probe for probe in probes if fold.name not in done[probe, fraction]]
        if not probes:
            continue
        for outcomes in run_fold(
            model,
            job,
            fold,
            probes=probes,
            settings=settings,
            clock=clock,
            label_fraction=fraction,
        ):
            probe = outcomes[0].probe
            rows = make_rows(run_ids[probe, fraction], model, task, outcomes, settings)
            predictions = make_predictions(task, outcomes)
            append_fold(out, rows, predictions, task.classes if task.is_multilabel else ())
            setting = name_setting(probe, fraction)
            score = np.mean([row.score for row in rows])
            where = f"{task.name}{fold_suffix(fold)}: {model.name}, {setting}"
            say(f"{where}: {rows[0].metric} {score:.1f} %")
    if clock.probe:
        say(f"{task.name}: {model.name}: {clock}")
    else:
        say(f"{task.name}: {model.name}: in results.csv already")


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


@contextmanager
def reported(what: str, debug: bool) -> Iterator[list[str]]:
    """Print an error as one line, append it to the yielded list, and continue.

    A `ReportError` is raised again: if results cannot be written, later ones would be lost too.
    """
    failures: list[str] = []
    try:
        yield failures
    except ReportError:
        raise
    except Exception as error:
        if debug:
            traceback.print_exc()
        reason = one_line(error)
        if not isinstance(error, ByolaRQError | OSError):  # not caused by user input
            reason = describe_fault(error)
        failures.append(what)
        warn(f"error: {what}: {reason}")


def introduce(job: Job, settings: Settings) -> None:
    """Print a task's counts and division, and warn of its problems."""
    task, folds = job.task, job.folds
    if task.has_folds:
        division = f"{len(folds)} folds"
    else:
        sizes = (len(folds[0].train), len(folds[0].valid), len(folds[0].test))
        division = "{} train / {} valid / {} test".format(*sizes)
    facts = [f"{len(task.clips)} clips, {len(task.classes)} classes", division, *task.notes]
    say(f"{task.name}: {'; '.join(facts)}")
    rejected = find_rejected(task, folds, settings.label_fractions)
    kept = [each for each in settings.label_fractions if each not in rejected]
    small = [describe_small_classes(task, folds, fraction) for fraction in kept]
    for warning in (*task.warnings, *filter(None, small)):
        warn(f"warning: {task.name}: {warning}")
    if task.problems:
        warn(
            f"warning: {task.name}: {len(task.problems)} problems in {task.source} "
            f"({task.num_missing} clips missing); `python -m evaluate inspect` lists them"
        )
