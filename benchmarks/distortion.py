"""Distortion of log-mel spectrograms of real clips by quantization and mixup, in nat.

Run from the checkout: python -m benchmarks.distortion --help
"""

from pathlib import Path
from typing import Annotated, Literal

import torch
import typer
from torch import Tensor

from benchmarks.harness import new_app
from byola_rq.audio.frontend import LogMelSpectrogram, Statistics, measure_statistics
from byola_rq.augment.distortion import DistortionCurve, measure_distortion
from byola_rq.augment.mixup import Mixup
from byola_rq.augment.quantize import RandomizedQuantization, Rule, ValueRule
from byola_rq.corpus.segments import find_clips
from byola_rq.errors import AudioError
from byola_rq.listen.segments import read_segment
from byola_rq.plots.charts import draw_distortion
from byola_rq.plots.style import save_figure
from byola_rq.runtime.rng import permutation, sample_keys

app = new_app()

NUM_BINS = (2, 3, 5, 8, 15, 30, 60)
RULES: dict[str, tuple[Rule, ValueRule]] = {
    "random edges, random values": ("random", "random"),
    "uniform edges, random values": ("uniform", "random"),
    "uniform edges, midpoints": ("uniform", "midpoint"),
}
SEGMENT_SAMPLES = 15_200


@app.command()
def main(
    sources: Annotated[list[Path], typer.Argument(help="Folders, manifests or audio files.")],
    clips: Annotated[int, typer.Option(min=2, help="Number of clips, drawn from all.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Seed of clips and quantizers.")] = 0,
    picture: Annotated[Path | None, typer.Option(help="Also draw the curves.")] = None,
) -> None:
    """Quantize the loudest segment of each clip for all numbers of bins K and all rules.

    \b
    Example:
      python -m benchmarks.distortion /data/my_sounds --picture distortion.png
    """
    log_mels = read_log_mels(sources, clips, seed)
    curves = {
        name: measure_distortion(log_mels, NUM_BINS, bins=bins, values=values, seed=seed)
        for name, (bins, values) in RULES.items()
    }
    print(f"{len(log_mels)} segments, mean absolute error in nat (expected of even values)\n")
    print("| K | " + " | ".join(curves) + " |\n|---|" + "---|" * len(curves))
    for place, each in enumerate(NUM_BINS):
        cells = [_cell(curve, place) for curve in curves.values()]
        print(f"| {each} | {' | '.join(cells)} |")
    statistics = measure_statistics([log_mels])
    print(f"\nmixup, ratio 0.4, with another of these segments: {_mixup(log_mels, statistics):.2f}")
    print(f"K = 5, a quantizer for all bands: {_quantize(log_mels, 'instance'):.2f}, ", end="")
    print(f"for each: {_quantize(log_mels, 'channel'):.2f}")
    if picture is not None:
        measured = {name: curve.measured for name, curve in curves.items()}
        expected = {name: curve.expected for name, curve in curves.items()}
        save_figure(draw_distortion(NUM_BINS, measured, expected), picture)


def read_log_mels(sources: list[Path], num: int, seed: int) -> Tensor:
    """Read the loudest segment of `num` clips as log-mel spectrograms, `(num, F, T)`."""
    frontend = LogMelSpectrogram()
    found, _ = find_clips(sources)
    waveforms: list[Tensor] = []
    for place in permutation(len(found), seed=seed, epoch=0).tolist():
        if len(waveforms) == num:
            break
        try:
            segment = read_segment(found[place].path, frontend.sample_rate, SEGMENT_SAMPLES)
        except AudioError:
            continue
        waveforms.append(segment.waveform)
    log_mels: Tensor = frontend(torch.stack(waveforms))
    return log_mels


def _mixup(log_mels: Tensor, statistics: Statistics) -> float:
    """Mean distance of segments from their mixtures with another segment."""
    x = statistics.standardize(log_mels)[:, None]
    mixup = Mixup(memory=len(x))
    mixup.remember(x.roll(1, dims=0))
    keys = sample_keys(0, 0, torch.arange(len(x)))
    return float((mixup.apply(x, mixup.draw(x, keys)) - x).abs().mean()) * statistics.std


def _quantize(log_mels: Tensor, per: Literal["channel", "instance"]) -> float:
    """Mean distance of values from their quantization by five bins, over 16 draws a segment."""
    rows = log_mels.repeat_interleave(16, dim=0)
    keys = sample_keys(0, 0, torch.arange(len(rows)))
    return float((RandomizedQuantization(5, per=per)(rows, keys) - rows).abs().mean())


def _cell(curve: DistortionCurve, place: int) -> str:
    return f"{curve.measured[place]:.3f} ({curve.expected[place]:.3f})"


if __name__ == "__main__":
    app()
