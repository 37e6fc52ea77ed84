"""Speed of reading segments: packed, decoded, cold, warm, and from two million clips.

Run from the checkout: python -m benchmarks.corpus --help
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks.batch_assembly import BATCH, SEGMENT, compare_assembly
from benchmarks.corpus_files import (
    CLIP,
    write_encoded,
    write_packed,
    write_sounds,
)
from benchmarks.harness import (
    Batches,
    Contender,
    Out,
    Report,
    Rounds,
    Row,
    compare,
    new_app,
    timed,
)
from benchmarks.large_index import measure_index
from benchmarks.loaders import batches_of, compare_cold, compare_loaders, packed_corpus
from benchmarks.waiting import compare_delivery, measure_waiting
from byola_rq.audio.io import SAMPLE_RATE
from byola_rq.corpus.decoded_clips import DecodedClips, measure_clips
from byola_rq.corpus.segments import SegmentCorpus, find_clips
from byola_rq.runtime.device import choose_device

app = new_app()


@app.command()
def main(
    *,
    folder: Annotated[
        Path | None, typer.Option(help="Folder for 1.5 GB of files; temporary by default.")
    ] = None,
    out: Out = None,
    rounds: Rounds = 5,
    batches: Batches = 60,
    clips: Annotated[int, typer.Option(min=8, help="Number of sounds of 10 s to encode.")] = 32,
    rows: Annotated[int, typer.Option(min=1000, help="Rows of the generated index.")] = 2_000_000,
    packed_clips: Annotated[
        int,
        typer.Option(min=16, help="Clips of 320 kB to pack; twice as many are read cold."),
    ] = 1600,
    steps: Annotated[
        int, typer.Option(min=1, help="Training steps of table 7, for each form.")
    ] = 3,
    train: Annotated[
        list[str] | None, typer.Option(help="SECTION.KEY=VALUE for the training of table 7.")
    ] = None,
    device: Annotated[
        str, typer.Option(help="Device of tables 6 and 7: auto, cpu, cuda.")
    ] = "auto",
) -> None:
    """Measure how segments of 0.95 s are read, in seven tables.

    \b
    1  segments per second: packed, and decoded from wav, flac, ogg, mp3, in one process;
       `part` seeks to the segment as training does, `whole` decodes the clip and cuts it
    2  ways to assemble a batch of 256, in memory
    3  `--batches` from loader processes: ours against torch's own way of sending tensors
    4  from the disk: files are evicted from memory before each round; `hints` tell the kernel
       of a whole batch before waiting for any of it; data.shuffle=windows pays off if `windows`
       is faster than random reads
    5  start-up, order and memory of a corpus with two million clips; bytes per hour of sound
    6  batches of a packed corpus on the device as float32
    7  share of time that training waits for data, packed and decoded, by default with D = 512 and
       batches of 64 (--train train.batch_size=256 --train encoder.dim=2048 is the paper's recipe)


    Each figure is the median over rounds in which the contenders of a table take turns; low and
    high are the extremes, and ratio compares with the table's first row. Compare only ratios, of
    one machine and run. A load above 0.5 at the start makes all figures preliminary. Takes about
    two minutes on two cores.

    \b
    Examples:
      python -m benchmarks.corpus
      python -m benchmarks.corpus --folder /mnt/slow_disk/tmp --out corpus.json
    """
    torch.set_num_threads(1)
    report = Report("numpy", "soundfile")
    with tempfile.TemporaryDirectory(dir=folder) as place:
        sounds = write_sounds(Path(place) / "sounds", clips)
        encoded = write_encoded(Path(place) / "encoded", sounds)
        warm = write_packed(Path(place) / "warm", sounds, packed_clips, packed_clips // 2)
        cold = write_packed(Path(place) / "cold", sounds, 2 * packed_clips, packed_clips // 2)
        report.add("1 segments in one process", compare_forms(warm, encoded, rounds))
        report.add("2 putting a batch together", compare_assembly(warm, rounds))
        report.add("3 batches from processes", compare_loaders(warm, batches, rounds))
        report.add("4 from the disk", compare_cold(cold, rounds))
        report.add("5 a large index", measure_index(Path(place) / "index", rows))
        report.add("bytes per hour", measure_bytes(encoded, len(sounds)))
        report.add("6 to the device", compare_delivery(warm, rounds, choose_device(device)))
        forms = {"packed": warm, "flac": encoded["flac"]}
        sizes = train or ["encoder.dim=512", "train.batch_size=64"]
        overrides = [f"run.device={device}", *sizes]
        waiting = measure_waiting(forms, Path(place), steps=steps, overrides=overrides)
        report.add("7 waiting in training", waiting)
    report.save(out)


def compare_forms(packed: Path, encoded: dict[str, Path], rounds: int) -> list[Row]:
    """Compare forms of clips in memory, in segments per second."""
    contenders = {"packed": reader(packed_corpus(packed), 20 * BATCH)}
    for name, folder in encoded.items():
        corpus = decoded_corpus(folder)
        if "kHz" not in name:
            contenders[f"{name}, part"] = reader(corpus, 128)
        contenders[f"{name}, whole"] = whole_reader(corpus, 32)
    # libmpg123 warns at every seek about the frames before it, which it discards.
    with silent_stderr():
        return compare(contenders, unit="segments", rounds=rounds)


@contextmanager
def silent_stderr() -> Iterator[None]:
    """Silence stderr, including the output of C libraries."""
    before = os.dup(2)
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)


def decoded_corpus(folder: Path) -> SegmentCorpus:
    """Open a corpus whose clips are decoded."""
    clips = measure_clips(find_clips([folder])[0], SAMPLE_RATE)
    return SegmentCorpus(clips, segment_samples=SEGMENT, seed=0)


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
    """Decode (and resample) whole clips, then cut the segment."""
    batches, clips = batches_of(corpus, num_segments), corpus.clips
    assert isinstance(clips, DecodedClips)

    def work() -> float:
        for _, index in next(batches):
            clips.read(int(index))[:SEGMENT].clone()
        return num_segments

    return timed(work)


def measure_bytes(encoded: dict[str, Path], num_clips: int) -> list[Row]:
    """Return megabytes per hour of sound for each form."""
    hours = num_clips * CLIP / SAMPLE_RATE / 3600
    rows: list[Row] = [{"name": "packed", "MB/hour": SAMPLE_RATE * 2 * 3600 / 1e6, "ratio": 1.0}]
    for name, folder in encoded.items():
        megabytes = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
        rows.append({"name": name, "MB/hour": megabytes / hours})
        rows[-1]["ratio"] = rows[-1]["MB/hour"] / rows[0]["MB/hour"]
    return rows


if __name__ == "__main__":
    app()
