"""Loss curves of the fast step and of the plain one, over seeds, on real clips.

Run from the checkout: python -m benchmarks.learning --help
"""

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from benchmarks.harness import Device, Out, Report, Row, new_app, open_device
from benchmarks.plain_step import PlainStep
from byola_rq.audio.frontend import LogMelSpectrogram, measure_statistics
from byola_rq.config import Config, default_config_path, load_config
from byola_rq.corpus.clips import Clips
from byola_rq.corpus.order import ClipOrder, StepSampler
from byola_rq.corpus.segments import SegmentBatch, SegmentCorpus, open_clips
from byola_rq.embed.embedder import Embedder
from byola_rq.model.encoder import build_encoder
from byola_rq.runtime.device import Precision
from byola_rq.runtime.progress import ProgressBar
from byola_rq.train.state import build_state
from byola_rq.train.step import train_step

app = new_app()


@app.command()
def main(
    *,
    source: Annotated[Path, typer.Argument(help="Packed corpus, or a folder of clips.")],
    steps: Annotated[int, typer.Option(min=10, help="Steps of each run.")] = 300,
    seeds: Annotated[int, typer.Option(min=2, help="Number of runs of each path.")] = 3,
    batch: Annotated[int, typer.Option(min=2, help="Segments per step.")] = 32,
    dim: Annotated[int, typer.Option(min=1, help="Embedding size D.")] = 512,
    device: Device = "auto",
    models: Annotated[
        Path | None, typer.Option(help="Folder for the model files, for probing.")
    ] = None,
    out: Out = None,
) -> None:
    """Run the plain and the fast step from equal weights on equal clips, with several seeds.

    The plain step computes in float32, the fast one in float32 and in bfloat16. A seed determines
    weights, order, crops and augmentations; dropout differs between the paths as between seeds.
    Each tenth of the run has a row: mean loss over seeds, lowest and highest, and the distance from
    the mean of plain in units of plain's standard deviation over seeds. Equal learning is a
    distance of a unit or two, of either sign. Takes about a quarter of an hour on two cores.

    \b
    Examples:
      python -m benchmarks.learning /data/pool
      python -m benchmarks.learning /data/pool --models models/
      python -m benchmarks.learning /data/fsd50k_packed --device cuda --batch 256 --dim 2048
    """
    place = open_device(device)
    report = Report(batch=batch, D=dim, steps=steps, seeds=seeds)
    curves: dict[str, list[list[float]]] = {"plain": [], "fast": [], "fast, bfloat16": []}
    for seed in range(seeds):
        config = load_config(
            default_config_path(),
            [
                f"run.seed={seed}",
                f"data.source={source}",
                "run.dir=unused",
                f"train.batch_size={batch}",
                f"encoder.dim={dim}",
            ],
        )
        clips, _ = open_clips(config.data.sources, config.frontend.sample_rate, print)
        for name, curve in curves.items():
            precision: Precision = "bfloat16" if name.endswith("bfloat16") else "float32"
            curve.append([])
            with ProgressBar(f"seed {seed}, {name}", steps) as bar:
                learner = Learner(config, clips, place, precision, steps, is_fast=name != "plain")
                for loss in learner.losses():
                    curve[-1].append(loss)
                    bar.advance()
            if models:
                learner.save(models / f"{name.replace(', ', '-')}-{seed}.safetensors")
    report.add("loss by tenths of the run", summarize(curves))
    report.save(out)


class Learner:
    """Training run of one path."""

    def __init__(
        self,
        config: Config,
        clips: Clips,
        device: torch.device,
        precision: Precision,
        num_steps: int,
        *,
        is_fast: bool,
    ) -> None:
        seed, batch_size = config.run.seed, config.train.batch_size
        self.corpus = SegmentCorpus(clips, segment_samples=config.segment_samples, seed=seed)
        order = ClipOrder(len(clips), seed=seed)
        self.sampler = StepSampler(order, batch_size, first_step=0, num_steps=num_steps)
        frontend = LogMelSpectrogram(**config.frontend.model_dump()).to(device)
        level = measure_statistics(
            frontend(self.corpus.load(items).to(device).waveform)
            for items in StepSampler(order, batch_size, first_step=0, num_steps=8)
        )
        self.training = build_state(
            config, level, frontend, device=device, precision=precision, num_steps=num_steps
        )
        torch.manual_seed(seed)
        self.plain = None if is_fast else PlainStep(self.training)

    def losses(self) -> Iterator[float]:
        """Run all steps and yield their losses."""
        for items in self.sampler:
            yield self._step(self.corpus.load(items)).item()

    def _step(self, batch: SegmentBatch) -> Tensor:
        if self.plain:
            return self.plain(batch)
        outcome = train_step(self.training, batch)
        assert not outcome.is_skipped
        return outcome.loss

    def save(self, path: Path) -> None:
        """Write a model file."""
        config = self.training.config
        encoder = build_encoder(
            config.encoder.name, dim=config.encoder.dim, n_mels=config.frontend.n_mels
        )
        learned = self.plain.byol.encoder if self.plain else self.training.byol.encoder
        encoder.load_state_dict(learned.state_dict())
        frontend = LogMelSpectrogram(**config.frontend.model_dump())
        path.parent.mkdir(parents=True, exist_ok=True)
        Embedder(encoder, frontend, self.training.statistics).save(path)


def summarize(curves: dict[str, list[list[float]]]) -> list[Row]:
    """Return a row for each tenth of the runs and each path; the first path is the reference."""
    num_steps = len(next(iter(curves.values()))[0])
    rows: list[Row] = []
    for tenth in range(10):
        part = slice(tenth * num_steps // 10, (tenth + 1) * num_steps // 10)
        losses = {
            name: [statistics.mean(curve[part]) for curve in of_path]
            for name, of_path in curves.items()
        }
        first = next(iter(losses.values()))
        spread = statistics.stdev(first)
        for name, of_path in losses.items():
            distance = statistics.mean(of_path) - statistics.mean(first)
            rows.append(
                {
                    "steps": f"{part.start + 1}-{part.stop}",
                    "path": name,
                    "loss": statistics.mean(of_path),
                    "low": min(of_path),
                    "high": max(of_path),
                    "distance": distance / spread if spread > 0 else float("nan"),
                }
            )
    return rows


if __name__ == "__main__":
    app()
