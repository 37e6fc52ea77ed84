"""Batches of segments, read ahead of their use in processes that share memory with this one."""

import contextlib
import ctypes
import gc
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
from byola_rq.runtime.files import need_open_files
from byola_rq.runtime.pinning import pinned
from byola_rq.runtime.signals import leave_signals_to_parent, signals_blocked
from byola_rq.runtime.workers import FILES_OF_POOL, FILES_OF_WORKER, count_cores

CPU = torch.device("cpu")

_AHEAD = 2  # batches that each process reads ahead

_Task = tuple[int, IntArray]  # the slot to fill, and with which (epoch, clip index)
_Result = tuple[int, IntArray, tuple[Replacement, ...]] | ByolaRQError  # the slot, keys


def load_batches(
    corpus: SegmentCorpus,
    samples: Iterable[IntArray],
    *,
    batch_size: int,
    num_workers: int,
    held: int = 0,
    device: torch.device = CPU,
) -> Generator[SegmentBatch, None, None]:
    """Read the batches that `samples` lists, ahead of their use in `num_workers` processes.

    Args:
        corpus: What to read from.
        samples: (epoch, clip index) of each sample, int64 `(B, 2)` a batch.
        batch_size: The largest B among them.
        num_workers: Processes; 0 reads each batch when it is asked for.
        held: The newest batches that stay what they are; the memory of those before is filled
            again. 0: all stay.
        device: Fetches the batches that are held; for a GPU their memory is pinned.

    Raises:
        AudioError: If a clip cannot be decoded, nor can its neighbours (see `SegmentCorpus`);
            names the file.
    """
    if num_workers == held == 0:
        yield from map(corpus.load, samples)
        return
    # The loader asks for a further batch before it hands out the one that has come.
    slots = _Slots(corpus, _AHEAD * num_workers + max(held, 1), batch_size)
    tasks = ((number % slots.num, items) for number, items in enumerate(samples))
    # Pinned last: the processes are given memory as any other.
    with _results(slots, tasks, num_workers) as results, pinned(slots.memory, device):
        for result in results:
            batch = slots.batch(result)
            # Copied, a batch stays what it is when its slot is filled again.
            yield batch if held else batch._replace(waveform=batch.waveform.clone())


@contextlib.contextmanager
def _results(
    slots: "_Slots", tasks: Iterator[_Task], num_workers: int
) -> Generator[Iterator[_Result], None, None]:
    """What became of the tasks, done by this process or by others, which end with the block."""
    if num_workers == 0:
        yield map(slots.__getitems__, tasks)
        return
    need_open_files(FILES_OF_POOL + num_workers * FILES_OF_WORKER)
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
    others = multiprocessing.active_children()
    results: Any = None
    try:
        with signals_blocked(), _unseen_by_children():
            results = iter(loader)
        yield results
    finally:
        # Left to the garbage collector, an error's traceback would keep them until the exit of
        # the process, which waits for them. They heed no signal, so one that hangs is killed.
        workers = [each for each in multiprocessing.active_children() if each not in others]
        if results is not None:
            results._shutdown_workers()
        for worker in workers:
            worker.kill()


@contextlib.contextmanager
def _unseen_by_children() -> Iterator[None]:
    """Keep what lies about from the garbage collectors of processes that are forked in the block.

    A child that frees what another process has of a GPU, an event or pinned memory, aborts.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


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

    def batch(self, result: _Result) -> SegmentBatch:
        """The batch that a task has become, in its slot.

        Raises:
            AudioError: If it could not be read.
        """
        if isinstance(result, ByolaRQError):
            raise result
        slot, keys, replacements = result
        waveform = torch.from_numpy(self.view(slot)[: len(keys)])
        return SegmentBatch(waveform, torch.from_numpy(keys), replacements)

    def __getitems__(self, task: _Task) -> _Result:
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
