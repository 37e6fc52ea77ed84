"""Evaluate trained runs one after the other; tasks are prepared once."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from evaluate.ablation.grid import AblationRun
from evaluate.ablation.work import Evaluate
from evaluate.models import load_model
from evaluate.protocol import Settings, prepare
from evaluate.runner import evaluate_model, introduce, reported
from evaluate.tasks.task import Task


def evaluator(out: Path, tasks: Sequence[Task], settings: Settings) -> Evaluate:
    """Make a function that evaluates a run on tasks and appends the results to an output folder.

    A run's model is named after its directory. Results in results.csv are not repeated.

    Raises:
        TaskError: If a task cannot be prepared.
    """
    jobs = [prepare(task, settings) for task in tasks]
    for job in jobs:
        introduce(job, settings)

    def evaluate(run: AblationRun, run_dir: Path) -> Iterator[list[str]]:
        for job in jobs:
            with reported(f"{run}: {job.task.name}", settings.debug) as failures:
                model = load_model(run_dir / "encoder.safetensors", settings.device)
                evaluate_model(replace(model, name=run_dir.name), job, settings, out)
            yield failures

    return evaluate
