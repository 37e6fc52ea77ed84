"""Output of a training run: metrics, checkpoints, skipped steps, despite a full disk."""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from byola_rq.corpus.packed_clips import PackedClips
from byola_rq.corpus.segments import Replacement
from byola_rq.errors import CheckpointError
from byola_rq.runs.checkpoint import save_checkpoint
from byola_rq.runs.metrics import COLUMNS, StepTable, read_metrics
from byola_rq.runtime.distributed import (
    all_gather_json,
    broadcast_bytes,
    is_main,
    raise_on_all_ranks,
)
from byola_rq.runtime.watchdog import Watchdog
from byola_rq.train.meter import DataWait, Meter, packing_advice
from byola_rq.train.quarantine import Quarantine
from byola_rq.train.setup import Run
from byola_rq.train.skipped_steps import SkippedSteps, SkipsInARow, check_same_weights
from byola_rq.train.step import StepOutcome
from byola_rq.train.tensorboard import TensorBoardWriter

KEPT = "; its rows are kept for the next attempt"


class Recorder:
    """Writes the files of a run in `run.dir`, and prints messages about it.

    Every rank has one, for sums over all ranks; only rank 0 writes and prints.

    Args:
        run: Run that is trained.
        data_wait: Measures the wait for batches.
        watchdog: Watchdog of the run, paused during validation.
        should_stop: Returns True if a stop was requested; ends a validation early.
        log: Prints a line.

    Raises:
        CheckpointError: If `run.dir` has a table of another format, or cannot be written.
    """

    def __init__(
        self,
        run: Run,
        *,
        data_wait: DataWait,
        watchdog: Watchdog,
        should_stop: Callable[[], bool],
        log: Callable[[str], None],
    ) -> None:
        self.saved_step = run.state.step  # of the newest checkpoint; 0 if there is none
        self._state = run.state
        self._digest = run.clips.digest
        self._log = log
        self._validation = run.validation
        self._watchdog = watchdog
        self._should_stop = should_stop
        self._tensorboard: TensorBoardWriter | None = None
        self._data_wait = data_wait
        self._has_advised = isinstance(run.clips, PackedClips)
        self._meter = Meter(run.state, data_wait, len(run.clips))
        self._has_collapsed = False
        self._replacements: list[Replacement] = []  # of this rank, since the last row
        self._skips_in_a_row = SkipsInARow()
        with raise_on_all_ranks():
            if is_main():
                self._open_tables(run)

    @property
    def note(self) -> str:
        """Short text for the progress bar."""
        return self._meter.note

    def add(self, outcome: StepOutcome, replacements: Sequence[Replacement]) -> None:
        """Add a step, and write what is due after it.

        Raises:
            CheckpointError: If the checkpoint of the last step cannot be written.
            TrainingError: If too many steps in a row were skipped (checked with every row), or if
                the ranks' weights differ (checked with every checkpoint).
        """
        state = self._state
        config, step = state.config, state.step
        self._advise_packing()
        self._meter.add(outcome)
        self._replacements += replacements
        is_last = step == state.num_steps
        is_save_due = is_last or step % config.checkpoint.every_steps == 0
        is_validation_due = self._validation.is_due(step)
        score, is_best = math.nan, False
        if is_validation_due:
            score, is_best = self._validate()
        if is_save_due or is_validation_due or step % config.train.log_every == 0:
            self._write_row(score)
        if self._tensorboard and step % config.tensorboard.views_every == 0:
            with self._disk_may_fail(self._tensorboard.path, " without this picture"):
                self._tensorboard.write_views(*outcome.views, step)
        is_save_due = is_save_due or is_best
        # Weights that lead to skipped steps may be bad themselves; saving them would prune good
        # checkpoints.
        if is_last or (is_save_due and not self._meter.is_skipped[-1]):
            self._save(is_last=is_last)
        if is_best and self.saved_step == step and is_main():
            self._validation.note_best(step, score)

    def catch_up(self) -> None:
        """Repeat a validation that was interrupted at the step from which the run resumes."""
        state, step = self._state, self._state.step
        if not self._validation.is_open(step):
            return
        score, is_best = self._validate()
        if not is_main() or math.isnan(score):
            return
        path = state.config.run.dir / "metrics.csv"
        rows = read_metrics(path)
        if rows and rows[-1]["step"] == str(step):
            self._metrics = StepTable(path, COLUMNS, step - 1)
            self._append(self._metrics, [{**rows[-1], "validation": score}])
        if is_best:
            self._validation.note_best(step, score)

    def save_rest(self) -> str:
        """Write what is unsaved when a run stops early; return a description of it."""
        step = self._state.step
        if self._meter.has_steps:
            self._write_row()
        if step != self.saved_step and not self._meter.is_skipped[-1]:
            self._save(is_last=False)
        if step == self.saved_step:
            return f"after step {step}, which is saved" if step else "before the first step"
        return f"after step {step}, saved up to step {self.saved_step}"

    def _advise_packing(self) -> None:
        """Print the gain of a packed corpus, once it has been measured."""
        if self._data_wait.share is not None and not self._has_advised:
            self._has_advised = True
            if advice := packing_advice(self._data_wait.share):
                self._log(advice)

    def _open_tables(self, run: Run) -> None:
        config, step = run.config, run.state.step
        self._metrics = StepTable(config.run.dir / "metrics.csv", COLUMNS, step)
        self._skipped_steps = SkippedSteps(
            config.run.dir / "skipped_steps.csv",
            run.clips,
            run.order,
            batch_size=config.train.batch_size,
            last_step=step,
        )
        self._quarantine = Quarantine(config.run.dir / "quarantine.csv", run.clips, self._log)
        self._quarantine.add_unreadable(run.left_out)
        if config.tensorboard.enabled:
            folder = config.run.dir / "tensorboard"
            self._tensorboard = TensorBoardWriter(folder, step, run.state.frontend)

    def _write_row(self, score: float = math.nan) -> None:
        meter, run_dir = self._meter, self._state.config.run.dir
        metrics = replace(meter.read(), validation=score)
        row = asdict(metrics)
        replaced = [each for part in all_gather_json(self._replacements) for each in part]
        self._replacements.clear()
        if is_main():
            self._append(self._metrics, [row])
            self._append(self._skipped_steps, meter.skipped)
            if self._tensorboard:
                with self._disk_may_fail(self._tensorboard.path, KEPT):
                    self._tensorboard.write(metrics)
            if meter.skipped:
                self._log(
                    f"warning: {len(meter.skipped)} of the {len(meter.is_skipped)} steps up to "
                    f"{row['step']} were skipped: their loss or gradient is not finite. "
                    f"{run_dir / 'skipped_steps.csv'} names their clips"
                )
            self._watch_collapse(row["step"])
        self._skips_in_a_row.check(meter.is_skipped, run_dir)
        with raise_on_all_ranks():
            if is_main():
                self._quarantine.add(replaced)

    def _append(self, table: StepTable | SkippedSteps, rows: Sequence[Any]) -> None:
        with self._disk_may_fail(table.path, KEPT):
            table.append(rows)

    @contextlib.contextmanager
    def _disk_may_fail(self, path: Path, what_follows: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._log(
                f"WARNING: {path}: cannot be written ({error}). Training continues{what_follows}"
            )

    def _validate(self) -> tuple[float, bool]:
        # Rank 0 validates while the other ranks wait.
        with self._watchdog.paused():
            return self._validation.score(self._state, self._should_stop)

    def _watch_collapse(self, step: int) -> None:
        """Warn when the embeddings collapse; warn again only after they have recovered."""
        collapse = self._meter.health.collapse if self._meter.health else None
        if collapse and not self._has_collapsed:
            self._log(
                f"warning: step {step}: {collapse}; training no longer distinguishes clips. "
                "A lower optimizer.lr or a byol.ema_decay nearer to 1 may help, in a new run.dir"
            )
        self._has_collapsed = collapse is not None

    def _save(self, *, is_last: bool) -> None:
        check_same_weights(self._state.byol, self._state.config.run.dir)
        # The same in all ranks, also where the disk is full: they decide by it what to do next.
        self.saved_step = int(broadcast_bytes(lambda: self._write_checkpoint(is_last=is_last)))

    def _write_checkpoint(self, *, is_last: bool) -> bytes:
        """Write a checkpoint in rank 0; return the step of the newest one as text."""
        config = self._state.config
        checkpoint = self._state.snapshot(corpus_digest=self._digest)
        try:
            save_checkpoint(
                config.run.dir,
                checkpoint,
                keep=config.checkpoint.keep,
                keep_step=self._validation.best_step,
            )
        except CheckpointError as error:
            if is_last:
                raise
            before = f"step {self.saved_step} is kept" if self.saved_step else "there is none yet"
            self._log(
                f"WARNING: {error}. Training continues without this checkpoint ({before}); "
                f"the next one is due in {config.checkpoint.every_steps} steps: free some space"
            )
            return b"%d" % self.saved_step
        return b"%d" % self._state.step
