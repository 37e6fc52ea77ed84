"""Schema of config.yaml."""

import re
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import AfterValidator, Field, model_validator

from byola_rq.config.fields import Count, Float, Int, PathHere, Positive, Section, expand_home
from byola_rq.config.views import ViewsConfig

# Maximum of each option of a frontend: the spectrogram of a second of sound must fit into memory.
FRONTEND_LIMITS = {
    "sample_rate": 768_000,
    "n_fft": 65_536,
    "win_length": 65_536,
    "hop_length": 65_536,
    "n_mels": 512,
}


def _is_device(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
        raise ValueError("must be auto, cpu, cuda or cuda:N")
    return value


class RunConfig(Section):
    """Directory, seed and device of a run."""

    dir: PathHere
    seed: Annotated[Int, Field(ge=0, lt=2**31)]
    device: Annotated[str, AfterValidator(_is_device)]
    precision: Literal["auto", "float32", "tf32", "bfloat16"]
    stall_minutes: Positive | None
    threads: Literal["auto"] | Count


class DataConfig(Section):
    """Training data."""

    source: PathHere | list[PathHere] | None
    segment_seconds: Positive
    workers: Literal["auto"] | Annotated[Int, Field(ge=0)]
    resident: Literal["auto", True, False]
    shuffle: Literal["full", "windows"]
    window_shards: Count

    @property
    def sources(self) -> list[Path]:
        """Sources as a list, empty if none is named."""
        if self.source is None:
            return []
        return self.source if isinstance(self.source, list) else [self.source]


class FrontendConfig(Section):
    """Arguments of `LogMelSpectrogram`."""

    backend: Literal["torch", "nnaudio", "torchaudio", "librosa"]
    sample_rate: Annotated[Int, Field(ge=1000, le=FRONTEND_LIMITS["sample_rate"])]
    n_fft: Annotated[Int, Field(ge=2, le=FRONTEND_LIMITS["n_fft"])]
    win_length: Annotated[Int, Field(ge=1, le=FRONTEND_LIMITS["win_length"])]
    hop_length: Annotated[Int, Field(ge=1, le=FRONTEND_LIMITS["hop_length"])]
    n_mels: Annotated[Int, Field(ge=8, le=FRONTEND_LIMITS["n_mels"], multiple_of=8)]
    f_min: Annotated[Float, Field(ge=0)]
    f_max: Positive

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.win_length > self.n_fft:
            raise ValueError(f"win_length must be at most n_fft; got {self.win_length}")
        if not self.f_min < self.f_max <= self.sample_rate / 2:
            raise ValueError(
                f"f_max must be above f_min and at most half the sample rate; got {self.f_max:g}"
            )
        return self


class EncoderConfig(Section):
    """Encoder, its size and its initial weights."""

    name: Literal["audio_ntt_2020", "audio_ntt_2022"]
    dim: Count
    init: Annotated[str, AfterValidator(expand_home)] | None
    freeze_steps: Annotated[Int, Field(ge=0)]


class ObjectiveConfig(Section):
    """Objective that compares two views."""

    name: Literal["byol", "infonce"]
    temperature: Positive


class ByolConfig(Section):
    """Heads and target network, for every objective."""

    projection_dim: Count
    hidden_dim: Count
    ema_decay: Annotated[Float, Field(ge=0, le=1)]
    ema_schedule: Literal["constant", "cosine"]


class OptimizerConfig(Section):
    """Optimizer and its learning rate."""

    name: Literal["adam", "adamw"]
    lr: Positive
    weight_decay: Annotated[Float, Field(ge=0)]
    schedule: Literal["constant", "cosine"]
    warmup_steps: Annotated[Int, Field(ge=0)]
    clip_norm: Positive | None


class TrainConfig(Section):
    """Length and steps of training."""

    epochs: Count
    batch_size: Annotated[Int, Field(ge=2)]  # batch norm needs two
    accumulate: Count
    sync_batch_norm: bool
    segments: Count | None
    max_steps: Count | None
    log_every: Count
    compile: bool
    cuda_graph: Literal["auto"] | bool

    @model_validator(mode="after")
    def _has_one_budget(self) -> Self:
        if self.segments is not None and self.max_steps is not None:
            raise ValueError(
                "segments must be null if max_steps is set, since both end the run; "
                f"got {self.segments} and {self.max_steps}"
            )
        return self


class CheckpointConfig(Section):
    """Interval and number of checkpoints."""

    every_steps: Count
    keep: Count


class ValidationConfig(Section):
    """Probe that scores the encoder during training."""

    labelled: PathHere | None
    every_epochs: Positive
    probe: Literal["knn", "logistic"]


class TensorBoardConfig(Section):
    """Output for TensorBoard."""

    enabled: bool
    views_every: Count


class Config(Section):
    """Complete configuration."""

    run: RunConfig
    data: DataConfig
    frontend: FrontendConfig
    views: ViewsConfig
    encoder: EncoderConfig
    objective: ObjectiveConfig
    byol: ByolConfig
    optimizer: OptimizerConfig
    train: TrainConfig
    checkpoint: CheckpointConfig
    validation: ValidationConfig
    tensorboard: TensorBoardConfig

    @model_validator(mode="after")
    def _batch_fits(self) -> Self:
        batch_size, accumulate = self.train.batch_size, self.train.accumulate
        if batch_size % accumulate or batch_size // accumulate < 2:
            raise ValueError(
                "train.accumulate must cut train.batch_size into equal parts of at least 2; "
                f"got {accumulate} for {batch_size}"
            )
        return self

    @model_validator(mode="after")
    def _encoder_fits(self) -> Self:
        blocks_dim = 16 * self.frontend.n_mels
        if self.encoder.name == "audio_ntt_2022" and self.encoder.dim <= blocks_dim:
            raise ValueError(
                f"encoder.dim must be above {blocks_dim} for audio_ntt_2022; got {self.encoder.dim}"
            )
        num_frames = 1 + self.segment_samples // self.frontend.hop_length
        if num_frames < 8 or self.segment_samples <= self.frontend.n_fft // 2:
            raise ValueError(
                "data.segment_seconds must give at least 8 frames and half an FFT frame; "
                f"got {self.data.segment_seconds:g}"
            )
        return self

    @property
    def segment_samples(self) -> int:
        """Length of a training segment in samples."""
        return round(self.data.segment_seconds * self.frontend.sample_rate)

    def to_yaml(self) -> str:
        """Return the resolved configuration in the form of config.yaml, without comments."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
