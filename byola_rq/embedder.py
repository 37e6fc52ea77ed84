"""A frozen encoder with its frontend and statistics: waveform in, embeddings out."""

import copy
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from byola_rq.audio import resample
from byola_rq.encoder import ENCODERS, Encoder, build_encoder
from byola_rq.errors import AudioError, CheckpointError
from byola_rq.frontend import LogMelSpectrogram, Statistics

FORMAT_VERSION = 1
MIN_SECONDS = 0.1


class Embedder(nn.Module):
    """Frozen audio embeddings, in eval mode for good.

    Args:
        encoder: Trained or untrained.
        frontend: Waveform -> log-mel spectrogram.
        statistics: Of the corpus that the encoder was trained on.
        summary: What is known of the training; stored in the model file.
    """

    def __init__(
        self,
        encoder: Encoder,
        frontend: LogMelSpectrogram,
        statistics: Statistics,
        summary: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.frontend = frontend
        self.statistics = statistics
        self.summary = dict(summary or {})
        self.requires_grad_(False)
        self.eval()

    @classmethod
    def untrained(
        cls,
        encoder_name: str = "audio_ntt_2020",
        dim: int = 2048,
        seed: int = 0,
        frontend: LogMelSpectrogram | None = None,
    ) -> Self:
        """An encoder as it is before any training: the baseline to be seen beside every other.

        Its statistics are 0 and 1; give it those of the clips at hand with `with_statistics`.
        """
        frontend = frontend or LogMelSpectrogram()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoder = build_encoder(encoder_name, dim=dim, n_mels=frontend.n_mels)
        return cls(encoder, frontend, Statistics(mean=0.0, std=1.0), {"steps": 0, "seed": seed})

    @property
    def embedding_dim(self) -> int:
        """Embedding size `D`."""
        return self.encoder.embedding_dim

    @property
    def sample_rate(self) -> int:
        """Of the frontend, in Hz; other waveforms are resampled to it."""
        return self.frontend.sample_rate

    @property
    def encoder_name(self) -> str:
        """As in config.yaml."""
        return next(name for name, kind in ENCODERS.items() if isinstance(self.encoder, kind))

    @property
    def weights_sha256(self) -> str:
        """Digest of the encoder's weights: names, shapes, types and bytes."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.encoder.state_dict().items()):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    @property
    def description(self) -> dict[str, Any]:
        """What decides the embeddings: encoder, frontend, statistics, and the weights' digest."""
        return {
            "encoder": {"name": self.encoder_name, "dim": self.embedding_dim},
            "frontend": self.frontend.options,
            "statistics": asdict(self.statistics),
            "weights_sha256": self.weights_sha256,
        }

    def with_statistics(self, statistics: Statistics) -> Self:
        """The same embedder (shared weights) with other statistics."""
        other = copy.copy(self)
        other.statistics = statistics
        return other

    def train(self, mode: bool = True) -> Self:  # noqa: ARG002
        """Stay in eval mode: an embedder is frozen."""
        return super().train(False)

    @torch.inference_mode()
    def forward(self, waveform: Tensor | npt.ArrayLike, sample_rate: int) -> Tensor:
        """Embed whole waveforms.

        Args:
            waveform: Floating point in [-1, 1], `(S,)` or `(B, S)`, at least 0.1 s.
            sample_rate: Of the waveform, in Hz.

        Returns:
            Embeddings, float32 `(B, D)`, on the embedder's device.

        Raises:
            AudioError: If the waveform is too short, not finite, or not of this form.
        """
        embedding: Tensor = self.encoder(self._standardized(waveform, sample_rate))
        return embedding

    @torch.inference_mode()
    def frames(self, waveform: Tensor | npt.ArrayLike, sample_rate: int) -> tuple[Tensor, Tensor]:
        """Embed stretches of 8 (`audio_ntt_2022`: 4) log-mel frames.

        Args:
            waveform: As for the call itself.
            sample_rate: Of the waveform, in Hz.

        Returns:
            Frame embeddings, float32 `(B, T', D)`, and the centre of each in seconds, `(T',)`.

        Raises:
            AudioError: As the call itself.
        """
        frames = self.encoder.frames(self._standardized(waveform, sample_rate))
        stride = self.encoder.frames_per_embedding
        first = (stride - 1) / 2  # log-mel frame t is centred on sample t * hop_length
        centres = first + stride * torch.arange(frames.shape[1], device=frames.device)
        return frames, centres * self.frontend.hop_length / self.sample_rate

    def save(self, path: Path | str) -> None:
        """Write a model file that rebuilds this embedder with `load`; appears whole or not at all.

        Raises:
            CheckpointError: If the disk refuses.
        """
        path = Path(path)
        description = {
            "format_version": FORMAT_VERSION,
            **self.description,
            "training": self.summary,
        }
        weights = {
            name: tensor.cpu().contiguous() for name, tensor in self.encoder.state_dict().items()
        }
        temporary = path.with_name(f".{path.name}.partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file(weights, temporary, metadata={"byola_rq": json.dumps(description)})
            os.replace(temporary, path)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path}: cannot be written ({error})") from error

    def _standardized(self, waveform: Tensor | npt.ArrayLike, sample_rate: int) -> Tensor:
        """Waveform -> standardized log-mel spectrogram `(B, 1, F, T)` on the encoder's device."""
        batch = _as_batch(waveform)
        device = next(self.encoder.parameters()).device
        batch = resample(batch, sample_rate, self.sample_rate).to(device)
        least = round(MIN_SECONDS * self.sample_rate)
        if batch.shape[-1] < least:
            raise AudioError(
                f"waveform: length must be at least {MIN_SECONDS} s; "
                f"got {batch.shape[-1] / self.sample_rate:.4f} s"
            )
        return self.statistics.standardize(self.frontend(batch))[:, None]


def load(path: Path | str, device: torch.device | str = "cpu") -> Embedder:
    """Load a model file.

    Args:
        path: What `Embedder.save`, `byola-rq export` or the end of training wrote.
        device: Where to put it, for example "cuda".

    Returns:
        The embedder, frozen and in eval mode.

    Raises:
        CheckpointError: If the file is missing, foreign, damaged, or of a newer format.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such model file")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("byola_rq")
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not a model file that can be read ({error})") from error
    if text is None:
        raise CheckpointError(f"{path}: a safetensors file, but not one of byola_rq")
    return _rebuild(path, json.loads(text), weights).to(device)


def _rebuild(path: Path, description: dict[str, Any], weights: dict[str, Tensor]) -> Embedder:
    version = description.get("format_version", 0)
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: format version must be at most {FORMAT_VERSION}; got {version}. "
            "Update byola_rq."
        )
    try:
        frontend = LogMelSpectrogram(**description["frontend"])
        encoder = build_encoder(**description["encoder"], n_mels=frontend.n_mels)
        encoder.load_state_dict(weights)
        statistics = Statistics(**description["statistics"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path}: its description does not fit ({reason})") from error
    embedder = Embedder(encoder, frontend, statistics, description.get("training"))
    if embedder.weights_sha256 != description.get("weights_sha256"):
        raise CheckpointError(f"{path}: its weights are not those that were written (SHA-256)")
    return embedder


def _as_batch(waveform: Tensor | npt.ArrayLike) -> Tensor:
    """Check a waveform: float `(B, S)` with finite samples."""
    batch = torch.as_tensor(waveform)
    batch = batch[None] if batch.ndim == 1 else batch
    if not batch.is_floating_point():
        raise AudioError(f"waveform: must be floating point in [-1, 1]; got {batch.dtype}")
    if batch.ndim != 2 or batch.numel() == 0:
        raise AudioError(f"waveform: must be (S,) or (B, S); got shape {tuple(batch.shape)}")
    if not torch.isfinite(batch).all():
        raise AudioError("waveform: samples must be finite; got NaN or infinity")
    return batch.float()
