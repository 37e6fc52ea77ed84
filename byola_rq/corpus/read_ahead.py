"""Sequential reading of shards into the page cache, one window ahead of their use."""

import itertools
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from byola_rq.corpus.order import IntArray, StepSampler, WindowOrder
from byola_rq.errors import CorpusError

_BLOCK_BYTES = 2**23


def read_windows_ahead(
    sampler: StepSampler, order: WindowOrder, paths: Sequence[Path]
) -> Iterator[IntArray]:
    """Iterate over `sampler`, giving each batch once the windows it needs have been read.

    A disk that seeks in 8 ms and reads a gigabyte in 7 s reads the whole gigabyte faster than
    thousands of segments in it. While one window is used, a thread reads the next: free memory
    should hold two windows.

    Args:
        sampler: Sampler that uses `order`.
        order: Order that defines the windows.
        paths: File of each shard.

    Raises:
        CorpusError: If a shard cannot be read.
    """
    must_stop = threading.Event()
    with ThreadPoolExecutor(1, "read-ahead") as pool:

        def begin(shards: IntArray) -> Future[None]:
            return pool.submit(read_whole, [paths[shard] for shard in shards], must_stop)

        needed = sampler.steps.start * sampler.batch_size  # positions of the order used so far
        windows = _windows_from(order, needed)
        read, (end, shards) = needed, next(windows)
        reading = begin(shards)
        try:
            for items in sampler:
                needed += sampler.batch_size  # of all ranks; `items` are one rank's part
                while read < needed:
                    reading.result()
                    read, (end, shards) = end, next(windows)
                    reading = begin(shards)
                yield items
        finally:
            must_stop.set()


def _windows_from(order: WindowOrder, place: int) -> Iterator[tuple[int, IntArray]]:
    """Iterate over windows from position `place` on: the position where each ends, its shards."""
    first_epoch = place // order.num_clips
    for epoch in itertools.count(first_epoch):
        end = epoch * order.num_clips
        for shards, num_clips in order.windows(epoch):
            end += num_clips
            if end > place:
                yield end, shards


def read_whole(paths: Sequence[Path], must_stop: threading.Event) -> None:
    """Read whole files, so that they are in the page cache.

    Raises:
        CorpusError: If a file cannot be read.
    """
    buffer = bytearray(_BLOCK_BYTES)
    for path in paths:
        try:
            with path.open("rb", buffering=0) as file:
                if hasattr(os, "posix_fadvise"):
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
                while not must_stop.is_set() and file.readinto(buffer):
                    pass
        except OSError as error:
            message = f"{path}: cannot be read ({error.strerror})"
            raise CorpusError(message, code="unreadable", path=path) from error
