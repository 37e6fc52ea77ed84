"""How fast a model file embeds, and what half precision and windows cost.

    python -m benchmarks.embedding encoder.safetensors FOLDER [--hours 2]

FOLDER holds recordings. One core; the long file is written, embedded and removed.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import torch

import byola_rq
from byola_rq.audio import AUDIO_SUFFIXES, read_audio
from byola_rq.embedder import Embedder

Rows = torch.Tensor | list[torch.Tensor]

FIRST = """
import time
start = time.perf_counter()
import byola_rq, sys
model = byola_rq.load(sys.argv[1])
loaded = time.perf_counter()
import numpy
model(numpy.zeros(16000, numpy.float32), 16000)
print(f"{loaded - start:.2f} {time.perf_counter() - start:.2f} {time.process_time():.2f}")
"""


def main() -> None:
    """Print every figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--hours", type=float, default=2.0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}; {arguments.model.stat().st_size} bytes")
    time_first(arguments.model)
    model = byola_rq.load(arguments.model)
    paths = sorted(each for each in arguments.folder.rglob("*") if each.suffix in AUDIO_SUFFIXES)
    sound = torch.cat([read_audio(path, 16000) for path in paths[:40]])
    embed_long_file(model, sound, arguments.hours)
    time_clips(model, sound)
    compare_precisions(arguments.model, sound)


def time_first(path: Path) -> None:
    """Time from `import byola_rq` to the first embedding, in a process of its own."""
    runs = []
    for _ in range(5):
        command = [sys.executable, "-c", FIRST, str(path)]
        output = subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, check=True
        ).stdout
        runs.append([float(number) for number in output.split()])
    loaded, embedded, core = np.median(runs, axis=0)
    print(
        f"import and load {loaded:.2f} s, first embedding after {embedded:.2f} s, "
        f"{core:.2f} s of a core (median of 5)"
    )


def time_clips(model: Embedder, sound: torch.Tensor) -> None:
    """Embeddings per second, alone, in batches, and in batches of unequal length."""
    for seconds, count in ((1, 64), (10, 16)):
        batch = sound[: count * seconds * 16000].reshape(count, -1)
        parts = np.random.default_rng(0).uniform(0.6, 1, count)
        ragged = [row[: round(len(row) * part)] for row, part in zip(batch, parts, strict=True)]
        share = sum(map(len, ragged)) / batch.numel()
        alone = rate(lambda rows: [model(row, 16000) for row in rows], batch)
        together = rate(lambda rows: model(rows, 16000), batch)
        unequal = rate(lambda rows: model(rows, 16000), ragged)
        print(
            f"{seconds} s clips, one core: {alone:.1f}/s alone, {together:.1f}/s in a batch of "
            f"{count}; of unequal length ({share:.2f} of the sound) {unequal:.1f}/s"
        )


def rate(function: Callable[[Rows], object], rows: Rows) -> float:
    """Clips per second of one core's time, the best of three, whatever else runs there."""
    times = []
    for _ in range(3):
        start = time.process_time()
        function(rows)
        times.append(time.process_time() - start)
    return len(rows) / min(times)


def compare_precisions(path: Path, sound: torch.Tensor) -> None:
    """Half precision against float32."""
    clips = sound[: 32 * 5 * 16000].reshape(32, -1)
    expected = byola_rq.load(path)(clips, 16000)
    for dtype in (torch.float16, torch.bfloat16):
        ours = byola_rq.load(path, dtype=dtype)(clips, 16000)
        error = ((ours - expected).norm(dim=1) / expected.norm(dim=1)).max()
        cosine = torch.nn.functional.cosine_similarity(ours, expected).min()
        print(
            f"{dtype}: relative error at most {error:.5f}, cosine at least {cosine:.6f} (32 clips)"
        )


def embed_long_file(model: Embedder, sound: torch.Tensor, hours: float) -> None:
    """Time and memory of one long file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "long.wav"
        with soundfile.SoundFile(path, "w", 22050, 1) as file:
            while file.frames < hours * 3600 * 22050:
                file.write(sound[: 60 * 22050].numpy())
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.process_time()
        model.embed_files([path], num_workers=1)
        gone = time.process_time() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(
            f"{hours:g} h in one file: {gone:.0f} s of one core, peak memory "
            f"{before / 1e6:.2f} -> {peak / 1e6:.2f} GB"
        )


if __name__ == "__main__":
    main()
