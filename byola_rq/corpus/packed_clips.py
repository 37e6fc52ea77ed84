"""Clips of packed corpora: segments are slices of memory maps, without decoding."""

import contextlib
import hashlib
import mmap
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from byola_rq.corpus.clips import Clips
from byola_rq.corpus.order import IntArray
from byola_rq.corpus.packed_format import (
    PackedCorpus,
    open_packed,
    read_index,
    read_info,
    shard_name,
)
from byola_rq.errors import CorpusError
from byola_rq.runtime.array_files import find_array
from byola_rq.runtime.files import allow_open_files

_PAGE = mmap.PAGESIZE
_OTHER_FILES = 512  # other open files of a process: pipes, libraries, GPUs


class PackedClips(Clips):
    """Clips of one or several packed corpora, in the order of their indices.

    Pickling it for a loader process copies three integers per clip and the shards' paths; samples
    stay on disk, and processes share the page cache.

    Args:
        corpora: Packed corpora, at least one, all of one sample rate.

    Raises:
        CorpusError: If the sample rates differ.
    """

    dtype: ClassVar = np.dtype(np.int16)

    def __init__(self, corpora: Sequence[PackedCorpus]) -> None:
        rates = [corpus.info["sample_rate"] for corpus in corpora]
        for corpus, rate in zip(corpora, rates, strict=True):
            if rate != rates[0]:
                raise CorpusError(
                    f"{corpus.folder}: sample rate must be {rates[0]} Hz, as in "
                    f"{corpora[0].folder}; got {rate}",
                    code="different",
                    path=corpus.folder,
                    key="sample rate",
                    value=rate,
                )
        self.sample_rate = rates[0]
        num_shards = np.cumsum([0, *(len(corpus.shards) for corpus in corpora)])
        self.shard: IntArray = np.concatenate(
            [corpus.shard + first for corpus, first in zip(corpora, num_shards, strict=False)],
            dtype=np.int32,
        )
        self.offset: IntArray = np.concatenate([corpus.offset for corpus in corpora])
        self.num_samples = np.concatenate([corpus.num_samples for corpus in corpora])
        self.paths = [
            corpus.folder / shard_name(number)
            for corpus in corpora
            for number in range(len(corpus.shards))
        ]
        self._sha256s = [
            corpus.info["files"][shard_name(number)]["sha256"]
            for corpus in corpora
            for number in range(len(corpus.shards))
        ]
        self.shards = [MappedShard(samples) for corpus in corpora for samples in corpus.shards]

    @classmethod
    def open(cls, folders: Sequence[Path]) -> "PackedClips":
        """Open packed corpora; repeated folders are opened once.

        Raises:
            CorpusError: If one is not a packed corpus, or not a complete one.
        """
        distinct: dict[Path, Path] = {}
        for folder in folders:
            distinct.setdefault(folder.resolve(), folder)
        num_shards = sum(read_info(folder)["shards"] for folder in distinct.values())
        allow_open_files(num_shards + _OTHER_FILES)
        return cls([open_packed(folder) for folder in distinct.values()])

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the shards' digests and of the clips' positions."""
        digest = hashlib.sha256("\n".join(self._sha256s).encode())
        for column in (self.shard, self.offset, self.num_samples):
            digest.update(np.ascontiguousarray(column, "<i8").data)
        return digest.hexdigest()

    def names(self, indices: IntArray) -> list[str]:
        """Read the `clip_id` of each clip from the indices."""
        names: list[str] = []
        for folder in dict.fromkeys(path.parent for path in self.paths):
            names += read_index(folder, ["clip_id"])["clip_id"].to_pylist()
        return [names[index] for index in indices]

    def fill(self, segments: npt.NDArray[Any], indices: IntArray, starts: IntArray) -> None:
        """Write one segment of each clip into `segments`, as `Clips.fill`; never raises."""
        length = segments.shape[1]
        stretches = list(
            zip(
                self.shard[indices].tolist(),
                (self.offset[indices] + starts).tolist(),
                np.minimum(self.num_samples[indices], length).tolist(),
                strict=True,
            )
        )
        # The whole batch is requested before any part is awaited: a disk with many queued reads is
        # faster, and the kernel reads only these ranges instead of 128 KiB to 8 MiB around the
        # first page of each. From a virtual SSD (read-ahead 8 MiB, 2 cores, November 2026):
        # 23,000 segments/s with these hints, 180 without; from memory, 290,000 and 490,000.
        with contextlib.suppress(OSError):  # a kernel short of memory may refuse
            for shard, first, num in stretches:
                self.shards[shard].will_need(first, num)
        # Slice by slice was the fastest of the variants tried (benchmarks/corpus.py).
        for segment, (shard, first, num) in zip(segments, stretches, strict=True):
            before = (length - num) // 2
            if num < length:
                segment[:before] = 0
                segment[before + num :] = 0
            segment[before : before + num] = self.shards[shard].samples[first : first + num]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "shards": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.shards = [MappedShard(find_array(path).map()) for path in self.paths]


class MappedShard:
    """Samples of a memory-mapped shard, and its pages."""

    def __init__(self, samples: npt.NDArray[np.int16]) -> None:
        # A plain view is sliced faster than a memmap.
        self.samples = samples.view(np.ndarray)
        self.pages = samples.base if hasattr(mmap, "MADV_WILLNEED") else None
        # Byte of the map at which the samples begin, after the header.
        self._begin = getattr(samples, "offset", 0) % mmap.ALLOCATIONGRANULARITY

    def will_need(self, first: int, num: int) -> None:
        """Request that the kernel read `num` samples from `first` on, without waiting for them."""
        if isinstance(self.pages, mmap.mmap):
            begin = (self._begin + 2 * first) // _PAGE * _PAGE
            end = self._begin + 2 * (first + num)
            self.pages.madvise(mmap.MADV_WILLNEED, begin, end - begin)
