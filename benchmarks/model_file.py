"""Cost of a model file: first embedding, long recording, half precision.

Run from the checkout: python -m benchmarks.model_file --help
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import soundfile
import torch
import typer

import byola_rq
from benchmarks.harness import new_app
from byola_rq.audio.io import AUDIO_SUFFIXES, read_audio
from byola_rq.embed.embedder import Embedder

app = new_app()

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


@app.command()
def main(
    model: Annotated[Path, typer.Argument(help="Model file.")],
    folder: Annotated[Path, typer.Argument(help="Folder of recordings, at least three minutes.")],
    hours: Annotated[float, typer.Option(min=0.01, help="Length of the long recording.")] = 2.0,
) -> None:
    """Measure on one core; the long recording is a temporary file.

    \b
    Example:
      python -m benchmarks.model_file encoder.safetensors /data/my_sounds --hours 0.5
    """
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}; {model.stat().st_size} bytes")
    time_first(model)
    paths = sorted(each for each in folder.rglob("*") if each.suffix in AUDIO_SUFFIXES)
    sound = torch.cat([read_audio(path, 16000) for path in paths[:40]])
    embed_long_file(byola_rq.load(model), sound, hours)
    compare_precisions(model, sound)


def time_first(path: Path) -> None:
    """Time from `import byola_rq` to the first embedding, in a separate process."""
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


def compare_precisions(path: Path, sound: torch.Tensor) -> None:
    """Compare half precision with float32."""
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
    """Measure time and memory of one long file."""
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
    app()
