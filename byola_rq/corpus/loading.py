"""Loading of batches of segments ahead of their use, in processes with shared memory."""

import contextlib
import ctypes
import gc
import itertools
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
from byola_rq.runtime.distributed import local_world_size
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
    num_valid: int = 0,
    device: torch.device = CPU,
) -> Generator[SegmentBatch, None, None]:
    """Read the batches listed by `samples` ahead of their use, in `num_workers` processes.

    Args:
        corpus: Corpus to read from.
        samples: (epoch, clip index) of each sample, int64 `(B, 2)` per batch.
        batch_size: Largest B.
        num_workers: Number of processes; 0 reads each batch when it is requested.
        num_valid: Number of newest batches that stay valid; the memory of older ones is reused.
            With 0 all batches stay valid.
        device: Device that the batches are copied to; for a GPU their memory is pinned.

    Raises:
        AudioError: If neither a clip nor its neighbors can be decoded (see `SegmentCorpus`);
            names the file.
    """
    with contextlib.ExitStack() as ending:
        if isinstance(samples, Generator):
            ending.callback(samples.close)  # which may be reading files ahead
        if num_workers == num_valid == 0:
            yield from map(corpus.load, samples)
            return
        # The loader requests another batch before it returns the one that has arrived.
        slots = _Slots(corpus, _AHEAD * num_workers + max(num_valid, 1), batch_size)
        tasks = ((number % slots.num, items) for number, items in enumerate(samples))
        results = ending.enter_context(_results(slots, tasks, num_workers))
        # Pinned after the processes have started: they map it as ordinary memory.
        ending.enter_context(pinned(slots.memory, device))
        for result in results:
            batch = slots.batch(result)
            # A copy stays valid when its slot is reused.
            yield batch if num_valid else batch._replace(waveform=batch.waveform.clone())


@contextlib.contextmanager
def _results(
    slots: "_Slots", tasks: Iterator[_Task], num_workers: int
) -> Generator[Iterator[_Result], None, None]:
    """Run the tasks in this process or in workers, which end with the block; give the results."""
    if num_workers == 0:
        yield map(slots.__getitems__, tasks)
        return
    need_open_files(FILES_OF_POOL + num_workers * FILES_OF_WORKER)
    # Waited for here, since files may be read for them: while the loader starts, no signal arrives.
    first = list(itertools.islice(tasks, _AHEAD * num_workers))
    # As a batch sampler: the loader passes every task to the dataset whole.
    sampler: Any = itertools.chain(first, tasks)
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
        # An error's traceback would keep the workers alive until this process exits, which would
        # wait for them. They ignore signals, so one that hangs is killed.
        workers = [each for each in multiprocessing.active_children() if each not in others]
        if results is not None:
            results._shutdown_workers()
        for worker in workers:
            worker.kill()


@contextlib.contextmanager
def _unseen_by_children() -> Iterator[None]:
    """Hide existing objects from the garbage collectors of processes forked in the block.

    A child that frees an event or pinned memory of its parent's GPU aborts.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def default_num_workers(device: torch.device, *, is_decoding: bool) -> int:
    """Return the number of loader processes that leaves the training process a core.

    Several training processes of one machine share its cores.
    """
    most = 16 if device.type == "cuda" else 1
    if not is_decoding:
        # Slicing costs a CPU step almost nothing; for a GPU, two processes keep twice as many reads
        # in flight.
        most = 2 if device.type == "cuda" else 0
    return max(min(count_cores() // local_world_size() - 1, most), 0)


class _Slots(Dataset[Any]):
    """Shared memory for batches that the loader's processes fill and this process reads.

    A tensor returned by a process of torch's loader gets new shared memory for every batch, which
    took five to ten times as long as reading 256 packed segments. Slots are allocated once; only
    keys and replacements are sent.
    """

    def __init__(self, corpus: SegmentCorpus, num: int, batch_size: int) -> None:
        self.corpus = corpus
        self.num = num
        self.shape = (num, batch_size, corpus.segment_samples)
        num_bytes = int(np.prod(self.shape)) * corpus.clips.dtype.itemsize
        # Works with every start method of processes.
        self.memory = multiprocessing.RawArray(ctypes.c_byte, num_bytes)

    def view(self, slot: int) -> npt.NDArray[Any]:
        """View of one slot, `(B, S)`."""
        memory = np.ctypeslib.as_array(self.memory).view(self.corpus.clips.dtype)
        segments: npt.NDArray[Any] = memory.reshape(self.shape)[slot]
        return segments

    def batch(self, result: _Result) -> SegmentBatch:
        """Return a finished task's batch, a view of its slot.

        Raises:
            AudioError: If the batch could not be read.
        """
        if isinstance(result, ByolaRQError):
            raise result
        slot, keys, replacements = result
        waveform = torch.from_numpy(self.view(slot)[: len(keys)])
        return SegmentBatch(waveform, torch.from_numpy(keys), replacements)

    def __getitems__(self, task: _Task) -> _Result:
        """Fill a slot; a `ByolaRQError` is returned, because torch would add a long traceback."""
        slot, items = task
        try:
            return slot, *self.corpus.load_into(self.view(slot)[: len(items)], items)
        except ByolaRQError as error:
            return error


def _begin(worker: int) -> None:
    """Initialize a loader process."""
    del worker
    leave_signals_to_parent()


def _as_it_is(batch: Any) -> Any:
    """Collate nothing: `__getitems__` returns a batch."""
    return batch
