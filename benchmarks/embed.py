"""Speed of embedding clips: in batches of one length, and one clip at a time.

Run from the checkout: python -m benchmarks.embed --help
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

import byola_rq
from benchmarks.harness import (
    Contender,
    Device,
    Out,
    Report,
    Rounds,
    Row,
    compare,
    new_app,
    open_device,
    timed,
)
from byola_rq.audio.io import SAMPLE_RATE
from byola_rq.embed.embedder import Embedder
from byola_rq.synthesis.generate import KINDS, make_clip

app = new_app()

AGREEMENT = 1e-3  # relative to the embeddings' largest element, in float32

Embed = Callable[[list[Tensor]], list[Tensor]]


@app.command()
def main(
    *,
    dim: Annotated[list[int] | None, typer.Option(help="Embedding sizes.")] = None,
    seconds: Annotated[list[float] | None, typer.Option(help="Lengths of clips.")] = None,
    clips: Annotated[int, typer.Option(min=2, help="Clips of each length.")] = 32,
    batch_seconds: Annotated[
        float, typer.Option(min=0.1, help="Seconds of sound per batch.")
    ] = 40.0,
    rounds: Rounds = 3,
    device: Device = "auto",
    out: Out = None,
) -> None:
    """Embed clips of 1, 4 and 10 s, and of all these lengths, in one table for each D.

    `batches` groups clips of one length, so that none is padded; `one by one` is a simple loop.
    Both must give the same embeddings, which is checked first. Reading files is not included (see
    benchmarks.corpus).

    \b
    Examples:
      python -m benchmarks.embed
      python -m benchmarks.embed --device cuda --clips 512 --batch-seconds 1000 --dim 2048
    """
    place = open_device(device)
    report = Report()
    lengths = seconds or [1.0, 4.0, 10.0]
    sounds = [
        torch.from_numpy(make_clip(kind, seed=0, seconds=max(lengths))) for kind in KINDS[:clips]
    ]
    for size in dim or [512, 2048]:
        embedder = load_untrained(size, place)
        rows: list[Row] = []
        for name, waveforms in {
            **{f"{each:g} s": cut(sounds, [each], clips) for each in lengths},
            "mixed": cut(sounds, lengths, clips),
        }.items():
            for row in compare_ways(embedder, waveforms, batch_seconds, rounds, place):
                rows.append({"clips": name, **row})
        report.add(f"D = {size}, {place.type}", rows)
    report.save(out)


def load_untrained(dim: int, device: torch.device) -> Embedder:
    """Load an embedder from a model file, as users do; its weights do not matter here."""
    with tempfile.TemporaryDirectory() as folder:
        Embedder.untrained(dim=dim).save(Path(folder) / "encoder.safetensors")
        return byola_rq.load(Path(folder) / "encoder.safetensors", device)


def cut(sounds: list[Tensor], lengths: list[float], num_clips: int) -> list[Tensor]:
    """Cut clips of the given lengths in turn, `(S,)` each."""
    return [
        sounds[number % len(sounds)][: round(lengths[number % len(lengths)] * SAMPLE_RATE)]
        for number in range(num_clips)
    ]


def compare_ways(
    embedder: Embedder,
    waveforms: list[Tensor],
    batch_seconds: float,
    rounds: int,
    device: torch.device,
) -> list[Row]:
    """Compare ways to embed, in clips per second."""
    ways: dict[str, Embed] = {
        "one by one": lambda clips: [embedder(clip, SAMPLE_RATE)[0] for clip in clips],
        "batches": lambda clips: embed_by_length(embedder, clips, batch_seconds),
    }
    expected, batched = (torch.stack(way(waveforms)).float() for way in ways.values())
    is_float32 = next(embedder.parameters()).dtype == torch.float32 and device.type == "cpu"
    difference = ((batched - expected).abs().max() / expected.abs().max()).item()
    if is_float32 and difference > AGREEMENT:
        raise typer.BadParameter(f"embeddings must not depend on the way; differ by {difference}")

    def contender(way: Embed) -> Contender:
        def work() -> float:
            way(waveforms)
            return len(waveforms)

        return timed(work, device)

    rows = compare(
        {name: contender(way) for name, way in ways.items()},
        unit="clips",
        rounds=rounds,
        peaks_on=device,
    )
    for row in rows:
        row["difference"] = difference
    return rows


def embed_by_length(
    embedder: Embedder, waveforms: list[Tensor], batch_seconds: float
) -> list[Tensor]:
    """Embed clips grouped by length; return embeddings in the clips' order."""
    by_length: dict[int, list[int]] = {}
    for number, waveform in enumerate(waveforms):
        by_length.setdefault(len(waveform), []).append(number)
    embeddings: dict[int, Tensor] = {}
    for length, numbers in by_length.items():
        size = max(round(batch_seconds * SAMPLE_RATE) // length, 1)
        for start in range(0, len(numbers), size):
            together = numbers[start : start + size]
            batch = torch.stack([waveforms[number] for number in together])
            embeddings.update(zip(together, embedder(batch, SAMPLE_RATE), strict=True))
    return [embeddings[number] for number in range(len(waveforms))]


if __name__ == "__main__":
    app()
