"""Record of the checkpoint with a run's best validation score, best.json."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

from byola_rq.errors import CheckpointError
from byola_rq.runs.checkpoint import Checkpoint, checkpoint_path, find_damage, load_checkpoint
from byola_rq.runtime.files import replace_file
from byola_rq.text.parse import read_json


@dataclass(frozen=True)
class Best:
    """Content of best.json: step, score in percent, and digest of the validation."""

    step: int
    score: float
    measured_by: str


class BestCheckpoint:
    """Tracker of a run's best score; best.json always names an existing checkpoint.

    The checkpoint of a step must be saved before `note` is called; until then `step` is the
    previous best, which pruning keeps.

    Args:
        run_dir: Directory of the run; an existing best.json is read.
        measured_by: `Validation.measured_by`. If the recorded score was measured by another
            validation, or its checkpoint is lost, the next score becomes the best.

    Raises:
        CheckpointError: If best.json cannot be read.
    """

    def __init__(self, run_dir: Path, measured_by: str) -> None:
        self._run_dir = run_dir
        self._measured_by = measured_by
        best = read_best(run_dir)
        self.step = best.step if best else None
        is_comparable = (
            best is not None
            and best.measured_by == measured_by
            and find_damage(checkpoint_path(run_dir, best.step)) is None
        )
        self._score = best.score if best and is_comparable else -math.inf

    def is_beaten_by(self, score: float) -> bool:
        """Return whether a score in percent exceeds the best so far; False for NaN."""
        return score > self._score

    def note(self, step: int, score: float) -> None:
        """Record atomically that a step, whose checkpoint is saved, is the best.

        Raises:
            CheckpointError: If best.json cannot be written; the previous best then remains.
        """
        path = self._run_dir / "best.json"
        try:
            replace_file(path, json.dumps(asdict(Best(step, score, self._measured_by)), indent=1))
        except OSError as error:
            message = f"{path}: cannot be written ({error})"
            raise CheckpointError(message, code="unwritable", path=path) from error
        self.step, self._score = step, score


def read_best(run_dir: Path) -> Best | None:
    """Read best.json; None if there is none.

    Raises:
        CheckpointError: If best.json cannot be read or is malformed.
    """
    path = run_dir / "best.json"
    try:
        values = read_json(path, {"step": int, "score": float, "measured_by": str})
        best = Best(values["step"], float(values["score"]), values["measured_by"])
    except FileNotFoundError:
        return None
    except OSError as error:
        message = f"{path}: cannot be read ({error})"
        raise CheckpointError(message, code="unreadable", path=path) from error
    except ValueError as error:
        message = (
            f"{path}: must hold step, score and measured_by ({error}); "
            "remove it: the next validation writes another"
        )
        raise CheckpointError(message, code="malformed", path=path) from error
    if best.step < 1 or not math.isfinite(best.score):
        message = (
            f"{path}: step must be at least 1 and score finite; got {best.step} and "
            f"{best.score}. Remove it: the next validation writes another"
        )
        raise CheckpointError(message, code="value", path=path)
    return best


def load_best_checkpoint(run_dir: Path) -> Checkpoint:
    """Read the checkpoint that best.json names.

    Raises:
        CheckpointError: If there is no best.json, or its checkpoint is missing or damaged.
    """
    best = read_best(run_dir)
    if best is None:
        message = (
            f"{run_dir}: no best checkpoint in it; a run records one if validation.labelled names "
            "a csv"
        )
        raise CheckpointError(message, code="missing", path=run_dir)
    try:
        return load_checkpoint(run_dir, best.step)
    except CheckpointError as error:
        raise CheckpointError(
            f"{error}; {run_dir / 'best.json'} names it as the best. The newest one can still be "
            "used, without --best",
            **error.facts,
        ) from error
