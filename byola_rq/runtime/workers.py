"""Pool of worker processes that isolates hangs, crashes and memory exhaustion."""

import contextlib
import functools
import multiprocessing
import os
import signal
from collections.abc import Callable, Generator, Iterable, Iterator
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

from byola_rq.errors import ByolaRQError
from byola_rq.runtime.files import need_open_files
from byola_rq.runtime.sandbox import Failure, Limits, receive, serve

Item = TypeVar("Item")

# Limit of results that wait for an earlier one; no item is begun above it.
MAX_WAITING_BYTES = 2**28

# Pipes, sockets and process handles. If too few files can be opened, each process would end with
# its own traceback.
FILES_OF_POOL = 12
FILES_OF_WORKER = 4

_TRIES = 2  # per item: a worker may be killed because of another process
_STARTS = 3  # consecutive failures to start a worker
_SECONDS_TO_DIE = 10.0
# Sent to whole process groups: not caused by an item.
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class WorkerError(ByolaRQError, RuntimeError):
    """Worker processes cannot be started."""

    exit_code = 1


def count_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def map_in_processes(
    function: Callable[[Item], bytes],
    items: Iterable[Item],
    *,
    num_workers: int,
    limits: Limits,
) -> Generator[bytes | Failure, None, None]:
    """Iterate over results of `function` in the order of `items`; an error becomes a Failure.

    A worker has one item at a time. It is killed if the item takes too long and replaced if it
    dies; the item of a dead worker is tried once more. Only the calling process receives Ctrl-C,
    and the workers end with it, however it ends.

    Args:
        function: Importable function, run in the workers. What it raises becomes the item's
            Failure.
        items: Items, taken one by one as workers become free.
        num_workers: Number of processes, at least one.
        limits: Limits of each item.

    Yields:
        One result for each item. Waiting results take at most `MAX_WAITING_BYTES` plus one result
        per worker.

    Raises:
        WorkerError: If the workers cannot be started.
        OSError: If this process may not open enough files.
    """
    pool = [_Worker(function, limits) for _ in range(max(num_workers, 1))]
    need_open_files(FILES_OF_POOL + len(pool) * FILES_OF_WORKER)
    try:
        for worker in pool:
            worker.start()
        yield from _run(pool, enumerate(items))
    finally:
        for worker in pool:
            worker.kill()


def _run(
    pool: "list[_Worker[Item]]", items: Iterator[tuple[int, Item]]
) -> Iterator[bytes | Failure]:
    waiting: dict[int, bytes | Failure] = {}
    waiting_bytes = turn = 0  # turn: the number of the result to yield next
    is_exhausted = False
    while True:
        for worker in pool:
            if worker.is_idle and not is_exhausted and waiting_bytes < MAX_WAITING_BYTES:
                if (task := next(items, None)) is None:
                    is_exhausted = True
                else:
                    worker.give(task)
        if is_exhausted and all(worker.task is None for worker in pool):
            return
        # The worker of the next result to yield is always among them.
        busy = {worker.connection: worker for worker in pool if not worker.is_idle}
        for connection in wait(list(busy)):
            if (answer := busy[connection].take()) is not None:  # type: ignore[index]
                waiting[answer[0]] = answer[1]
                waiting_bytes += _size(answer[1])
        while turn in waiting:
            result = waiting.pop(turn)
            waiting_bytes -= _size(result)
            turn += 1
            yield result


def _size(result: bytes | Failure) -> int:
    return 0 if isinstance(result, Failure) else len(result)


class _Worker(Generic[Item]):
    """Handle of a worker process, which is replaced when it dies."""

    def __init__(self, function: Callable[[Item], bytes], limits: Limits) -> None:
        self.task: tuple[int, Item] | None = None
        self._function = function
        self._limits = limits
        self._process: BaseProcess | None = None
        self._is_ready = False
        self._tries = 0
        self._failed_starts = 0

    @property
    def is_idle(self) -> bool:
        return self._is_ready and self.task is None

    def start(self) -> None:
        # Forked from a server that has imported the function's module: a worker starts in 10 ms
        # and shares the memory of the imports. The server inherits this process's signal mask, but
        # nothing else.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([_module_of(self._function)])
        self._is_ready = False
        # Otherwise it would start with the first process and unblock the signals again.
        resource_tracker.ensure_running()
        self.connection, theirs = context.Pipe()
        process = context.Process(
            target=serve, args=(self._function, theirs, self._limits), daemon=True
        )
        # The process inherits the mask and gets no signal before it is ready.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
        try:
            process.start()
            self._process = process
        except (OSError, EOFError) as error:
            # The server is gone, or the system is out of processes.
            self._count_failed_start(str(error) or type(error).__name__)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()

    def give(self, task: tuple[int, Item]) -> None:
        self.task, self._tries = task, 1
        self._send()

    def take(self) -> tuple[int, bytes | Failure] | None:
        """Read a message: return the number of the task and its answer, or None."""
        try:
            if self._is_ready:
                return self._answer(receive(self.connection, self._limits))
            self.connection.recv_bytes(0)
        except (EOFError, OSError):
            return self._replace()
        self._is_ready = True  # the first message
        self._failed_starts = 0
        if self.task is not None:
            self._send()
        return None

    def kill(self) -> int:
        """Kill the process if it is running; return its exit code."""
        process, self._process = self._process, None
        if process is None:
            return 0
        self.connection.close()
        process.kill()
        process.join()
        return process.exitcode or 0

    def _count_failed_start(self, reason: str) -> None:
        self._failed_starts += 1
        if self._failed_starts >= _STARTS:
            message = f"decoding processes must start; one ended with {reason}"
            raise WorkerError(message, code="unreachable", value=reason)

    def _send(self) -> None:
        assert self.task is not None
        # A worker that died while idle is noticed at the end of its connection.
        with contextlib.suppress(OSError):
            self.connection.send(self.task[1])

    def _answer(self, answer: bytes | Failure) -> tuple[int, bytes | Failure]:
        assert self.task is not None
        number, self.task = self.task[0], None
        return number, answer

    def _replace(self) -> tuple[int, bytes | Failure] | None:
        """Start a successor, which gets the task again unless the task has failed."""
        was_started, was_ready = self._process is not None, self._is_ready
        if self._process is not None:
            self._process.join(_SECONDS_TO_DIE)
        code = self.kill()
        if was_started and not was_ready and -code not in _STOP_SIGNALS:
            self._count_failed_start(f"exit code {code}")
        self.start()
        if self.task is None or not was_ready or -code in _STOP_SIGNALS:
            return None
        if code == -signal.SIGALRM:
            return self._answer(Failure(f"decoding took over {self._limits.seconds:g} s"))
        if self._tries < _TRIES:
            self._tries += 1
            return None
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return self._answer(Failure(f"decoding crashed ({how})"))


def _module_of(function: Callable[..., Any]) -> str:
    if isinstance(function, functools.partial):
        return _module_of(function.func)
    return str(getattr(function, "__module__", __name__))
