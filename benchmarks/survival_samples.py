"""Digests of the samples of every step, independent of who reads them.

`python -m benchmarks.survival_samples CONFIG FOLDER FIRST LAST` runs one process of a reading.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.survival_runs import ROOT, make_config
from byola_rq.audio.frontend import LogMelSpectrogram, Statistics
from byola_rq.augment.views import Views
from byola_rq.config import Config, load_config
from byola_rq.corpus.decoded_clips import measure_clips
from byola_rq.corpus.loading import load_batches
from byola_rq.corpus.order import ClipOrder, IntArray, StepSampler
from byola_rq.corpus.segments import SegmentCorpus, find_clips
from byola_rq.runtime.distributed import is_main, process_group, rank, world_size

# All augmentations; mixup's ring is saved in the checkpoint.
AUGMENTATIONS = (
    "views.augmentations=[mixup, random_resized_crop, randomized_quantization, random_linear_fader]"
)
STATISTICS = Statistics(mean=-6.0, std=4.0)  # close to those of real recordings
RING = "views.safetensors"


@dataclass(frozen=True)
class Reading:
    """Range of steps, with the number of processes and loaders that read it."""

    processes: int
    workers: int
    first: int
    last: int  # end of the range, exclusive


@dataclass(frozen=True)
class Sequence:
    """Samples of a whole run: readers, number of samples, and digest."""

    name: str
    samples: int
    digest: str


def digest_sequences(
    clips: Path, folder: Path, *, steps: int, ways: Iterable[tuple[int, int]]
) -> list[Sequence]:
    """Digest samples read by (processes, loaders each), and by a number that changes half-way.

    A sample is its (epoch, clip index), the bytes of its segment, its randomness key and all
    draws of both views' augmentations.
    """
    plans = {
        f"{processes} process(es) x {workers} loaders": [Reading(processes, workers, 0, steps)]
        for processes, workers in ways
    }
    plans["1 process x 1 loader, then 2 x 1"] = [
        Reading(1, 1, 0, steps // 2),
        Reading(2, 1, steps // 2, steps),
    ]
    sequences = []
    for number, (name, readings) in enumerate(plans.items()):
        place = folder / f"reading-{number}"
        place.mkdir(parents=True)
        for reading in readings:
            _start(clips, place, reading)
        rows = [row for path in place.glob("rows-*.json") for row in json.loads(path.read_text())]
        digest = hashlib.sha256()
        for step, position, sample in sorted(rows):
            digest.update(f"{step} {position} {sample}\n".encode())
        sequences.append(Sequence(name, len(rows), digest.hexdigest()))
    return sequences


def _start(clips: Path, place: Path, reading: Reading) -> None:
    """Run the processes of a reading to their end."""
    overrides = (AUGMENTATIONS, "views.mixup.memory=16", f"data.workers={reading.workers}")
    config = place / "config.yaml"
    config.write_text(make_config(clips, place, overrides).to_yaml(), encoding="utf-8")
    launcher = [sys.executable]
    if reading.processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone"]
        launcher += [f"--nproc-per-node={reading.processes}"]
    module = ["-m", "benchmarks.survival_samples"]
    values = [str(each) for each in (config, place, reading.first, reading.last)]
    subprocess.run(  # noqa: S603  # nothing from outside is in it
        [*launcher, *module, *values],
        check=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )


def read_part(config: Config, place: Path, first: int, last: int) -> None:
    """Write one process's part of every step, sample by sample, to `place`."""
    rate, size, seed = config.frontend.sample_rate, config.train.batch_size, config.run.seed
    clips = measure_clips(find_clips(config.data.sources)[0], rate)
    corpus = SegmentCorpus(clips, segment_samples=config.segment_samples, seed=seed)
    order, part = ClipOrder(len(clips), seed=seed), (rank(), world_size())
    sampler = StepSampler(order, size, first_step=first, num_steps=last, part=part)
    frontend = LogMelSpectrogram(**config.frontend.model_dump())
    views = Views(config.views.chain(), post_norm=config.views.post_norm)
    if first:
        views.load_state_dict(load_file(place / RING))
    drawn = _record_draws(views)
    workers = config.data.workers
    assert isinstance(workers, int)
    batches = load_batches(corpus, sampler, batch_size=size // world_size(), num_workers=workers)
    rows: list[tuple[int, int, str]] = []
    with closing(batches):
        for step, items, batch in zip(range(first, last), sampler, batches, strict=True):
            drawn.clear()
            views(STATISTICS.standardize(frontend(batch.waveform))[:, None], batch.key)
            position = rank() * len(items)
            values = [batch.waveform, batch.key, *drawn]
            digests = _digest_rows(items, values)
            rows += [(step, position + row, digest) for row, digest in enumerate(digests)]
    (place / f"rows-{first}-{rank()}.json").write_text(json.dumps(rows))
    if is_main():
        save_file(views.state_dict(), place / RING)


def _record_draws(views: Views) -> list[Tensor]:
    """Return a list that receives all draws of the views' augmentations, `(B, ...)` each."""
    drawn: list[Tensor] = []

    def record(augmentation: Any) -> None:
        draw = augmentation.draw

        def recorded(x: Tensor, key: Tensor) -> Any:
            parameters = draw(x, key)
            values = [getattr(parameters, field.name) for field in fields(parameters)]
            drawn.extend(each for each in values if isinstance(each, Tensor))
            return parameters

        augmentation.draw = recorded

    for augmentation in views.augmentations.values():
        record(augmentation)
    return drawn


def _digest_rows(items: IntArray, values: list[Tensor]) -> list[str]:
    arrays = [np.ascontiguousarray(items), *(each.contiguous().numpy() for each in values)]
    for array in arrays:
        assert len(array) == len(items), array.shape
    return [
        hashlib.sha256(b"".join(array[row].tobytes() for array in arrays)).hexdigest()
        for row in range(len(items))
    ]


if __name__ == "__main__":
    torch.set_num_threads(1)
    _config, _place, _first, _last = sys.argv[1:]
    # Set before the rank is read: a lone process is rank 0 of 1.
    with process_group(torch.device("cpu")):
        read_part(load_config(Path(_config)), Path(_place), int(_first), int(_last))
