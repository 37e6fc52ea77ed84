"""Prefetching of batches to the device."""

from collections.abc import Generator
from typing import Self

import torch
from torch import Tensor

from byola_rq.corpus.resident_clips import ResidentClips
from byola_rq.corpus.segments import INT16_SCALE, SegmentBatch
from byola_rq.errors import ByolaRQError

RING = 3  # batches on a GPU at once: one in use, two being copied


class DeviceBatches:
    """Iterator over batches on the device; on a GPU two are copied while a third is in use.

    A stream of its own copies them into reused buffers: a batch is valid for the work that is
    queued before the next batch is requested. The current stream waits only for the copy, copies
    wait for the work on the buffer's previous batch, and this process waits for the copy of two
    batches ago. On a CPU batches are passed through.

    Args:
        batches: Batches to copy; the newest `RING` must stay valid, and none may be larger than
            the first.
        device: Device of the training steps.
        resident: Clips in the device's memory; the batches then hold the positions of segments.
    """

    def __init__(
        self,
        batches: Generator[SegmentBatch, None, None],
        device: torch.device,
        *,
        resident: ResidentClips | None = None,
    ) -> None:
        self._batches = batches
        self._resident = resident
        self._ring = _Ring(device, resident) if device.type == "cuda" else None
        self._end: Exception | None = None  # raised after the last batch that was sent

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> SegmentBatch:
        if self._ring is None:
            batch = next(self._batches)
            if self._resident is None:
                return batch
            return batch._replace(waveform=self._resident.gather(batch.waveform))
        self.make_room()
        while self._end is None and self._ring.has_room:
            self._send_next(self._ring)
        if self._ring.is_empty:
            assert self._end is not None
            raise self._end
        return self._ring.take()

    def make_room(self) -> None:
        """Wait until the device can receive another batch.

        Calling it before the next batch is requested separates waiting for the device from
        waiting for data.
        """
        if self._ring is not None:
            self._ring.make_room()

    def close(self) -> None:
        """Stop copying and close the source of the batches."""
        if self._ring is not None:
            self._ring.close()
        self._batches.close()

    def _send_next(self, ring: "_Ring") -> None:
        """Send the next batch; an error is kept until that batch is due."""
        ring.make_room()
        try:
            ring.send(next(self._batches))
        except (StopIteration, ByolaRQError) as end:
            self._end = end


class _Ring:
    """Ring of batches on a GPU or being copied to it."""

    def __init__(self, device: torch.device, resident: ResidentClips | None) -> None:
        self._device = device
        self._resident = resident
        self._copying = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        # Waiting for a blocking event does not occupy a core.
        self._copied = [_event(blocking=True) for _ in range(RING)]
        self._used = [_event(blocking=False) for _ in range(RING)]
        self._sent = self._taken = self._released = 0  # batches
        self._buffers: _Buffers | None = None
        self._batches: list[SegmentBatch] = []

    @property
    def has_room(self) -> bool:
        return self._sent - self._taken < RING

    @property
    def is_empty(self) -> bool:
        return self._sent == self._taken

    def make_room(self) -> None:
        """Release the batch taken last, and wait for the previous copy into the next buffer."""
        if self._released < self._taken:
            stream = torch.cuda.current_stream(self._device)
            self._used[(self._taken - 1) % RING].record(stream)
            self._released = self._taken
        self._copied[self._sent % RING].synchronize()

    def send(self, batch: SegmentBatch) -> None:
        """Begin to copy a batch; `make_room` must have been called since the previous one."""
        if self._buffers is None:
            self._buffers = _Buffers(batch, self._device, self._resident)
            self._batches = [batch] * RING
            # The allocator may reuse memory that the current stream has yet to read.
            self._copying.wait_stream(torch.cuda.current_stream(self._device))
        place = self._sent % RING
        with torch.cuda.stream(self._copying):
            self._copying.wait_event(self._used[place])
            self._batches[place] = self._buffers.copy(place, batch)
            self._copied[place].record(self._copying)
        self._sent += 1

    def take(self) -> SegmentBatch:
        """Return the oldest batch that was sent, ready for the current stream."""
        place = self._taken % RING
        torch.cuda.current_stream(self._device).wait_event(self._copied[place])
        self._taken += 1
        return self._batches[place]

    def close(self) -> None:
        self._copying.synchronize()


class _Buffers:
    """Buffers for `RING` batches as large as the first, on a GPU and pinned on the host."""

    def __init__(
        self, first: SegmentBatch, device: torch.device, resident: ResidentClips | None
    ) -> None:
        self._resident = resident
        size = len(first.key)
        num_samples = resident.segment_samples if resident else first.waveform.shape[1]
        self._waveforms = torch.empty((RING, size, num_samples), device=device)
        self._keys = torch.empty((RING, size), dtype=torch.int64, device=device)
        self._pinned_keys = torch.empty((RING, size), dtype=torch.int64, pin_memory=True)
        self._pinned: Tensor | None = None  # for batches in unpinned memory
        # One for all batches: copies are sequential.
        self._arrived = torch.empty_like(first.waveform, device=device)
        self._gathered = torch.empty((size, num_samples), dtype=torch.int16, device=device)

    def copy(self, place: int, batch: SegmentBatch) -> SegmentBatch:
        """Begin to copy on the current stream: int16 is sent and converted to float32 there."""
        num = len(batch.key)
        pinned_key = self._pinned_keys[place, :num].copy_(batch.key)
        key = self._keys[place, :num].copy_(pinned_key, non_blocking=True)
        waveform = self._waveforms[place, :num]
        sent = self._as_pinned(place, batch.waveform)
        if sent.dtype is torch.float32:
            waveform.copy_(sent, non_blocking=True)
        else:
            segments = self._arrived[:num].copy_(sent, non_blocking=True)
            if self._resident is not None:
                segments = self._resident.gather(segments, out=self._gathered[:num])
            torch.mul(segments, INT16_SCALE, out=waveform)
        return SegmentBatch(waveform, key, batch.replacements)

    def _as_pinned(self, place: int, sent: Tensor) -> Tensor:
        if sent.is_pinned():
            return sent
        if self._pinned is None:
            self._pinned = torch.empty((RING, *sent.shape), dtype=sent.dtype, pin_memory=True)
        return self._pinned[place, : len(sent)].copy_(sent)


def _event(*, blocking: bool) -> torch.cuda.Event:
    return torch.cuda.Event(blocking=blocking)  # type: ignore[no-untyped-call]
