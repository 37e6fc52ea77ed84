"""Worker process with limits of time and memory per item."""

import contextlib
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from byola_rq.errors import ByolaRQError


@dataclass(frozen=True)
class Failure:
    """Reason why there is no result for an item."""

    reason: str


@dataclass(frozen=True)
class Limits:
    """Limits per item: `seconds`, and `gigabytes` of memory beyond an idle worker's."""

    seconds: float = 60.0
    gigabytes: float = 4.0


DONE, FAILED = b"done", b"failed"


def serve(function: Callable[[Any], bytes], connection: Connection, limits: Limits) -> None:
    """Answer items until the other end of the connection is closed.

    An empty message means that the process is ready. Each item is answered with two messages:
    `DONE` and the result of `function`, or `FAILED` and the reason. They are bytes, not pickles:
    a process that has read an untrusted file must not run code in its parent.
    """
    confine(limits)
    with contextlib.suppress(EOFError, OSError):
        connection.send_bytes(b"")
        while True:
            item = connection.recv()
            # The default action of the kernel's timer ends a hang in any code, also if the parent
            # is gone.
            signal.setitimer(signal.ITIMER_REAL, limits.seconds)
            answer = _try(function, item, limits)
            signal.setitimer(signal.ITIMER_REAL, 0)
            for message in answer:
                connection.send_bytes(message)


def receive(connection: Connection, limits: Limits) -> bytes | Failure:
    """Receive the answer to an item.

    Raises:
        EOFError, OSError: If the process has ended, or its answer is larger than its memory.
    """
    kind = connection.recv_bytes(max(len(DONE), len(FAILED)))
    content = connection.recv_bytes(round(limits.gigabytes * 1e9))
    return content if kind == DONE else Failure(content.decode("utf-8", "replace"))


def _try(function: Callable[[Any], bytes], item: Any, limits: Limits) -> tuple[bytes, bytes]:
    try:
        return DONE, function(item)
    except ByolaRQError as error:
        reason = str(error)
    except MemoryError:
        reason = f"decoding takes over {limits.gigabytes:g} GB of memory"
    except Exception as error:
        # A broken file can make a decoder raise anything.
        reason = f"decoding failed: {type(error).__name__}: {error}"
    return FAILED, reason.encode("utf-8", "backslashreplace")


def confine(limits: Limits) -> None:
    """Limit this process's memory, leave Ctrl-C (blocked) to the parent, and discard stderr."""
    import resource

    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    with contextlib.suppress(OSError, ValueError):  # unsupported on some systems
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + round(limits.gigabytes * 1e9)
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        if hard == resource.RLIM_INFINITY or most < hard:
            resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    # Decoders written in C print every bad frame on stderr.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
