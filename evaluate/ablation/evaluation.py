"""Evaluate trained runs one after the other; tasks are prepared once."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from evaluate.ablation.grid import AblationRun
from evaluate.ablation.work import Evaluate
from evaluate.models import load_model
from evaluate.protocol import Job, Settings, prepare
from evaluate.runner import evaluate_model, reported
from evaluate.tasks.task import Task


def evaluator(out: Path, tasks: Sequence[Task], settings: Settings) -> Evaluate:
    """Make a function that evaluates a run on tasks and appends the results to an output folder.

    A run's model is named after its directory. Results in results.csv are not repeated.
    """
    prepared: dict[str, Job] = {}

    def evaluate(run: AblationRun, run_dir: Path) -> Iterator[list[str]]:
        for task in tasks:
            with reported(f"{run}: {task.name}", settings.debug) as failures:
                if task.name not in prepared:
                    prepared[task.name] = prepare(task, settings)
                model = load_model(run_dir / "encoder.safetensors", settings.device)
                named = replace(model, name=run_dir.name)
                evaluate_model(named, prepared[task.name], settings, out)
            yield failures

    return evaluate
