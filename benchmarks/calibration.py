"""Effect of clip level and of calibrated batch norms on an encoder's scores.

Run from the checkout: python -m benchmarks.calibration --help
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch import Tensor, nn

from benchmarks.harness import Device, Out, Report, Row, new_app, open_device
from byola_rq.audio.frontend import LogMelSpectrogram, measure_statistics
from byola_rq.audio.io import fit_length, read_audio
from byola_rq.corpus.segments import SegmentCorpus, open_clips
from byola_rq.embed.embedder import Embedder, load
from byola_rq.model.encoder import Encoder, pool_over_time, split_blocks
from evaluate.probes.fit import fit_logistic
from evaluate.probes.prepared import Part
from evaluate.tasks.folds import class_indices, make_folds
from evaluate.tasks.labelled_csv import read_labelled_csv
from evaluate.tasks.task import Task

app = new_app(no_args_is_help=True)

NUM_SEGMENTS = 512  # of the corpus, or clips of the task, to calibrate batch norms on
SEGMENT_SAMPLES = 15_200
RMS = 0.05  # of every clip at `one level`, -26 dB
BATCH_FRAMES = 8192
LEVELS = ("as recorded", "one level")


@dataclass(frozen=True)
class Variant:
    """Untrained encoder: calibration of its batch norms, and whether it has ReLUs."""

    calibrated_on: str = ""  # corpus or task; empty: batch norms are the identity
    parts: tuple[str, ...] = ("mean", "variance")
    has_relu: bool = True
    levels: tuple[str, ...] = ("as recorded",)


VARIANTS = {
    "untrained": Variant(levels=LEVELS),
    "calibrated on the corpus": Variant("corpus", levels=LEVELS),
    "calibrated on the task": Variant("task"),
    "calibrated, means alone": Variant("corpus", ("mean",)),
    "calibrated, variances alone": Variant("corpus", ("variance",)),
    "calibrated, one variance": Variant("corpus", ("one variance",)),
    "untrained, no ReLU": Variant(has_relu=False),
    "calibrated on the corpus, no ReLU": Variant("corpus", has_relu=False),
}


@dataclass(frozen=True, eq=False)
class LogMels:
    """Task as log-mels `(N, 1, F, T)`, standardized by the training clips of its first fold.

    `python -m evaluate` instead standardizes fold by fold.
    """

    task: Task
    leveled: dict[str, Tensor]  # by each of LEVELS


@app.command()
def main(
    *,
    tasks: Annotated[list[Path], typer.Argument(help="Labeled csv files.")],
    corpus: Annotated[Path, typer.Option(help="Packed corpus or folder of clips to calibrate on.")],
    unit_seconds: Annotated[float, typer.Option(help="Length of a clip.")] = 1.0,
    model: Annotated[list[Path] | None, typer.Option(help="Trained model; repeatable.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of untrained encoders.")] = 3,
    dim: Annotated[int, typer.Option(min=1, help="Embedding size of untrained encoders.")] = 512,
    device: Device = "auto",
    out: Out = None,
) -> None:
    """Probe untrained encoders, calibrated and without ReLU, and trained ones.

    Uses the clips as recorded, and all at one level (RMS). Prints the accuracy in percent of a
    logistic probe, as in `python -m evaluate`: mean, lowest and highest over seeds.

    \b
    Example:
      python -m benchmarks.calibration fsdd/metadata.csv --corpus packed --model encoder.safetensors
    """
    place = open_device(device)
    report = Report(dim=dim, unit_seconds=unit_seconds)
    frontend = LogMelSpectrogram().to(place)
    segments = read_segments(corpus, frontend, place)
    for path in tasks:
        log_mels = read_log_mels(read_labelled_csv(path, unit_seconds), frontend, place)
        rows = [*probe_untrained(log_mels, segments, seeds, dim), *probe_trained(log_mels, model)]
        report.add(log_mels.task.name, rows)
    report.save(out)


def read_segments(source: Path, frontend: LogMelSpectrogram, device: torch.device) -> Tensor:
    """Compute standardized log-mels of random segments of a corpus, `(N, 1, F, T)`."""
    clips, _ = open_clips([source], frontend.sample_rate, print)
    chosen = np.linspace(0, len(clips) - 1, min(NUM_SEGMENTS, len(clips)), dtype=np.int64)
    items = np.stack([np.zeros_like(chosen), chosen], axis=1)
    corpus = SegmentCorpus(clips, segment_samples=SEGMENT_SAMPLES, seed=0)
    log_mel = frontend(corpus.load(items).to(device).waveform)[:, None]
    return measure_statistics([log_mel]).standardize(log_mel)


def read_log_mels(task: Task, frontend: LogMelSpectrogram, device: torch.device) -> LogMels:
    """Decode a task's clips; pad those shorter than its unit with zeros at the end."""
    num_samples = round(task.unit_seconds * frontend.sample_rate)
    read: dict[str, list[Tensor]] = {level: [] for level in LEVELS}
    for clip in task.clips:
        waveform = read_audio(clip.path, frontend.sample_rate, 0, num_samples)
        rms = waveform.square().mean().sqrt().clamp(min=1e-5)
        for level, gain in zip(LEVELS, (torch.ones(()), RMS / rms), strict=True):
            read[level].append(fit_length(waveform * gain, num_samples))
    train = make_folds(task, 0)[0].train
    leveled: dict[str, Tensor] = {}
    for level, waveforms in read.items():
        parts = torch.split(torch.stack(waveforms), 64)
        log_mel = torch.cat([frontend(part.to(device)) for part in parts])[:, None]
        leveled[level] = measure_statistics([log_mel[train]]).standardize(log_mel)
    return LogMels(task, leveled)


