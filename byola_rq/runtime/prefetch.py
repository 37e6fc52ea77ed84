"""Bounded prefetching in threads."""

import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_AHEAD = 4  # items per worker


def map_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], num_workers: int
) -> Generator[Result, None, None]:
    """Iterate over results of `function` in the order of `items`, computed ahead in threads.

    At most four results per worker are waiting. An error of `function` is raised when its result
    is due; items not begun by then are dropped. A caller that may stop early must close the
    generator: the garbage collector could close it in one of the threads, which cannot wait for
    itself.
    """
    queue = iter(items)
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(max(num_workers, 1)) as pool:
        try:
            while True:
                room = _AHEAD * max(num_workers, 1) - len(pending)
                pending.extend(
                    pool.submit(function, item) for item in itertools.islice(queue, room)
                )
                if not pending:
                    return
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
