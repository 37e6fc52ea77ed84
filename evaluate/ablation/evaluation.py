"""Evaluates one trained run after the other; what they share is read once."""

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
    """Evaluation on these tasks, whose results are appended to those of an output folder.

    A run's model is called there as its directory. What results.csv has is not done again.
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
