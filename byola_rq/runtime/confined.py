"""Stream of messages from a subprocess that isolates hangs, crashes and memory exhaustion.

The workers of `byola_rq.runtime.workers` share many items; this process reads one file at a time.
It is a new interpreter, so scripts need no `if __name__ == "__main__"` guard.
"""

import contextlib
import importlib
import json
import math
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterable
from multiprocessing.connection import Connection
from typing import Any

from byola_rq.errors import ByolaRQError
from byola_rq.runtime.sandbox import DONE, FAILED, Limits, confine

_END = b"end"
_IDLE_SECONDS = 10.0  # time that a process waits for its next stream
_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from byola_rq.runtime.confined import main; main(*sys.argv[2:])"
)

_lock = threading.Lock()
_idle: list["_Reader"] = []


class ConfinedError(ByolaRQError):
    """Error that the other process raised, or the way it ended."""


def stream(
    module: str, function: str, *arguments: Any, limits: Limits, most: int
) -> Generator[bytes, None, None]:
    """Run a function in another process, which alone imports its module; yield its messages.

    Args:
        module: Full name of the module.
        function: Name of a function of the module that returns an iterable of bytes.
        arguments: JSON-serializable arguments.
        limits: Limits of the process's memory and of the time per message.
        most: Maximum number of bytes per message.

    Raises:
        ConfinedError: If the function raises, or the process hangs, dies or sends too much.
    """
    reader = _take_idle(limits) or _Reader(limits)
    try:
        reader.send([module, function, arguments])
        while isinstance(message := reader.receive(most), bytes):
            yield message
    except BaseException:
        reader.kill()
        raise
    reader.idle_since = time.monotonic()
    with _lock:
        _idle.append(reader)
    if message is not None:
        raise message


def _take_idle(limits: Limits) -> "_Reader | None":
    """Take an idle process with these limits; drop those that have ended."""
    with _lock:
        for reader in [*_idle]:
            if reader.limits != limits:
                continue
            _idle.remove(reader)
            if reader.is_alive():
                return reader
            reader.kill()
    return None


class _Reader:
    """Handle of the subprocess."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.idle_since = math.inf
        self._owner = os.getpid()
        ours, theirs = socket.socketpair()
        self._connection = Connection(ours.detach())
        with theirs:
            command = [sys.executable, "-c", _START, json.dumps(sys.path), str(theirs.fileno())]
            self._process = subprocess.Popen(  # noqa: S603  our own code
                [*command, repr(limits.seconds), repr(limits.gigabytes)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )

    def is_alive(self) -> bool:
        """Return whether it is waiting, and belongs to this process rather than its parent."""
        # One that is about to end would accept a request and never answer it.
        if self._owner != os.getpid() or time.monotonic() > self.idle_since + _IDLE_SECONDS / 2:
            return False
        # It never sends unasked: readable means it has ended.
        return not select.select([self._connection], [], [], 0)[0]

    def send(self, request: list[Any]) -> None:
        with contextlib.suppress(OSError):  # `receive` reports that it has ended
            self._connection.send_bytes(json.dumps(request).encode())

    def receive(self, most: int) -> bytes | ConfinedError | None:
        """Receive the next message; after the last one the error raised there, or None."""
        try:
            kind = self._connection.recv_bytes(max(map(len, (DONE, FAILED, _END))))
            if kind == _END:
                return None
            content = self._connection.recv_bytes(most)
        except (EOFError, OSError):
            raise self._how_it_ended() from None
        if kind == DONE:
            return content
        facts = json.loads(content)
        return ConfinedError(facts.pop("message"), **facts)

    def kill(self) -> None:
        """Kill the subprocess, unless it is the child of another process."""
        self._connection.close()
        if self._owner == os.getpid():
            self._process.kill()
            self._process.wait()

    def _how_it_ended(self) -> ConfinedError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        code = self._process.returncode
        if code == -signal.SIGALRM:
            return ConfinedError(f"reading took over {self.limits.seconds:g} s", code="too-large")
        if code is None:
            return ConfinedError("reading returned too much data", code="too-large")
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return ConfinedError(f"reading crashed ({how})", code="damaged")


def main(descriptor: str, seconds: str, gigabytes: str) -> None:
    """Serve streams in the subprocess until it has been idle for too long."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and closes
    limits = Limits(float(seconds), float(gigabytes))
    with Connection(int(descriptor)) as connection, contextlib.suppress(EOFError, OSError):
        is_confined = False
        while connection.poll(_IDLE_SECONDS):
            module, name, arguments = json.loads(connection.recv_bytes())
            function = getattr(importlib.import_module(module), name)
            if not is_confined:  # after all imports, which take memory
                confine(limits)
                is_confined = True
            _answer(connection, function(*arguments), limits)


def _answer(connection: Connection, messages: Iterable[bytes], limits: Limits) -> None:
    """Send all messages and an end mark, or the failure."""
    iterator = iter(messages)
    try:
        while True:
            signal.setitimer(signal.ITIMER_REAL, limits.seconds)
            message = next(iterator, None)
            signal.setitimer(signal.ITIMER_REAL, 0)
            if message is None:
                connection.send_bytes(_END)
                return
            connection.send_bytes(DONE)
            connection.send_bytes(message)
    except ByolaRQError as error:
        facts = {"message": str(error), "code": error.code, "key": error.key, "value": error.value}
    except MemoryError:
        reason = f"reading takes over {limits.gigabytes:g} GB of memory"
        facts = {"message": reason, "code": "too-large"}
    signal.setitimer(signal.ITIMER_REAL, 0)
    connection.send_bytes(FAILED)
    connection.send_bytes(json.dumps(facts, default=str).encode())
