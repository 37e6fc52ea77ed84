"""Ctrl-C and SIGTERM as an error of ours: work is left in order, with one line and a status."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from byola_rq.errors import ByolaRQError

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StoppedError(ByolaRQError, RuntimeError):
    """Work was stopped from outside; the status is that of a process its signal ended."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number
        self.exit_code = 128 + number


@contextlib.contextmanager
def stop_on_signals() -> Iterator[None]:
    """Raise `StoppedError` where the first SIGINT or SIGTERM meets the work; ignore those after it.

    Elsewhere than in the main thread signals are left as they are.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        del frame
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise StoppedError(f"stopped by {signal.Signals(number).name}", number)

    before = [signal.signal(each, stop) for each in _SIGNALS]
    try:
        yield
    finally:
        for each, handler in zip(_SIGNALS, before, strict=True):
            signal.signal(each, handler)
