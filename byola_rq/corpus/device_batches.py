"""Batches that lie on the device by the time that a step works on them."""

from collections.abc import Generator
from typing import Self

import torch
from torch import Tensor

from byola_rq.corpus.resident_clips import ResidentClips
from byola_rq.corpus.segments import INT16_SCALE, SegmentBatch
from byola_rq.errors import ByolaRQError

RING = 3  # batches on a GPU at once: one that a step works on, two on their way


class DeviceBatches:
    """The same batches, on the device; to a GPU two are on their way while it works on a third.

    They are copied by a stream of their own into buffers that are made once and used again: a batch
    is what it is until the work has been handed out that comes before the next is asked for. The
    current stream waits for the copy alone, the copies for the work on what lay there before; this
    process waits for copies that began two batches ago. On a CPU batches pass as they are.

    Args:
        batches: What to bring to the device, the newest `RING` of which stay what they are; none is
            larger than the first.
        device: Where steps work.
        resident: Clips that lie there; in the batches stands where in them segments begin.
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
        self._end: Exception | None = None  # what comes after the last of those on their way

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
        """Wait until the device has come so far that a further batch can be sent.

        Called before the next batch is asked for, it keeps a busy device apart from slow reading.
        """
        if self._ring is not None:
            self._ring.make_room()

    def close(self) -> None:
        """End what reads the batches."""
        if self._ring is not None:
            self._ring.close()
        self._batches.close()

    def _send_next(self, ring: "_Ring") -> None:
        """Send a batch ahead; an error of ours is raised when it is that batch's turn."""
        ring.make_room()
        try:
            ring.send(next(self._batches))
        except (StopIteration, ByolaRQError) as end:
            self._end = end


class _Ring:
    """The batches that lie on a GPU, or are on their way there."""

    def __init__(self, device: torch.device, resident: ResidentClips | None) -> None:
        self._device = device
        self._resident = resident
        self._copying = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        # A process that waits for one leaves its core to others.
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
        """Release the batch taken last, and wait for the copy that was the last into the next."""
        if self._released < self._taken:
            stream = torch.cuda.current_stream(self._device)
            self._used[(self._taken - 1) % RING].record(stream)
            self._released = self._taken
        self._copied[self._sent % RING].synchronize()

    def send(self, batch: SegmentBatch) -> None:
        """Begin to copy a batch; `make_room` has been called since the one before."""
        if self._buffers is None:
            self._buffers = _Buffers(batch, self._device, self._resident)
            self._batches = [batch] * RING
            # The allocator may have given memory that the current stream has yet to read.
            self._copying.wait_stream(torch.cuda.current_stream(self._device))
        place = self._sent % RING
        with torch.cuda.stream(self._copying):
            self._copying.wait_event(self._used[place])
            self._batches[place] = self._buffers.copy(place, batch)
            self._copied[place].record(self._copying)
        self._sent += 1

    def take(self) -> SegmentBatch:
        """The oldest batch that was sent, for the current stream."""
        place = self._taken % RING
        torch.cuda.current_stream(self._device).wait_event(self._copied[place])
        self._taken += 1
        return self._batches[place]

    def close(self) -> None:
        self._copying.synchronize()


class _Buffers:
    """Memory for `RING` batches as large as the first, on a GPU and on this side."""

    def __init__(
        self, first: SegmentBatch, device: torch.device, resident: ResidentClips | None
    ) -> None:
        self._resident = resident
        size = len(first.key)
        num_samples = resident.segment_samples if resident else first.waveform.shape[1]
        self._waveforms = torch.empty((RING, size, num_samples), device=device)
        self._keys = torch.empty((RING, size), dtype=torch.int64, device=device)
        self._pinned_keys = torch.empty((RING, size), dtype=torch.int64, pin_memory=True)
        self._pinned: Tensor | None = None  # for what is sent from memory that is not
        # One for all: copies follow each other.
        self._arrived = torch.empty_like(first.waveform, device=device)
        self._gathered = torch.empty((size, num_samples), dtype=torch.int16, device=device)

    def copy(self, place: int, batch: SegmentBatch) -> SegmentBatch:
        """Begin to copy by the current stream: int16 crosses the bus, and becomes float32 there."""
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
