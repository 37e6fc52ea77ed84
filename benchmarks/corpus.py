"""How fast segments are read: packed, decoded, cold, warm, and at two million clips.

Run from the checkout: python -m benchmarks.corpus --help
"""

import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch.utils.data import DataLoader, Dataset

from benchmarks.batch_assembly import BATCH, SEGMENT, compare_assembly
from benchmarks.corpus_files import (
    CLIP,
    RATE,
    write_encoded,
    write_packed,
    write_sounds,
)
from benchmarks.harness import Contender, Report, Row, compare, describe_machine, new_app, timed
from benchmarks.large_index import measure_index
from benchmarks.page_cache import drop_from_memory
from byola_rq.corpus import SegmentCorpus, find_clips
from byola_rq.decoded_clips import DecodedClips, measure_clips
from byola_rq.loading import load_batches
from byola_rq.order import ClipOrder, IntArray, StepSampler
from byola_rq.packed_clips import PackedClips
from byola_rq.read_ahead import read_whole

app = new_app()


@app.command()
def main(
    folder: Annotated[
        Path | None, typer.Option(help="Where 1.5 GB of files are made; a temporary one else.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file to write the tables to.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of each comparison.")] = 5,
    clips: Annotated[int, typer.Option(min=8, help="Sounds of 10 s that are encoded.")] = 32,
    rows: Annotated[int, typer.Option(min=1000, help="Rows of the generated index.")] = 2_000_000,
) -> None:
    """Measure how segments of 0.95 s are read, in five tables.

    \b
    1  segments a second: packed against decoding wav, flac, ogg, mp3, in one process;
       `part` seeks to the segment as training does, `whole` decodes the clip and cuts it
    2  how a batch of 256 is put together: the way taken against others, all in memory
    3  batches from loader processes: ours against torch's own way of sending tensors
    4  from the disk: the files are put out of memory before each round; `hints` tell the kernel
       of a whole batch before any of it is waited for; where `windows` is faster than random
       reads, data.shuffle=windows is worth its price
    5  start-up, order and memory of a corpus with two million clips; bytes per hour of sound

    Every figure is the median of rounds in which all contenders of a table do their turn, low and
    high are the extremes, ratio is that to the table's first row. What counts are ratios: of one
    machine, in one run. A load above 0.5 at the start makes all figures preliminary. About a
    minute on two cores.

    \b
    Examples:
      python -m benchmarks.corpus
      python -m benchmarks.corpus --folder /mnt/slow_disk/tmp --out corpus.json
    """
    torch.set_num_threads(1)
    report = Report(describe_machine("byola_rq", "numpy", "torch", "soundfile"))
    with tempfile.TemporaryDirectory(dir=folder) as place:
        sounds = write_sounds(Path(place) / "sounds", clips)
        encoded = write_encoded(Path(place) / "encoded", sounds)
        warm = write_packed(Path(place) / "warm", sounds, num_clips=1600)
        cold = write_packed(Path(place) / "cold", sounds, num_clips=3200)
        report.add("1 segments in one process", compare_forms(warm, encoded, rounds))
        report.add("2 putting a batch together", compare_assembly(warm, rounds))
        report.add("3 batches from processes", compare_loaders(warm, rounds))
        report.add("4 from the disk", compare_cold(cold, rounds))
        report.add("5 a large index", measure_index(Path(place) / "index", rows))
        report.add("bytes per hour", measure_bytes(encoded, len(sounds)))
    if out:
        report.save(out)


def compare_forms(packed: Path, encoded: dict[str, Path], rounds: int) -> list[Row]:
    """Segments a second, by the form in which the clips lie in memory."""
    contenders = {"packed": reader(packed_corpus(packed), 20 * BATCH)}
    for name, folder in encoded.items():
        corpus = decoded_corpus(folder)
        if "kHz" not in name:
            contenders[f"{name}, part"] = reader(corpus, 128)
        contenders[f"{name}, whole"] = whole_reader(corpus, 32)
    # libmpg123 complains of every seek about frames before the place, which it throws away.
    with silent_stderr():
        return compare(contenders, unit="segments", rounds=rounds)


@contextmanager
def silent_stderr() -> Iterator[None]:
    """Also what C libraries write there."""
    before = os.dup(2)
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)


def packed_corpus(folder: Path) -> SegmentCorpus:
    """A corpus whose clips are sliced."""
    return SegmentCorpus(PackedClips.open([folder]), segment_samples=SEGMENT, seed=0)


def decoded_corpus(folder: Path) -> SegmentCorpus:
    """A corpus whose clips are decoded."""
    clips = measure_clips(find_clips([folder])[0], RATE)
    return SegmentCorpus(clips, segment_samples=SEGMENT, seed=0)


def batches_of(corpus: SegmentCorpus, size: int = BATCH) -> Iterator[IntArray]:
    """Random batches without end, others in every call."""
    order = ClipOrder(len(corpus.clips), seed=time.monotonic_ns() % 2**31)
    return iter(StepSampler(order, size, first_step=0, num_steps=10**9))


def reader(corpus: SegmentCorpus, num_segments: int) -> Contender:
    """Read random segments as training does."""
    size = min(BATCH, num_segments)
    batches = batches_of(corpus, size)

    def work() -> float:
        for _ in range(num_segments // size):
            corpus.load(next(batches))
        return num_segments

    return timed(work)


def whole_reader(corpus: SegmentCorpus, num_segments: int) -> Contender:
    """Decode (and resample) all of each clip, then cut the segment."""
    batches, clips = batches_of(corpus, num_segments), corpus.clips
    assert isinstance(clips, DecodedClips)

    def work() -> float:
        for _, index in next(batches):
            clips.read(int(index))[:SEGMENT].clone()
        return num_segments

    return timed(work)


class _TensorDataset(Dataset[Any]):
    """Batches as tensors, which torch's loader sends in shared memory made for each."""

    def __init__(self, corpus: SegmentCorpus) -> None:
        self.corpus = corpus

    def __getitems__(self, items: IntArray) -> tuple[torch.Tensor, torch.Tensor]:
        return tuple(self.corpus.load(items))  # type: ignore[return-value]


def compare_loaders(folder: Path, rounds: int) -> list[Row]:
    """Segments a second that reach the training process; they are in memory."""
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
    contenders = {name: puller(loader, 60) for name, loader in loaders.items()}
    return compare(contenders, unit="segments", rounds=rounds)


def puller(batches: Iterator[Any], num: int) -> Contender:
    """Take batches; those read ahead while others were measured are passed over."""

    def contender() -> tuple[float, float]:
        for _ in range(6):
            next(batches)
        started = time.perf_counter()
        for _ in range(num):
            next(batches)
        return num * BATCH, time.perf_counter() - started

    return contender


def compare_cold(folder: Path, rounds: int) -> list[Row]:
    """Segments a second from files that are not in memory, and once more from memory."""
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
                next(batches)  # by then the processes have started
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
        # Few: what the kernel reads around each is soon all of these files, and would be nothing
        # of a large corpus.
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


def measure_bytes(encoded: dict[str, Path], num_clips: int) -> list[Row]:
    """Megabytes per hour of sound, by form."""
    hours = num_clips * CLIP / RATE / 3600
    rows: list[Row] = [{"name": "packed", "MB/hour": RATE * 2 * 3600 / 1e6, "ratio": 1.0}]
    for name, folder in encoded.items():
        megabytes = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
        rows.append({"name": name, "MB/hour": megabytes / hours})
        rows[-1]["ratio"] = rows[-1]["MB/hour"] / rows[0]["MB/hour"]
    return rows


if __name__ == "__main__":
    app()
