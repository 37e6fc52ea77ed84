"""Ctrl-C and signals as an error of ours: work is left in order, with one line and a status."""

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

# Beside them, schedulers send SIGUSR1 as a notice that they will end the work soon.
RUN_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

DUMP_STACKS = signal.SIGUSR2  # what makes a child process say where it is

_STACKS = "byola_rq-stacks"
_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux' prctl


class StoppedError(ByolaRQError, RuntimeError):
    """Work was stopped from outside; the status is that of a process its signal ended.

    After SIGUSR1 it is 0: whoever sends that means to give the same command again.
    """

    def __init__(self, message: str, number: int, *, path: Path | None = None) -> None:
        super().__init__(message, code="stopped", path=path, value=signal.Signals(number).name)
        self.number = number
        self.exit_code = 0 if number == signal.SIGUSR1 else 128 + number


class Interruption(BaseException):
    """Raised where a signal meets the work; no `except Exception` in its way may take it."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


class Stop:
    """Whether a signal has asked to stop, and whether it may do so now."""

    def __init__(self) -> None:
        self._number: int | None = None
        self._num_holds = 0

    @property
    def number(self) -> int | None:
        """The signal that has asked; None where none has."""
        return self._number

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Work that must not be torn: a signal that meets it raises `Interruption` at its end."""
        self._num_holds += 1
        try:
            yield
        finally:
            self._num_holds -= 1
        self._raise_if_asked()

    def ask(self, number: int) -> None:
        """What a signal does."""
        self._number = number
        self._raise_if_asked()

    def _raise_if_asked(self) -> None:
        if self._number is not None and self._num_holds == 0:
            raise Interruption(self._number)


_stop: Stop | None = None  # of the work that the main thread is doing


@contextlib.contextmanager
def stop_on_signals(
    numbers: Sequence[signal.Signals] = (signal.SIGINT, signal.SIGTERM),
    *,
    second_interrupt_kills: bool = False,
) -> Iterator[Stop]:
    """Raise `StoppedError` if one of these signals meets the work; ignore those after the first.

    Where the signal meets it, that is an `Interruption`, which becomes the error on leaving.
    Elsewhere than in the main thread signals are left as they are.

    Args:
        numbers: Signals that stop.
        second_interrupt_kills: Whether a SIGINT after the first signal ends the process at once,
            also where it hangs outside of Python.
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
        stop.ask(number)

    global _stop  # noqa: PLW0603  # signals are the process' own, and so is what they stop
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
    """Start processes in it: no signal meets one before `leave_signals_to_parent`.

    One that meets this process takes effect at the end.
    """
    is_main = threading.current_thread() is threading.main_thread()
    # A mask is its thread's own. Where there are others, one of them takes the signal in, and
    # Python's handler runs here all the same: it has to be held too.
    with _stop.held() if _stop is not None and is_main else contextlib.nullcontext():
        before = signal.pthread_sigmask(signal.SIG_BLOCK, RUN_SIGNALS)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_signals_to_parent() -> None:
    """In a child process: signals sent to the whole group are the parent's, and it ends with it.

    After `DUMP_STACKS` the parent can read where its threads are.
    """
    if sys.platform == "linux":
        # Memory that the parent finds in /proc, whichever way this process was started.
        faulthandler.register(DUMP_STACKS, file=os.memfd_create(_STACKS))
    for number in RUN_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, RUN_SIGNALS)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
        parent = multiprocessing.parent_process()
        # It may have ended before that call. The parent of a fork server's child is the server.
        is_direct = multiprocessing.get_start_method() != "forkserver"
        if parent is not None and is_direct and os.getppid() != parent.pid:
            os.kill(os.getpid(), signal.SIGKILL)


def read_dumped_stacks(pid: int) -> str:
    """What a child process has dumped after `DUMP_STACKS`; empty where there is nothing yet."""
    folder = Path(f"/proc/{pid}/fd")
    with contextlib.suppress(OSError):
        for descriptor in folder.iterdir():
            if _STACKS in os.readlink(descriptor):
                return descriptor.read_text(errors="replace")
    return ""
