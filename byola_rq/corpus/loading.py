"""Batches of segments, read ahead of their use in processes that share memory with this one."""

import ctypes
import multiprocessing
from collections.abc import Generator, Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset

from byola_rq.corpus.order import IntArray
from byola_rq.corpus.segments import Replacement, SegmentBatch, SegmentCorpus
from byola_rq.errors import ByolaRQError
from byola_rq.runtime.signals import leave_signals_to_parent, signals_blocked
from byola_rq.runtime.workers import count_cores

_AHEAD = 2  # batches that each process reads ahead


def load_batches(
    corpus: SegmentCorpus,
    samples: Iterable[IntArray],
    *,
    batch_size: int,
    num_workers: int,
    pin_memory: bool = False,
) -> Generator[SegmentBatch, None, None]:
    """Read the batches that `samples` lists, ahead of their use in `num_workers` processes.

    Args:
        corpus: What to read from.
        samples: (epoch, clip index) of each sample, int64 `(B, 2)` a batch.
        batch_size: The largest B among them.
        num_workers: Processes; 0 reads each batch when it is asked for.
        pin_memory: Whether the batches lie in pinned memory.

    Raises:
        AudioError: If a clip cannot be decoded, nor can its neighbours (see `SegmentCorpus`);
            names the file.
    """
    if num_workers == 0:
        for items in samples:
            batch = corpus.load(items)
            yield batch.pinned() if pin_memory else batch
        return
    # The loader asks for a further batch before it hands out the one that has come, so one more
    # than those ahead may be in use.
    slots = _Slots(corpus, _AHEAD * num_workers + 1, batch_size)
    tasks = ((number % slots.num, items) for number, items in enumerate(samples))
    # Seen from the loader, a batch of tasks' samples: it hands every task to the dataset whole.
    sampler: Any = tasks
    loader: DataLoader[Any] = DataLoader(
        slots,
        batch_sampler=sampler,
        num_workers=num_workers,
        prefetch_factor=_AHEAD,
        collate_fn=_as_it_is,
        worker_init_fn=_begin,
    )
    yield from _take(loader, slots, pin_memory=pin_memory)


def on_device(batches: Iterator[SegmentBatch], device: torch.device) -> Iterator[SegmentBatch]:
    """The same batches; to a GPU each is copied while it works on the one before.

    The copy runs on a stream of its own, one batch ahead, and what works on a batch waits for its
    copy alone. On a CPU they pass as they are.
    """
    if device.type != "cuda":
        yield from batches
        return
    copying = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    ahead: tuple[SegmentBatch, torch.cuda.Event] | None = None
    for batch in batches:
        with torch.cuda.stream(copying):
            copied = batch.to(device), copying.record_event()
        if ahead is not None:
            yield _handed_over(*ahead)
        ahead = copied
    if ahead is not None:
        yield _handed_over(*ahead)


def _handed_over(batch: SegmentBatch, is_copied: torch.cuda.Event) -> SegmentBatch:
    """A batch as the current stream may use it."""
    stream = torch.cuda.current_stream(batch.waveform.device)
    stream.wait_event(is_copied)
    for tensor in (batch.waveform, batch.key):
        tensor.record_stream(stream)  # its memory is not the copying stream's before that is done
    return batch


def _take(
    loader: DataLoader[Any], slots: "_Slots", *, pin_memory: bool
) -> Generator[SegmentBatch, None, None]:
    """The batches that the loader's processes have read, and the end of these processes."""
    others = multiprocessing.active_children()
    results: Any = None
    try:
        with signals_blocked():
            results = iter(loader)
        for result in results:
            if isinstance(result, ByolaRQError):
                raise result
            slot, keys, replacements = result
            waveform = torch.from_numpy(slots.view(slot)[: len(keys)])
            batch = SegmentBatch(waveform, torch.from_numpy(keys), replacements)
            # Copied, so that a batch stays what it is when its slot is filled again.
            yield batch.pinned() if pin_memory else batch._replace(waveform=waveform.clone())
    finally:
        # Left to the garbage collector, an error's traceback would keep them until the exit of
        # the process, which waits for them. They heed no signal, so one that hangs is killed.
        workers = [each for each in multiprocessing.active_children() if each not in others]
        if results is not None:
            results._shutdown_workers()
        for worker in workers:
            worker.kill()


def default_num_workers(device: torch.device, *, is_decoding: bool) -> int:
    """Loader processes that leave the training process its cores."""
    cores = count_cores()
    if is_decoding:
        return min(cores - 1, 16 if device.type == "cuda" else 1)
    # Slices cost a CPU step nothing to speak of; for a GPU, two processes keep twice as many reads
    # before the disk.
    return min(cores - 1, 2 if device.type == "cuda" else 0)


class _Slots(Dataset[Any]):
    """Room for batches that the loader's processes fill and this one reads.

    A tensor that a process of torch's loader returns gets shared memory of its own, whose pages
    are made, sent and thrown away with every batch: that cost five to ten times what reading 256
    packed segments does. Slots are made once; only keys travel,
    and what had to be replaced.
    """

    def __init__(self, corpus: SegmentCorpus, num: int, batch_size: int) -> None:
        self.corpus = corpus
        self.num = num
        self.shape = (num, batch_size, corpus.segment_samples)
        num_bytes = int(np.prod(self.shape)) * corpus.clips.dtype.itemsize
        # Memory that a process can be given whichever way it is started.
        self.memory = multiprocessing.RawArray(ctypes.c_byte, num_bytes)

    def view(self, slot: int) -> npt.NDArray[Any]:
        """One slot, `(B, S)`."""
        memory = np.ctypeslib.as_array(self.memory).view(self.corpus.clips.dtype)
        segments: npt.NDArray[Any] = memory.reshape(self.shape)[slot]
        return segments

    def __getitems__(
        self, task: tuple[int, IntArray]
    ) -> tuple[int, IntArray, tuple[Replacement, ...]] | ByolaRQError:
        """Fill a slot; an error of ours is returned, not raised.

        Raised in a loader's process, it would become a page of traceback on its way here.
        """
        slot, items = task
        try:
            return slot, *self.corpus.load_into(self.view(slot)[: len(items)], items)
        except ByolaRQError as error:
            return error


def _begin(worker: int) -> None:
    """What a loader's process does first."""
    del worker
    leave_signals_to_parent()


def _as_it_is(batch: Any) -> Any:
    """What `__getitems__` gives is a batch already."""
    return batch
