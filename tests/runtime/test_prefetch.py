"""Work done ahead: in order, bounded, and stopped by the first error."""

import threading
from collections.abc import Iterator

import pytest

from byola_rq.runtime.prefetch import map_ahead


@pytest.mark.parametrize("num_workers", [1, 3])
def test_results_come_in_order(num_workers: int) -> None:
    assert list(map_ahead(lambda n: n * n, range(50), num_workers)) == [n * n for n in range(50)]
    assert list(map_ahead(str, [], num_workers)) == []


def test_no_more_is_taken_than_can_wait() -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for n in range(1000):
            taken += 1
            yield n

    results = map_ahead(lambda n: n, items(), 2)
    for _ in range(3):
        next(results)
    # Four a worker wait, and three were given out.
    assert taken <= 2 * 4 + 3
    results.close()


def test_an_error_reaches_the_caller_and_stops_the_rest() -> None:
    begun: list[int] = []
    lock = threading.Lock()

    def work(n: int) -> int:
        with lock:
            begun.append(n)
        if n == 5:
            raise ValueError("five")
        return n

    with pytest.raises(ValueError, match="five"):
        list(map_ahead(work, range(1000), 1))
    assert max(begun) < 5 + 2 * 4
