"""Watchdog that ends a hanging process after reporting the stacks of its threads and loaders."""

import contextlib
import datetime
import faulthandler
import io
import multiprocessing
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self, TextIO

from byola_rq.runtime.distributed import rank, world_size
from byola_rq.runtime.files import open_own
from byola_rq.runtime.signals import DUMP_STACKS, read_dumped_stacks
from byola_rq.runtime.terminal import warn
from byola_rq.text.shown import shown

# EX_TEMPFAIL of sysexits.h: the same command may succeed. torchrun restarts after it too.
STALLED_STATUS = 75

# Together under the 30 s that torchrun gives a rank after the exit of another one, so that the
# hanging rank reports its stacks even if others noticed the stall first.
_LONGEST_TICK = 10.0  # seconds
_CHILDREN_SECONDS = 2.0  # for loaders to dump their stacks
_REPORT_SECONDS = 10.0  # then it ends without a report: stderr or the disk may hang

_STATES = {"D": "waits for disk or network", "T": "is stopped", "t": "is stopped"}


class Watchdog:
    """Watchdog that ends this process with status 75 if there is no heartbeat for too long.

    It first writes to stderr and to `where/stalled-rank<N>.txt` the current phase, its duration,
    and the stacks of all threads of this process and its loader processes. Time in which the whole
    process is suspended does not count. `faulthandler.dump_traceback_later` alone would count it,
    end with status 1 and ignore loaders.

    A call that hangs with Python's global lock also blocks this watchdog. The stacks still appear
    on stderr, once in every two limits, but the process does not end.

    Args:
        minutes: Maximum time without a heartbeat, in minutes; None disables the watchdog.
        where: Existing directory for the report.
    """

    def __init__(self, minutes: float | None, where: Path) -> None:
        self._limit = None if minutes is None else 60 * minutes  # seconds
        self._where = where
        self._heartbeat = (time.monotonic(), "starting")
        self._num_pauses = 0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Self:
        if self._limit is not None:
            self.heartbeat("starting")
            self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._limit is not None:
            self._is_over.set()
            self._thread.join()

    def heartbeat(self, phase: str) -> None:
        """Report progress and the phase that begins."""
        self._heartbeat = (time.monotonic(), phase)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Suspend the limit in the block."""
        self._num_pauses += 1
        try:
            yield
        finally:
            self.heartbeat(self._heartbeat[1])
            self._num_pauses -= 1

    def _watch(self) -> None:
        assert self._limit is not None
        tick = min(self._limit / 10, _LONGEST_TICK)
        seen, waited, now = self._heartbeat, 0.0, time.monotonic()
        try:
            while not self._is_over.wait(tick):
                # This dumps from C, without Python's lock, if the loop is blocked.
                faulthandler.dump_traceback_later(2 * self._limit, repeat=True, file=2)
                before, now = now, time.monotonic()
                if seen is not self._heartbeat or self._num_pauses:
                    seen, waited = self._heartbeat, 0.0
                    continue
                # In a much longer tick the process was suspended by a scheduler or Ctrl-Z.
                waited += min(now - before, 2 * tick)
                if waited >= self._limit:
                    self._end(seen[1], waited)
        finally:
            faulthandler.cancel_dump_traceback_later()

    def _end(self, phase: str, waited: float) -> None:
        report = threading.Thread(target=self._report, args=(phase, waited), daemon=True)
        report.start()
        report.join(_REPORT_SECONDS)
        os._exit(STALLED_STATUS)

    def _report(self, phase: str, waited: float) -> None:
        assert self._limit is not None
        path = self._where / f"stalled-rank{rank()}.txt"
        line = (
            f"rank {rank()} of {world_size()} (process {os.getpid()} on {socket.gethostname()}) "
            f"stalled: {phase}, for {waited / 60:.3g} minutes now, of at most "
            f"{self._limit / 60:.3g} (run.stall_minutes). The same command resumes from the last "
            f"checkpoint; {path} has the stacks of all threads"
        )
        children = "".join(_stacks_of_children())
        _write_stacks(sys.stderr, shown(f"error: {line}"), children)
        try:
            with io.TextIOWrapper(open_own(path), encoding="utf-8") as file:
                now = datetime.datetime.now(datetime.UTC)
                _write_stacks(file, f"{now:%Y-%m-%d %H:%M:%S} UTC: {line}", children)
        except OSError as error:
            warn(f"warning: {path}: cannot be written ({error})")


def _write_stacks(file: TextIO, line: str, children: str) -> None:
    print(line, file=file, flush=True)
    faulthandler.dump_traceback(file)
    print(children, file=file, flush=True)


def _stacks_of_children() -> Iterator[str]:
    """Collect the stacks of each loader process."""
    children = [child.pid for child in multiprocessing.active_children() if child.pid is not None]
    for pid in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, DUMP_STACKS)
    end = time.monotonic() + _CHILDREN_SECONDS
    for pid in children:
        while not read_dumped_stacks(pid) and time.monotonic() < end:
            time.sleep(0.05)
        time.sleep(0.05)  # for the rest of a dump that has begun
        stacks = read_dumped_stacks(pid)
        yield f"\nloader process {pid} {_state(pid)}\n{stacks or '  it does not answer'}\n"


def _state(pid: int) -> str:
    """Describe the state of a process according to the kernel."""
    try:
        letter = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return "(ended)"
    return _STATES.get(letter, f"is in state {letter}")
