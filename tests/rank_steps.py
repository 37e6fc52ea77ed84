"""Steps of a run in float64, where rounding is too small to hide a mistake."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from byola_rq.audio.frontend import LogMelSpectrogram, Statistics
from byola_rq.config import Config
from byola_rq.corpus.order import ClipOrder, StepSampler
from byola_rq.corpus.segments import SegmentCorpus, open_clips
from byola_rq.runtime.distributed import is_main, rank, world_size
from byola_rq.train.state import build_state
from byola_rq.train.step import train_step


class DoubleLogMel(LogMelSpectrogram):
    """Log-mel in float32, whose rounding is the same in every batch, converted to float64."""

    def forward(self, waveform: Tensor) -> Tensor:
        return super().forward(waveform).double()


def take_steps(config: Config, device: torch.device, num_steps: int, result: Path) -> None:
    clips, _ = open_clips(config.data.sources, config.frontend.sample_rate, print)
    frontend = DoubleLogMel(**config.frontend.model_dump())
    torch.set_default_dtype(torch.float64)  # of the networks
    training = build_state(
        config,
        Statistics(-6.0, 4.0),
        frontend,
        device=device,
        precision="float32",
        num_steps=num_steps,
    )
    corpus = SegmentCorpus(clips, segment_samples=config.segment_samples, seed=config.run.seed)
    sampler = StepSampler(
        ClipOrder(len(clips), seed=config.run.seed),
        config.train.batch_size,
        first_step=0,
        num_steps=num_steps,
        part=(rank(), world_size()),
    )
    for items in sampler:
        train_step(training, corpus.load(items))
    tensors = {name: each.contiguous() for name, each in training.byol.state_dict().items()}
    ring = training.views.state_dict()
    tensors |= {f"views.{name}": each for name, each in ring.items()}
    if is_main():
        save_file(tensors, result)
