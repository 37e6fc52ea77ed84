"""Batches of a packed corpus in the training process, from memory and from disk."""

import threading
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.batch_assembly import BATCH, SEGMENT
from benchmarks.harness import Contender, Row, compare, timed
from benchmarks.page_cache import drop_from_memory
from byola_rq.corpus.device_batches import RING, DeviceBatches
from byola_rq.corpus.loading import load_batches
from byola_rq.corpus.order import ClipOrder, IntArray, StepSampler
from byola_rq.corpus.packed_clips import PackedClips
from byola_rq.corpus.read_ahead import read_whole
from byola_rq.corpus.segments import SegmentCorpus


def packed_corpus(folder: Path) -> SegmentCorpus:
    """Open a corpus whose clips are sliced."""
    return SegmentCorpus(PackedClips.open([folder]), segment_samples=SEGMENT, seed=0)


def delivered(corpus: SegmentCorpus, num_workers: int, device: torch.device) -> DeviceBatches:
    """Return endless random batches on the device, as in training."""
    loaded = load_batches(
        corpus,
        batches_of(corpus),
        batch_size=BATCH,
        num_workers=num_workers,
        num_valid=RING if device.type == "cuda" else 0,
        device=device,
    )
    return DeviceBatches(loaded, device)


def batches_of(corpus: SegmentCorpus, size: int = BATCH) -> Iterator[IntArray]:
    """Yield endless random batches, different in every call."""
    order = ClipOrder(len(corpus.clips), seed=time.monotonic_ns() % 2**31)
    return iter(StepSampler(order, size, first_step=0, num_steps=10**9))


class _TensorDataset(Dataset[Any]):
    """Batches as tensors, for which torch's loader allocates shared memory each time."""

    def __init__(self, corpus: SegmentCorpus) -> None:
        self.corpus = corpus

    def __getitems__(self, items: IntArray) -> tuple[torch.Tensor, torch.Tensor]:
        return tuple(self.corpus.load(items))  # type: ignore[return-value]


def compare_loaders(folder: Path, num: int, rounds: int) -> list[Row]:
    """Compare loaders of clips in memory, `num` batches a turn, in segments per second."""
    corpus = packed_corpus(folder)

    def theirs(num_workers: int) -> Iterator[Any]:
        sampler: Any = batches_of(corpus)
        dataset = _TensorDataset(corpus)
        return iter(
            DataLoader(dataset, batch_sampler=sampler, num_workers=num_workers, collate_fn=tuple)
        )

    def ours(num_workers: int) -> Iterator[Any]:
        return load_batches(corpus, batches_of(corpus), batch_size=BATCH, num_workers=num_workers)

    loaders = {
        "no process": ours(0),
        "1 process": ours(1),
        "2 processes": ours(2),
        "torch's sending, 1": theirs(1),
        "torch's sending, 2": theirs(2),
    }
    contenders = {name: puller(loader, num) for name, loader in loaders.items()}
    rows = compare(contenders, unit="segments", rounds=rounds)
    for loader in reversed(loaders.values()):  # ours kill processes started after them
        if isinstance(loader, Generator):
            loader.close()
    return rows


def puller(batches: Iterator[Any], num: int) -> Contender:
    """Take batches, skipping those read ahead while others were measured."""

    def contender() -> tuple[float, float]:
        for _ in range(6):
            next(batches)
        started = time.perf_counter()
        for _ in range(num):
            next(batches)
        return num * BATCH, time.perf_counter() - started

    return contender


def compare_cold(folder: Path, rounds: int) -> list[Row]:
    """Compare reading from disk and from memory, in segments per second."""
    shards = sorted(folder.glob("pcm-*.npy"))
    residue: list[float] = []

    def contender(num_workers: int, *, is_cold: bool) -> Contender:
        def work() -> tuple[float, float]:
            if is_cold:
                residue.append(drop_from_memory(shards))
            else:
                read_whole(shards, threading.Event())
            corpus = packed_corpus(folder)
            samples = batches_of(corpus)
            batches = load_batches(corpus, samples, batch_size=BATCH, num_workers=num_workers)
            with closing(batches):
                next(batches)  # wait until the processes have started
                started = time.perf_counter()
                for _ in range(24):
                    next(batches)
                return 24 * BATCH, time.perf_counter() - started

        return work

    def without_hints() -> tuple[float, float]:
        residue.append(drop_from_memory(shards))
        corpus = packed_corpus(folder)
        assert isinstance(corpus.clips, PackedClips)
        for shard in corpus.clips.shards:
            shard.pages = None
        # Few batches: read-ahead around each would soon bring all of these files to memory, which
        # it could not for a large corpus.
        return timed(lambda: len(corpus.load(next(batches_of(corpus, 32))).key))()

    def whole_shards() -> tuple[float, float]:
        residue.append(drop_from_memory(shards))
        started = time.perf_counter()
        read_whole(shards, threading.Event())
        return len(PackedClips.open([folder])), time.perf_counter() - started

    rows = compare(
        {
            "cold, no process": contender(0, is_cold=True),
            "cold, 1 process": contender(1, is_cold=True),
            "cold, 2 processes": contender(2, is_cold=True),
            "cold, no process, no hints": without_hints,
            "cold, windows (whole shards)": whole_shards,
            "warm, no process": contender(0, is_cold=False),
            "warm, 1 process": contender(1, is_cold=False),
            "warm, 2 processes": contender(2, is_cold=False),
        },
        unit="segments",
        rounds=min(rounds, 3),
    )
    if max(residue) > 0.01:
        for row in rows:
            row["name"] += f" (files stayed in memory: {max(residue):.0%})"
    return rows
