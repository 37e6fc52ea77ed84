"""What a run writes while it trains: metrics, checkpoints, skipped steps; also past a full disk."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from byola_rq.checkpoint import save_checkpoint
from byola_rq.clips import Clips
from byola_rq.data_wait import DataWait
from byola_rq.errors import CheckpointError
from byola_rq.guards import SkippedSteps, SkipsInARow, refuse_divergence
from byola_rq.meter import Meter
from byola_rq.metrics import COLUMNS, StepTable
from byola_rq.order import ClipOrder
from byola_rq.ranks import errors_shared, is_main
from byola_rq.training import StepOutcome, Training


class RunRecord:
    """Writes what a run leaves in `run.dir`, and says what its user should know.

    All ranks have one, for the sums over them; rank 0 alone writes and speaks.

    Args:
        training: Whose steps they are.
        clips: What it learns from.
        order: In which it does.
        data_wait: Through which the batches are taken.
        say: Prints a line.

    Raises:
        CheckpointError: If `run.dir` holds a table of another format, or cannot be written.
    """

    def __init__(
        self,
        training: Training,
        clips: Clips,
        order: ClipOrder,
        data_wait: DataWait,
        say: Callable[[str], None],
    ) -> None:
        self.saved_step = training.step  # of the newest checkpoint; 0 where there is none
        self._training = training
        self._digest = clips.digest
        self._say = say
        self._meter = Meter(training, data_wait, len(clips))
        self._has_collapsed = False
        self._skips_in_a_row = SkipsInARow()
        with errors_shared():
            if is_main():
                self._open_tables(clips, order)

    @property
    def note(self) -> str:
        """A few words for the progress bar."""
        return self._meter.note

    def add(self, outcome: StepOutcome) -> None:
        """Take a step in, and write what is due after it.

        Raises:
            CheckpointError: If the checkpoint of the last step cannot be written.
            TrainingError: If too many steps in a row were skipped, looked at with every row; or if
                the ranks' weights differ, looked at with every checkpoint.
        """
        training = self._training
        config, step = training.config, training.step
        self._meter.add(outcome)
        is_last = step == training.num_steps
        is_save_due = is_last or step % config.checkpoint.every_steps == 0
        if is_save_due or step % config.train.log_every == 0:
            self._write_row()
        # The weights that lead to skipped steps may be bad themselves, and would push good
        # checkpoints out.
        if is_last or (is_save_due and not self._meter.is_skipped[-1]):
            self._save(is_last=is_last)

    def save_rest(self) -> str:
        """Write what is not written yet, in the middle of a run; says what that was."""
        step = self._training.step
        if self._meter.has_steps:
            self._write_row()
        if step != self.saved_step and not self._meter.is_skipped[-1]:
            self._save(is_last=False)
        if step == self.saved_step:
            return f"after step {step}, which is saved" if step else "before the first step"
        return f"after step {step}, saved up to step {self.saved_step}"

    def _open_tables(self, clips: Clips, order: ClipOrder) -> None:
        config, step = self._training.config, self._training.step
        self._metrics = StepTable(config.run.dir / "metrics.csv", COLUMNS, step)
        self._skipped_steps = SkippedSteps(
            config.run.dir / "skipped_steps.csv",
            clips,
            order,
            batch_size=config.train.batch_size,
            last_step=step,
        )

    def _write_row(self) -> None:
        meter, run_dir = self._meter, self._training.config.run.dir
        row = asdict(meter.read())
        if is_main():
            self._append(self._metrics, [row])
            self._append(self._skipped_steps, meter.skipped)
            if meter.skipped:
                self._say(
                    f"warning: {len(meter.skipped)} of the {len(meter.is_skipped)} steps up to "
                    f"{row['step']} were skipped: their loss or gradient is not finite. "
                    f"{run_dir / 'skipped_steps.csv'} names their clips"
                )
            self._watch_collapse(row["step"])
        self._skips_in_a_row.refuse_many(meter.is_skipped, run_dir)

    def _append(self, table: StepTable | SkippedSteps, rows: Sequence[Any]) -> None:
        try:
            table.append(rows)
        except OSError as error:
            self._say(
                f"WARNING: {table.path}: cannot be written ({error}). Training goes on; "
                "these rows are written with the next ones that can be"
            )

    def _watch_collapse(self, step: int) -> None:
        """Warn when the embeddings collapse; again only after they have recovered."""
        collapse = self._meter.health.collapse if self._meter.health else None
        if collapse and not self._has_collapsed:
            self._say(
                f"warning: step {step}: {collapse}; what is learned now tells no clips apart. "
                "A lower optimizer.lr or a byol.ema_decay nearer to 1 may help, in a new run.dir"
            )
        self._has_collapsed = collapse is not None

    def _save(self, *, is_last: bool) -> None:
        refuse_divergence(self._training.byol, self._training.config.run.dir)
        # What can fail in rank 0 alone must not leave the others waiting for it.
        with errors_shared() if is_last else contextlib.nullcontext():
            if is_main():
                self._write_checkpoint(is_last=is_last)
        if not is_main():
            self.saved_step = self._training.step

    def _write_checkpoint(self, *, is_last: bool) -> None:
        config = self._training.config
        checkpoint = self._training.snapshot(corpus_digest=self._digest)
        try:
            save_checkpoint(config.run.dir, checkpoint, keep=config.checkpoint.keep)
        except CheckpointError as error:
            if is_last:
                raise
            before = f"that of step {self.saved_step} stays" if self.saved_step else "there is none"
            self._say(
                f"WARNING: {error}. Training goes on without this checkpoint ({before}); "
                f"the next one is due in {config.checkpoint.every_steps} steps: make room"
            )
        else:
            self.saved_step = self._training.step
