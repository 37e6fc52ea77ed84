"""Metrics of all ranks since the last row; the only place that waits for the device."""

import time
from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import Tensor

from byola_rq.corpus.device_batches import RING
from byola_rq.runs.metrics import Metrics
from byola_rq.runtime.distributed import all_gather_rows, all_reduce_max, all_reduce_sum, world_size
from byola_rq.train.collapse import EmbeddingHealth, examine_embeddings
from byola_rq.train.state import TrainState
from byola_rq.train.step import StepOutcome

Batch = TypeVar("Batch")

MEASURED_BATCHES = 20
NOTABLE_SHARE = 0.05


class DataWait:
    """Measures the share of time that the device waits for data, over a process's first batches.

    Args:
        device: Training device.
        num_workers: Number of loader processes. Batches read ahead during the first step, which may
            compile, are not measured: 2 for each process, and those already on a GPU.
    """

    def __init__(self, device: torch.device, num_workers: int) -> None:
        self.seconds = 0.0  # waited in total
        self.share: float | None = None  # of the measured time; None until known
        self._device = device
        self._first = 1 + 2 * num_workers + (RING - 1 if device.type == "cuda" else 0)
        self._taken = 0
        self._began = self._seconds_before = 0.0

    def next_batch(self, batches: Iterator[Batch]) -> Batch:
        """Return `next(batches)` and measure the wait."""
        # A GPU still works on earlier steps while this process waits; only its own wait counts, so
        # it is synchronized for twenty batches, once per run.
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
    """Return a message about the gain of a packed corpus; None if it is negligible.

    Args:
        share: Share of time that the device waits for decoding, 0 to 1.
    """
    if share <= NOTABLE_SHARE:
        return None
    gain = f"up to {1 / (1 - share):.1f} times as fast" if share < 0.99 else "far faster"
    return (
        f"the device waited {share:.0%} of the time for decoding; a packed corpus "
        f"(`byola-rq prepare`) would make this run {gain}"
    )


class Meter:
    """Sums loss, time and waiting over steps, and returns them as rows of metrics.

    Args:
        state: State of the training run.
        data_wait: Measures the wait for batches.
        num_clips: Number of clips in the corpus.
    """

    def __init__(self, state: TrainState, data_wait: DataWait, num_clips: int) -> None:
        self.note = ""
        self.health: EmbeddingHealth | None = None
        self.is_skipped: list[bool] = []  # of each step of the last row
        self.skipped: list[tuple[int, list[bool]]] = []  # their steps; True per finite clip
        self._state = state
        self._data_wait = data_wait
        self._num_clips = num_clips
        self._total_loss = torch.zeros((), device=state.device)
        self._outcomes: list[tuple[Tensor, Tensor]] = []
        self._embedding: Tensor | None = None  # of the last step
        self._step = state.step
        self._started = self._last = time.monotonic()
        self._waited = data_wait.seconds  # until the previous row

    @property
    def has_steps(self) -> bool:
        """True if there are steps since the last row."""
        return bool(self._outcomes)

    def add(self, outcome: StepOutcome) -> None:
        """Add a step, without waiting for the device."""
        self._total_loss += outcome.loss.where(~outcome.is_skipped, 0.0)
        # Cloned, since the next step may overwrite its outcome.
        self._outcomes.append((outcome.is_skipped.clone(), outcome.is_finite.clone()))
        self._embedding = outcome.embedding  # only that of the last step is read

    def read(self) -> Metrics:
        """Return the metrics of the steps since the previous row; all ranks must call it."""
        state, step = self._state, self._state.step
        config = state.config
        num_steps = step - self._step
        self._read_outcomes()
        num_used = self.is_skipped.count(False)
        assert self._embedding is not None
        self.health = examine_embeddings(all_gather_rows(self._embedding))
        loss = all_reduce_sum(self._total_loss).item() / world_size()
        now = time.monotonic()
        # Every rank waits for the slowest.
        waited = torch.tensor((self._data_wait.seconds - self._waited) / (now - self._last))
        metrics = Metrics(
            step=step,
            epoch=step * config.train.batch_size / self._num_clips,
            loss=loss / num_used if num_used else float("nan"),
            learning_rate=state.learning_rate(step - 1),
            ema_decay=state.ema_decay(step - 1),
            embedding_std=self.health.std,
            effective_rank=self.health.effective_rank,
            skipped_steps=num_steps - num_used,
            segments_per_second=num_steps * config.train.batch_size / (now - self._last),
            wait_share=all_reduce_max(waited).item(),
            seconds=now - self._started,
        )
        self.note = f"loss {metrics.loss:.4f}  {metrics.segments_per_second:.0f} segments/s"
        if self.health.collapse:
            self.note += "  COLLAPSE"
        self._total_loss.zero_()
        self._step, self._last, self._waited = step, now, self._data_wait.seconds
        return metrics

    def _read_outcomes(self) -> None:
        self.is_skipped = torch.stack([each for each, _ in self._outcomes]).tolist()
        self.skipped = [
            (self._step + number, all_gather_rows(self._outcomes[number - 1][1]).tolist())
            for number, is_skipped in enumerate(self.is_skipped, start=1)
            if is_skipped
        ]
        self._outcomes.clear()
