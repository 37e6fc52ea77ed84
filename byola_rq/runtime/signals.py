"""Ctrl-C and signals as `StoppedError`, so that work ends cleanly with one line and a status."""

import contextlib
import ctypes
import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from byola_rq.errors import ByolaRQError

# Schedulers send SIGUSR1 as a notice that they will end the job soon.
RUN_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

DUMP_STACKS = signal.SIGUSR2  # makes a child process dump its stacks

_STACKS = "byola_rq-stacks"
_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl on Linux


class StoppedError(ByolaRQError, RuntimeError):
    """Work was stopped by a signal; the exit status is that of a process killed by it.

    After SIGUSR1 it is 0: the scheduler will run the same command again.
    """

    def __init__(self, message: str, number: int, *, path: Path | None = None) -> None:
        super().__init__(message, code="stopped", path=path, value=signal.Signals(number).name)
        self.number = number
        self.exit_code = 0 if number == signal.SIGUSR1 else 128 + number


class Interruption(BaseException):
    """Raised where a signal arrives; a BaseException, so that no `except Exception` catches it."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


class Stop:
    """Stop request by a signal, which can be deferred."""

    def __init__(self) -> None:
        self._number: int | None = None
        self._num_deferrals = 0

    @property
    def number(self) -> int | None:
        """Signal that requested the stop; None if there was none."""
        return self._number

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Defer a stop to the end of the block, where it raises `Interruption`."""
        self._num_deferrals += 1
        try:
            yield
        finally:
            self._num_deferrals -= 1
        self._raise_if_requested()

    def request_stop(self, number: int) -> None:
        """Request a stop by signal `number`, at once or at the end of a deferral."""
        self._number = number
        self._raise_if_requested()

    def _raise_if_requested(self) -> None:
        if self._number is not None and self._num_deferrals == 0:
            raise Interruption(self._number)


_stop: Stop | None = None  # of the main thread's current work


@contextlib.contextmanager
def stop_on_signals(
    numbers: Sequence[signal.Signals] = (signal.SIGINT, signal.SIGTERM),
    *,
    second_interrupt_kills: bool = False,
) -> Iterator[Stop]:
    """Raise `StoppedError` if one of these signals arrives in the block; ignore later ones.

    The signal raises `Interruption` where it arrives, which is converted at the end of the block.
    Outside the main thread, signals are left unchanged.

    Args:
        numbers: Signals that stop the work.
        second_interrupt_kills: A SIGINT after the first signal ends the process at once, even if
            it hangs outside of Python.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number: int, frame: FrameType | None) -> None:
        del frame
        for each in numbers:
            is_fatal = second_interrupt_kills and each == signal.SIGINT
            signal.signal(each, signal.SIG_DFL if is_fatal else signal.SIG_IGN)
        stop.request_stop(number)

    global _stop  # noqa: PLW0603  # signals are global to the process
    _stop, outer = stop, _stop
    before = [signal.signal(each, handle) for each in numbers]
    try:
        yield stop
    except Interruption as interruption:
        raise StoppedError(str(interruption), interruption.number) from None
    finally:
        _stop = outer
        for each, handler in zip(numbers, before, strict=True):
            signal.signal(each, handler)


@contextlib.contextmanager
def signals_blocked() -> Iterator[None]:
    """Block signals while processes start, until they call `leave_signals_to_parent`.

    A signal to this process takes effect at the end of the block.
    """
    is_main = threading.current_thread() is threading.main_thread()
    # A mask applies to one thread. Another thread may receive the signal, and Python still runs
    # the handler in this one, so the handler is deferred as well.
    with _stop.deferred() if _stop is not None and is_main else contextlib.nullcontext():
        before = signal.pthread_sigmask(signal.SIG_BLOCK, RUN_SIGNALS)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def terminate_at_end_of_input() -> None:
    """Send this process SIGTERM once its standard input ends.

    The writing end of a pipe closes when its process ends in any way, SIGKILL included.
    """

    def watch() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 4096):
                pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="end of input", daemon=True).start()


def leave_signals_to_parent() -> None:
    """Ignore signals sent to the process group in a child process, which ends with its parent.

    After `DUMP_STACKS` the parent can read the stacks of its threads.
    """
    if sys.platform == "linux":
        # The parent finds this memory in /proc, however this process was started.
        faulthandler.register(DUMP_STACKS, file=os.memfd_create(_STACKS))
    for number in RUN_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, RUN_SIGNALS)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
        parent = multiprocessing.parent_process()
        # The parent may have ended before that call. A fork server's child has another parent.
        is_direct = multiprocessing.get_start_method() != "forkserver"
        if parent is not None and is_direct and os.getppid() != parent.pid:
            os.kill(os.getpid(), signal.SIGKILL)


def read_dumped_stacks(pid: int) -> str:
    """Read the stacks that a child process dumped after `DUMP_STACKS`; empty if none yet."""
    folder = Path(f"/proc/{pid}/fd")
    with contextlib.suppress(OSError):
        for descriptor in folder.iterdir():
            if _STACKS in os.readlink(descriptor):
                return descriptor.read_text(errors="replace")
    return ""
