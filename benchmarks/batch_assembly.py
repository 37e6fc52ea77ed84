"""Assembly of 256 segments, given by (shard, first sample), into one array, in memory."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.harness import Contender, Row, compare, timed
from byola_rq.corpus.packed_clips import MappedShard

BATCH = 256
SEGMENT = 15_200  # samples, 0.95 s

_Ints = npt.NDArray[np.int64]
_Segments = npt.NDArray[np.int16]
_Way = Callable[[_Ints, _Ints], _Segments]

_HEADER_BYTES = 128
_BATCHES = 10  # per round


def compare_assembly(folder: Path, rounds: int) -> list[Row]:
    """Compare ways to assemble a batch, in segments per second."""
    ways = _Ways(folder)
    contenders = {
        "slices": ways.slices,
        "slices, hinted (ours)": ways.hinted_slices,
        "slices of np.memmap": ways.memmap_slices,
        "np.concatenate": ways.concatenate,
        "fancy index": ways.fancy_index,
        "sliding_window_view": ways.sliding_window,
        "torch.from_file, stack": ways.torch_stack,
        "os.preadv": ways.system_calls,
    }
    generator = np.random.default_rng(0)
    shards, firsts = generator.integers(0, len(ways.maps), BATCH), np.arange(BATCH) * 1000
    expected = ways.slices(shards, firsts).copy()
    for name, way in contenders.items():
        assert np.array_equal(way(shards, firsts), expected), name

    def contender(way: _Way) -> Contender:
        def work() -> float:
            for _ in range(_BATCHES):
                shards = generator.integers(0, len(ways.maps), BATCH)
                firsts = generator.integers(0, len(ways.maps[0]) - SEGMENT, BATCH)
                way(shards, firsts)
            return _BATCHES * BATCH

        return timed(work)

    return compare(
        {name: contender(way) for name, way in contenders.items()},
        unit="segments",
        rounds=rounds,
    )


class _Ways:
    """Ways to assemble a batch: shards and first samples -> int16 `(B, S)`."""

    def __init__(self, folder: Path) -> None:
        paths = sorted(folder.glob("pcm-*.npy"))
        self.maps = [np.load(path, mmap_mode="r") for path in paths]
        self._plain = [each.view(np.ndarray) for each in self.maps]
        self._hinted = [MappedShard(each) for each in self.maps]
        self._files = [path.open("rb") for path in paths]
        header = _HEADER_BYTES // 2
        self._tensors = [
            torch.from_file(str(path), shared=False, size=header + len(each), dtype=torch.int16)[
                header:
            ]
            for path, each in zip(paths, self._plain, strict=True)
        ]
        self._out = np.empty((BATCH, SEGMENT), np.int16)

    def slices(self, shards: _Ints, firsts: _Ints) -> _Segments:
        for row, shard, first in zip(self._out, shards.tolist(), firsts.tolist(), strict=True):
            row[:] = self._plain[shard][first : first + SEGMENT]
        return self._out

    def hinted_slices(self, shards: _Ints, firsts: _Ints) -> _Segments:
        for shard, first in zip(shards.tolist(), firsts.tolist(), strict=True):
            self._hinted[shard].will_need(first, SEGMENT)
        return self.slices(shards, firsts)

    def memmap_slices(self, shards: _Ints, firsts: _Ints) -> _Segments:
        for row, shard, first in zip(self._out, shards.tolist(), firsts.tolist(), strict=True):
            row[:] = self.maps[shard][first : first + SEGMENT]
        return self._out

    def concatenate(self, shards: _Ints, firsts: _Ints) -> _Segments:
        pairs = zip(shards.tolist(), firsts.tolist(), strict=True)
        slices = [self._plain[shard][first : first + SEGMENT] for shard, first in pairs]
        return np.concatenate(slices).reshape(BATCH, SEGMENT)

    def fancy_index(self, shards: _Ints, firsts: _Ints) -> _Segments:
        for shard in np.unique(shards):
            rows = np.flatnonzero(shards == shard)
            self._out[rows] = self._plain[shard][firsts[rows, None] + np.arange(SEGMENT)]
        return self._out

    def sliding_window(self, shards: _Ints, firsts: _Ints) -> _Segments:
        for shard in np.unique(shards):
            rows = np.flatnonzero(shards == shard)
            windows = np.lib.stride_tricks.sliding_window_view(self._plain[shard], SEGMENT)
            self._out[rows] = windows[firsts[rows]]
        return self._out

    def torch_stack(self, shards: _Ints, firsts: _Ints) -> _Segments:
        pairs = zip(shards.tolist(), firsts.tolist(), strict=True)
        slices = [self._tensors[shard][first : first + SEGMENT] for shard, first in pairs]
        stacked: _Segments = torch.stack(slices).numpy()
        return stacked

    def system_calls(self, shards: _Ints, firsts: _Ints) -> _Segments:
        for row, shard, first in zip(self._out, shards.tolist(), firsts.tolist(), strict=True):
            place = _HEADER_BYTES + 2 * first
            os.preadv(self._files[shard].fileno(), [row.data.cast("B")], place)
        return self._out