def probe_untrained(log_mels: LogMels, segments: Tensor, num_seeds: int, dim: int) -> Iterator[Row]:
    """Yield a row for each variant and level."""
    train = make_folds(log_mels.task, 0)[0].train[:NUM_SEGMENTS]
    for name, variant in VARIANTS.items():
        for level in variant.levels:
            x = log_mels.leveled[level]
            known = {"corpus": segments, "task": x[train]}.get(variant.calibrated_on)
            scores = []
            for seed in range(num_seeds):
                encoder = Embedder.untrained(dim=dim, seed=seed).encoder.to(x.device)
                if known is not None:
                    calibrate(encoder, known, variant.parts)
                embed = encoder if variant.has_relu else without_relu(encoder)
                scores.append(probe(embed, log_mels.task, x))
            yield make_row(name, level, scores)


def probe_trained(log_mels: LogMels, paths: Sequence[Path] | None) -> Iterator[Row]:
    """Yield a row for each model and level."""
    for path in paths or []:
        for level, x in log_mels.leveled.items():
            score = probe(load(path, x.device).encoder, log_mels.task, x)
            yield make_row(path.stem, level, [score])


def make_row(encoder: str, level: str, scores: Sequence[float]) -> Row:
    """Return a row of the table."""
    return {
        "encoder": encoder,
        "level": level,
        "percent right": f"{np.mean(scores):.1f}",
        "lowest, highest": f"{min(scores):.1f}, {max(scores):.1f}",
    }


def without_relu(encoder: Encoder) -> Callable[[Tensor], Tensor]:
    """Return the encoder with only max-pooling between its layers."""
    layers = [each for each in encoder.fc if not isinstance(each, nn.ReLU)]
    encoder.fc = nn.Sequential(*layers)

    def embed(x: Tensor) -> Tensor:
        for convolution, norm, pool, _ in split_blocks(encoder.features):
            x = pool(norm(convolution(x)))
        return pool_over_time(encoder.frames_of(x))

    return embed


@torch.no_grad()
def calibrate(encoder: Encoder, x: Tensor, parts: Sequence[str]) -> None:
    """Set running statistics to those of `x`, `(N, 1, F, T)`, block by block."""
    for convolution, norm, *rest in split_blocks(encoder.features):
        assert isinstance(norm, nn.BatchNorm2d)
        moments = [
            (part.sum((0, 2, 3)), part.square().sum((0, 2, 3)))
            for part in (convolution(each).double() for each in torch.split(x, 32))
        ]
        size = len(x) * x.shape[2] * x.shape[3]  # convolutions preserve bands and frames
        mean, square = (torch.stack(each).sum(0) / size for each in zip(*moments, strict=True))
        if "mean" in parts:
            norm.get_buffer("running_mean").copy_(mean)
        variance = square - mean**2
        if "variance" in parts:
            norm.get_buffer("running_var").copy_(variance)
        if "one variance" in parts:
            norm.get_buffer("running_var").fill_(variance.mean())
        block = nn.Sequential(convolution, norm, *rest)
        x = torch.cat([block(each) for each in torch.split(x, 32)])


@torch.no_grad()
def probe(embed: Callable[[Tensor], Tensor], task: Task, x: Tensor) -> float:
    """Accuracy in percent of a logistic probe on the test clips, mean over folds."""
    size = max(1, BATCH_FRAMES // x.shape[-1])
    embeddings = torch.cat([embed(part) for part in torch.split(x, size)]).cpu().numpy()
    labels = class_indices(task)
    scores = []
    for fold in make_folds(task, 0):
        train, valid = (Part(embeddings[p], labels[p]) for p in (fold.train, fold.valid))
        (fitted,) = fit_logistic(train, valid, seed=0, device="cpu")
        scores.append(np.mean(fitted.predict(embeddings[fold.test]) == labels[fold.test]))
    return 100 * float(np.mean(scores))


if __name__ == "__main__":
    app()
