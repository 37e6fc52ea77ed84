"""A run's validations: when they are due, scored by rank 0 for all, and the best checkpoint."""

import json
import math
from collections.abc import Callable
from fractions import Fraction

from byola_rq.best import BestCheckpoint, read_best
from byola_rq.config import Config
from byola_rq.errors import ByolaRQError, CheckpointError
from byola_rq.ranks import errors_shared, is_main, shared
from byola_rq.training import Training
from byola_rq.validation import Validation


class RunValidation:
    """Validates a run where `validation.labelled` names a csv; otherwise nothing is ever due.

    All ranks have one and call it at the same steps; rank 0 alone decodes, scores and writes.

    Args:
        config: Of the run.
        num_clips: Of the corpus that is trained on.
        num_steps: Of the whole run.
        say: Prints a line.

    Raises:
        CorpusError, AudioError, MissingPackageError: As `Validation`.
        CheckpointError: If best.json cannot be read.
    """

    def __init__(
        self, config: Config, *, num_clips: int, num_steps: int, say: Callable[[str], None]
    ) -> None:
        self._is_on = config.validation.labelled is not None
        self._run_dir = config.run.dir
        self._num_steps = num_steps
        self._say = say
        # Of the decimal number that was written: 0.1 is a little more than a tenth as a float.
        every_clips = Fraction(str(config.validation.every_epochs)) * num_clips
        self._every_steps = every_clips / config.train.batch_size
        self._kept_step: int | None = None  # of a best checkpoint that nothing is compared with
        with errors_shared():
            if is_main() and self._is_on:
                self._validation = Validation(config)
                self._best = BestCheckpoint(config.run.dir, self._validation.measured_by)
            elif is_main():
                best = read_best(config.run.dir)
                self._kept_step = best.step if best else None

    @property
    def best_step(self) -> int | None:
        """Whose checkpoint must not be pruned; told by rank 0."""
        return self._best.step if self._is_on else self._kept_step

    def is_due(self, step: int) -> bool:
        """Whether `step` is the first at or after a multiple of `every_epochs`, or the last."""
        if not self._is_on or step < 1:
            return False
        return step == self._num_steps or (
            step // self._every_steps > (step - 1) // self._every_steps
        )

    def is_open(self, step: int) -> bool:
        """Whether the validation due at the step that a run goes on from has to be done (again).

        A stop may have met it, or a crash come before its checkpoint, the best, was noted.
        """

        def ask() -> bytes:
            return json.dumps(self._best.step != step).encode()

        return self.is_due(step) and bool(json.loads(shared(ask)))

    def score(self, training: Training, should_stop: Callable[[], bool]) -> tuple[float, bool]:
        """Validate the encoder as it is.

        Args:
            training: Left as it is.
            should_stop: Asked about every second, in rank 0.

        Returns:
            Accuracy in percent, nan where there is none: stopped, an embedding not finite, or a
            clip not there any more, which is said. And whether it is the best so far: then its
            checkpoint has to be saved and `note_best` called. The same in all ranks.
        """

        def measure() -> bytes:
            try:
                score = self._validation.score(training, should_stop)
            except ByolaRQError as error:
                self._say(f"WARNING: {error}. Training goes on without this validation")
                score = None
            score = math.nan if score is None else score
            return json.dumps([score, self._best.is_beaten_by(score)]).encode()

        score, is_best = json.loads(shared(measure))
        return score, is_best

    def note_best(self, step: int, score: float) -> None:
        """Write down, in rank 0, that a step whose checkpoint is saved is the best."""
        try:
            self._best.note(step, score)
        except CheckpointError as error:
            self._say(f"WARNING: {error}. Training goes on; the best is the one before")
