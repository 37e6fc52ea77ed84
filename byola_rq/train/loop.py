"""The training loop: next batch, one step, record, stop on request."""

import contextlib
from pathlib import Path

from byola_rq.config import Config
from byola_rq.corpus.device_batches import DeviceBatches
from byola_rq.corpus.segments import SegmentBatch
from byola_rq.export.run import export_run
from byola_rq.runtime.device import choose_device
from byola_rq.runtime.distributed import (
    broadcast_bytes,
    error_on_all_ranks,
    is_main,
    process_group,
    world_size,
)
from byola_rq.runtime.progress import ProgressBar, log
from byola_rq.runtime.signals import (
    RUN_SIGNALS,
    Interruption,
    Stop,
    StoppedError,
    stop_on_signals,
)
from byola_rq.runtime.stages import stage
from byola_rq.runtime.stop_vote import StopVote
from byola_rq.runtime.threads import compute_threads
from byola_rq.runtime.watchdog import Watchdog
from byola_rq.train.graph import choose_step
from byola_rq.train.meter import DataWait
from byola_rq.train.profiling import StepProfiler
from byola_rq.train.recorder import Recorder
from byola_rq.train.setup import Run, start_run


def pretrain(config: Config, *, reset: bool = False, profile: int | None = None) -> Path:
    """Train an encoder; called again with the same configuration, resume where the run stopped.

    Under torchrun, the processes share every batch; only rank 0 writes.

    Writes to `run.dir`: `config.yaml` (resolved), `metrics.csv`, checkpoints `step-XXXXXXXX/`,
    `skipped_steps.csv` if steps were skipped, `quarantine.csv` if clips were replaced, and at the
    end `encoder.safetensors`.

    SIGTERM, SIGUSR1 and the first Ctrl-C finish the step, save a checkpoint and raise; a second
    Ctrl-C ends the process at once. Signals are handled only if called in the main thread.

    Args:
        config: Configuration of the run.
        reset: First move an existing run in `run.dir` aside, to `run.dir` plus a number.
        profile: Number of steps after which to report their timing; see `StepProfiler`.

    Returns:
        Path of the model file.

    Raises:
        CorpusError, AudioError: If a source or clip cannot be used.
        ConfigError: If the device does not exist, or the processes cannot share the batch.
        CheckpointError: If `run.dir` contains anything else, or a run with another configuration,
            or cannot be written at the start or the end; in between, the run continues.
        TrainingError: If the loss or its gradient is not finite for ten steps in a row.
        LostRankError: If another process of the job ended.
        StoppedError: If a signal stopped the run.
    """
    try:
        with stop_on_signals(RUN_SIGNALS, second_interrupt_kills=True) as stop:
            device = choose_device(config.run.device)
            with (
                compute_threads(config.run.threads, device),
                process_group(device),
                contextlib.ExitStack() as lock,
            ):
                # Ends everything that exchanges gradients before the ranks disconnect.
                _fit(start_run(config, device, lock, reset=reset), stop, profile)
                path = config.run.dir / "encoder.safetensors"
                broadcast_bytes(lambda: bytes(export_run(config.run.dir, path)))
                return path
    except StoppedError as error:
        message = f"{config.run.dir}: {error}; run the same command to resume"
        raise StoppedError(message, error.number, path=config.run.dir) from None


def _fit(run: Run, stop: Stop, profile: int | None) -> None:
    run_dir, device = run.config.run.dir, run.state.device
    profiler = StepProfiler(profile, device, run_dir, log) if profile and is_main() else None
    watchdog = Watchdog(run.config.run.stall_minutes, run_dir)
    Trainer(run, stop=stop, watchdog=watchdog, profiler=profiler).fit()


class Trainer:
    """Trains a run to its end, writing metrics and checkpoints.

    Args:
        run: Run to train.
        stop: Records stop signals.
        watchdog: Ends the process if it hangs.
        profiler: Measures the stages of steps; None for no profile.
    """

    def __init__(
        self, run: Run, *, stop: Stop, watchdog: Watchdog, profiler: StepProfiler | None = None
    ) -> None:
        self.run = run
        self.state = run.state
        self.stop = stop
        self.watchdog = watchdog
        self.profiler = profiler
        self.data_wait = DataWait(run.state.device, run.num_workers)
        self._step = choose_step(run.state)
        self._vote = StopVote()

    def fit(self) -> None:
        """Run the remaining steps.

        Raises:
            CheckpointError: If the last checkpoint cannot be written.
            TrainingError: If too many steps in a row had to be skipped.
            StoppedError: If a signal stopped the run; everything that can be saved is saved.
        """
        state = self.state
        with (
            contextlib.closing(self.run.load_batches()) as batches,
            self.watchdog,
            ProgressBar("pretraining", state.num_steps, done=state.step) as bar,
        ):
            recorder = Recorder(
                self.run,
                data_wait=self.data_wait,
                watchdog=self.watchdog,
                should_stop=lambda: self.stop.number is not None,
                log=bar.log,
            )
            with self.stop.deferred():
                recorder.catch_up()
            try:
                with self._stopped_together(), self.profiler or contextlib.nullcontext():
                    while state.step < state.num_steps:
                        batch = self._next_batch(batches)
                        with self.stop.deferred():
                            recorder.add(self._step(batch), batch.replacements)
                            bar.advance(note=recorder.note)
                        self._end_step()
            except Interruption as interruption:
                stopped = StoppedError(
                    f"{interruption} {recorder.save_rest()}", interruption.number
                )
                raise error_on_all_ranks(stopped) from None

    def _stopped_together(self) -> contextlib.AbstractContextManager[None]:
        """Defer signals to the vote if there are several ranks: all stop after the same step."""
        return self.stop.deferred() if world_size() > 1 else contextlib.nullcontext()

    def _next_batch(self, batches: DeviceBatches) -> SegmentBatch:
        # In a single process, a stop loses nothing while waiting here, however long a disk hangs.
        self.watchdog.heartbeat(f"step {self.state.step + 1}, waiting for its data")
        batches.make_room()  # separate: this waits for a busy device, not for data
        with stage("input"):
            batch = self.data_wait.next_batch(batches)
        self.watchdog.heartbeat(f"step {self.state.step + 1}, computing and saving")
        return batch

    def _end_step(self) -> None:
        """Stop if any rank has received a signal.

        Raises:
            Interruption: In all ranks, if one has.
        """
        if self.profiler:
            self.profiler.end_step()
        number = self._vote.cast(self.stop.number)
        if self.state.step == self.state.num_steps:
            number = number or self._vote.close(self.stop.number)
        if number:
            raise Interruption(number)
