"""How long the device waits for data, and what packing the corpus would change about it."""

import time
from collections.abc import Iterator
from typing import TypeVar

import torch

Batch = TypeVar("Batch")

MEASURED_BATCHES = 20
NOTABLE_SHARE = 0.05


class DataWait:
    """Measures the share of time that the device waits for the first batches of a process.

    Args:
        device: That trains.
        num_workers: Loader processes. What they have read ahead by the time that the first step
            is over, which may have been compiling, is passed over: 2 batches each.
    """

    def __init__(self, device: torch.device, num_workers: int) -> None:
        self.seconds = 0.0  # waited in all
        self.share: float | None = None  # of the measured time; None until it is known
        self._device = device
        self._first = 1 + 2 * num_workers
        self._taken = 0
        self._began = self._seconds_before = 0.0

    def next_batch(self, batches: Iterator[Batch]) -> Batch:
        """`next(batches)`, measured."""
        # A GPU works on what it was given while this process waits; only what it then has to wait
        # itself counts. Twenty times, and never again in a run.
        is_measured = self._first <= self._taken <= self._first + MEASURED_BATCHES
        if is_measured and self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        started = time.monotonic()
        if self._taken == self._first:
            self._began, self._seconds_before = started, self.seconds
        elif self._taken == self._first + MEASURED_BATCHES:
            self.share = (self.seconds - self._seconds_before) / (started - self._began)
        batch = next(batches)
        self.seconds += time.monotonic() - started
        self._taken += 1
        return batch


def packing_advice(share: float) -> str | None:
    """A line about what a packed corpus would gain; None where that is not notable.

    Args:
        share: Of the time, that the device waits for decoding.
    """
    if share <= NOTABLE_SHARE:
        return None
    gain = f"up to {1 / (1 - share):.1f} times as fast" if share < 0.99 else "far faster"
    return (
        f"the device waited {share:.0%} of the time for decoding; a packed corpus "
        f"(`byola-rq prepare`) would make this run {gain}"
    )
