"""Concurrent runs: each is trained in its own process, then evaluated in this one."""

import contextlib
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from byola_rq.errors import ByolaRQError
from byola_rq.runtime.lock import LockedError
from byola_rq.runtime.progress import log
from byola_rq.runtime.signals import RUN_SIGNALS, Stop, StoppedError, stop_on_signals
from evaluate.ablation.grid import AblationRun
from evaluate.ablation.runs import Training, find_place, is_trained, locked_run, read_progress
from evaluate.reports.records import WriteError

_SECONDS_BETWEEN_LOOKS = 0.2
_SECONDS_BETWEEN_LINES = 60.0
_MAX_TRAINED = 64  # runs that wait for their evaluation; each holds an open lock file
_FREE_BYTES = 2**28  # two checkpoints of D = 512 take 170 MB

# Evaluates the model of a run; yields the failures of each task.
Evaluate = Callable[[AblationRun, Path], Iterator[list[str]]]


@dataclass(frozen=True)
class Outcome:
    """Outcome of a call's runs."""

    failed: tuple[str, ...]  # one message per failure
    elsewhere: tuple[AblationRun, ...]  # locked by other calls


class Workbench:
    """Queue that trains and evaluates runs, `jobs` trainings at a time.

    Args:
        out: Output folder.
        runs: Runs, in the order to train them.
        jobs: Number of concurrent trainings.
        stop: Defers signals while a process starts.
    """

    def __init__(self, out: Path, runs: Sequence[AblationRun], *, jobs: int, stop: Stop) -> None:
        self.out = out
        self.jobs = jobs
        self.num_runs = len(runs)
        self.failed: list[str] = []
        self.elsewhere: list[AblationRun] = []
        self._stop = stop
        self._waiting = deque(runs)
        self._locks: dict[AblationRun, contextlib.ExitStack] = {}
        self._trainings: list[Training] = []
        self._to_evaluate: deque[tuple[AblationRun, Path]] = deque()
        self._num_started = 0
        self._last_line = time.monotonic()

    def work(self, evaluate: Evaluate) -> None:
        """Train and evaluate all runs.

        Raises:
            ReportError: If results cannot be written: later ones would be lost too.
        """
        while self._waiting or self._trainings or self._to_evaluate:
            self._keep_training()
            if not self._to_evaluate:
                time.sleep(_SECONDS_BETWEEN_LOOKS)
                continue
            run, run_dir = self._to_evaluate.popleft()
            for failures in evaluate(run, run_dir):
                self.failed += failures
                self._keep_training()  # an evaluation may take longer than a training
            self._locks.pop(run).close()

    def close(self) -> None:
        """Stop all trainings, wait until they are saved, release locks."""
        trainings = [training for training in self._trainings if not training.has_ended]
        if trainings:
            log(f"stopping {len(trainings)} trainings: each finishes its step and saves")
        for training in trainings:
            training.stop()
        for training in trainings:
            training.wait()
        for lock in self._locks.values():
            lock.close()

    def _keep_training(self) -> None:
        """Queue ended trainings for evaluation, and start others in their place."""
        for training in [each for each in self._trainings if each.has_ended]:
            self._trainings.remove(training)
            self._take_in(training)
        while (
            self._waiting
            and len(self._trainings) < self.jobs
            and len(self._to_evaluate) < _MAX_TRAINED
        ):
            with self._stop.deferred():
                self._begin(self._waiting.popleft())
        if time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            if self._trainings:
                log("; ".join(map(_describe, self._trainings)))

    def _begin(self, run: AblationRun) -> None:
        self._num_started += 1
        number = f"[{self._num_started}/{self.num_runs}] {run}"
        lock = contextlib.ExitStack()
        try:
            lock.enter_context(locked_run(self.out, run))
        except LockedError as error:
            log(f"{number}: left to another call ({error})")
            self.elsewhere.append(run)
            return
        self._locks[run] = lock
        run_dir = find_place(self.out, run)
        if is_trained(run_dir):
            log(f"{number}: trained already, {run_dir}")
            self._to_evaluate.append((run, run_dir))
            return
        self._need_space()
        log(f"{number}: training, {run_dir}")
        self._trainings.append(Training(run, run_dir))

    def _need_space(self) -> None:
        """Raise before a training whose checkpoints would not fit: each would fail at its end."""
        free = shutil.disk_usage(self.out).free
        if free < _FREE_BYTES:
            raise WriteError(
                f"{self.out}: must have {_FREE_BYTES >> 20} MiB free for another run; has "
                f"{free >> 20}. Free disk space and repeat the call to continue",
                code="unwritable",
                path=self.out,
                value=free,
            )

    def _take_in(self, training: Training) -> None:
        run = training.run
        try:
            training.check()
        except ByolaRQError as error:
            log(f"error: {error}")
            self.failed.append(str(error))
            self._locks.pop(run).close()
            return
        log(f"{_describe(training)}: trained")
        self._to_evaluate.append((run, training.run_dir))


def do_runs(out: Path, runs: Sequence[AblationRun], evaluate: Evaluate, *, jobs: int) -> Outcome:
    """Train and evaluate runs; a failed run is reported, and the others continue.

    Args:
        out: Output folder, which other calls may share.
        runs: Runs of this call.
        evaluate: Evaluates a trained run, see `Evaluate`.
        jobs: Number of concurrent trainings.

    Raises:
        StoppedError: If a signal stopped it, after trainings have saved.
        ReportError: If the folder cannot be written.
    """
    try:
        with stop_on_signals(RUN_SIGNALS, second_interrupt_kills=True) as stop:
            bench = Workbench(out, runs, jobs=jobs, stop=stop)
            try:
                bench.work(evaluate)
            finally:
                bench.close()
    except StoppedError as error:
        message = f"{out}: {error}; finished work is kept, repeat the command to continue"
        raise StoppedError(message, error.number, path=out) from None
    return Outcome(tuple(bench.failed), tuple(bench.elsewhere))


def _describe(training: Training) -> str:
    progress = read_progress(training.run_dir, training.run.config.train.batch_size)
    total = training.run.num_segments
    share = f" of {total:,}" if total else ""
    return f"{training.run}: {progress.segments:,}{share} segments, loss {progress.loss}"
