"""The measured share of waiting, and the message about it."""

import re
import time
from collections.abc import Iterator

import pytest
import torch

from byola_rq.train import meter as data_wait
from byola_rq.train.meter import MEASURED_BATCHES, DataWait, packing_advice

CPU = torch.device("cpu")


class Clock:
    """A clock that only moves when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(data_wait, "time", clock)
    return clock


def batches(clock: Clock, seconds: list[float]) -> Iterator[int]:
    for number, each in enumerate(seconds):
        clock.now += each
        yield number


@pytest.mark.parametrize("num_workers", [0, 3])
def test_the_share_is_that_of_the_steady_state(clock: Clock, num_workers: int) -> None:
    """Starting up and what was read ahead by then do not count."""
    unmeasured = 1 + 2 * num_workers
    waits = [50.0] * unmeasured + [3.0] * MEASURED_BATCHES + [1000.0] * 5
    source = batches(clock, waits)
    wait = DataWait(CPU, num_workers)
    for number in range(len(waits)):
        is_known = number > unmeasured + MEASURED_BATCHES
        assert (wait.share is not None) == is_known
        assert wait.next_batch(source) == number
        clock.now += 1.0  # the step
    assert wait.share == pytest.approx(0.75)
    assert wait.seconds == pytest.approx(sum(waits))


def test_no_wait_is_no_share(clock: Clock) -> None:
    source = batches(clock, [0.0] * 100)
    wait = DataWait(CPU, 0)
    for _ in range(100):
        wait.next_batch(source)
        clock.now += 1.0
    assert wait.share == 0.0


@pytest.mark.parametrize(
    ("share", "line"),
    [
        (0.0, None),
        (0.05, None),
        (0.2, "waited 20% of the time for decoding; .* up to 1.2 times as fast"),
        (0.63, "waited 63% of the time for decoding; .* up to 2.7 times as fast"),
        (0.999, "waited 100% of the time for decoding; .* far faster"),
    ],
)
def test_the_advice_is_one_over_what_is_left(share: float, line: str | None) -> None:
    advice = packing_advice(share)
    if line is None:
        assert advice is None
    else:
        assert advice is not None
        assert re.search(line, advice)


@pytest.mark.gpu
def test_work_of_the_gpu_is_not_waiting() -> None:
    """The process is free at once, the device is not: only its own waiting counts."""
    matrix = torch.randn(4096, 4096, device="cuda")

    def slow_loader() -> Iterator[int]:
        while True:
            time.sleep(0.02)
            yield 0

    wait, source = DataWait(torch.device("cuda"), 0), slow_loader()
    while wait.share is None:
        wait.next_batch(source)
        for _ in range(100):
            matrix @ matrix
    # 20 ms against a hundred products, which take far longer than handing them out does.
    assert 0 < wait.share < 0.5
