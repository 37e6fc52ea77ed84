"""Start-up, order and memory of a corpus with millions of clips, in sparse files."""

import json
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.batch_assembly import BATCH
from benchmarks.corpus_files import CLIP, write_index
from benchmarks.harness import Row
from byola_rq.corpus.order import ClipOrder, StepSampler, WindowOrder
from byola_rq.corpus.packed_clips import PackedClips
from byola_rq.corpus.packed_format import shard_name


def measure_index(folder: Path, num_rows: int) -> list[Row]:
    """Open, order and send a large corpus in a separate process; its shards are sparse files."""
    folder.mkdir()
    clips_per_shard = 3300
    for shard in range(-(-num_rows // clips_per_shard)):
        num_samples = min(clips_per_shard, num_rows - shard * clips_per_shard) * CLIP
        with (folder / shard_name(shard)).open("wb") as file:
            header = {"descr": "<i2", "fortran_order": False, "shape": (num_samples,)}
            np.lib.format.write_array_header_1_0(file, header)
            file.truncate(file.tell() + 2 * num_samples)
    write_index(folder, num_rows, clips_per_shard)
    command = [sys.executable, "-m", "benchmarks.large_index", str(folder), str(time.time())]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603
    rows: list[Row] = json.loads(done.stdout)
    return rows


def print_index_figures(folder: Path, started_at: float) -> None:
    """Run the measurements of `measure_index` in this process and print them."""
    rows: list[Row] = []

    def note(what: str, work: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        result = work()
        seconds = time.perf_counter() - started
        rows.append({"name": what, "seconds": seconds, "peak MB": peak_megabytes()})
        return result

    note("Python, imports", lambda: None)
    rows[0]["seconds"] = time.time() - started_at
    torch.set_num_threads(1)
    clips = note("open the corpus", lambda: PackedClips.open([folder]))
    note("its digest", lambda: clips.digest)
    order = ClipOrder(len(clips), seed=0)
    note("order of an epoch", lambda: order.epoch(0))
    windows = WindowOrder(clips.shard, window_shards=4, seed=0)
    note("order of an epoch in windows", lambda: windows.epoch(0))
    sampler = StepSampler(order, BATCH, first_step=0, num_steps=1000)
    note("first 1000 batches of the order", lambda: list(sampler))
    text = note("pickle for a process", lambda: pickle.dumps(clips))
    note("unpickle there", lambda: pickle.loads(text))  # noqa: S301
    print(json.dumps(rows))


def peak_megabytes() -> float:
    """Peak memory of this process in MB, including shared libraries."""
    # Not getrusage's figure, which a process inherits from its parent.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6


if __name__ == "__main__":
    print_index_figures(Path(sys.argv[1]), float(sys.argv[2]))
