"""Models to evaluate: model files and baselines, which embed each clip's log-mel."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from byola_rq.audio.frontend import LogMelSpectrogram, Statistics
from byola_rq.embed.clip_encoder import FRAMES_AT_ONCE
from byola_rq.embed.embedder import Embedder, load
from byola_rq.errors import CheckpointError
from evaluate.log_mels import LogMels

BASELINES = ("logmel", "random")

Features = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class EmbeddingModel:
    """Frozen model with its frontend.

    Attributes:
        name: Name in the results.
        encoder_name: Architecture; empty for the logmel baseline.
        weights_sha256: SHA-256 of the weights; empty if there are none.
        version: Release of the built-in encoder; empty for other models.
        embedding_dim: Embedding size `D`.
        frontend: Waveform to log-mel.
        statistics: Log-mel mean and std of the pretraining corpus; None for a baseline.
        encoder: Standardized log-mel `(B, 1, F, T)` to embedding `(B, D)`.
    """

    name: str
    encoder_name: str
    weights_sha256: str
    embedding_dim: int
    frontend: LogMelSpectrogram
    statistics: Statistics | None
    encoder: Callable[[Tensor], Tensor]
    version: str = ""

    @property
    def key(self) -> dict[str, Any]:
        """Facts that decide embeddings apart from clip, unit and statistics: JSON values."""
        return {
            "model": self.encoder_name or self.name,
            "weights_sha256": self.weights_sha256,
            "dim": self.embedding_dim,
            "frontend": self.frontend.options,
        }


def load_model(model: Path | str, device: str) -> EmbeddingModel:
    """Load a model file, `builtin` or a model of the hub, as `byola_rq.load` does.

    The model is named after its file, or after the folder of an `encoder.safetensors`.

    Raises:
        CheckpointError: If the file is missing or is not a model file.
    """
    embedder, path = load(model, device), Path(model)
    has_telling_folder = path.stem == "encoder" and re.search(r"\w", path.parent.name)
    return _from_embedder(
        path.parent.name if has_telling_folder else path.stem, embedder, embedder.statistics
    )


def load_models(
    names: Sequence[str], baselines: Sequence[str], *, dim: int, seed: int, device: str
) -> list[EmbeddingModel]:
    """Load models, each once, then make baselines like the first of them.

    Args:
        names: Model files, `builtin`, or models of the hub.
        baselines: Names out of `BASELINES`.
        dim: Embedding size of `random` without a model.
        seed: Seed of the weights of `random`.
        device: Torch device.
    """
    models = [load_model(name, device) for name in dict.fromkeys(names)]
    encoder_name, frontend = "audio_ntt_2020", LogMelSpectrogram()
    if models:
        encoder_name, frontend = models[0].encoder_name, models[0].frontend
        dim = models[0].embedding_dim
    make = partial(
        make_baseline,
        encoder_name=encoder_name,
        dim=dim,
        frontend=frontend,
        seed=seed,
        device=device,
    )
    return models + [make(name) for name in dict.fromkeys(baselines)]


def make_baseline(
    name: str, *, encoder_name: str, dim: int, frontend: LogMelSpectrogram, seed: int, device: str
) -> EmbeddingModel:
    """Make `logmel` (mean and std of each band over time) or `random` (an untrained encoder).

    Args:
        name: `logmel` or `random`.
        encoder_name: Architecture of `random`.
        dim: Embedding size of `random`.
        frontend: Frontend of the model that the baseline is compared with.
        seed: Seed of the weights of `random`.
        device: Torch device.
    """
    if name == "logmel":
        frontend = frontend.to(device)
        return EmbeddingModel(name, "", "", 2 * frontend.n_mels, frontend, None, describe_bands)
    embedder = Embedder.untrained(encoder_name, dim, seed, frontend).to(device)
    return _from_embedder(name, embedder, None)


def describe_bands(log_mel: Tensor) -> Tensor:
    """Compute mean and std of each mel band over time: `(B, 1, F, T)` -> `(B, 2 F)`."""
    bands = log_mel.squeeze(1)
    return torch.cat([bands.mean(dim=-1), bands.std(dim=-1, correction=0)], dim=-1)


def default_batch_size(num_frames: int, device: str) -> int:
    """Return the number of clips of `num_frames` frames to embed together."""
    return max(1, min(1024, FRAMES_AT_ONCE[torch.device(device).type] // num_frames))


@torch.no_grad()
def embed(
    model: EmbeddingModel,
    log_mels: LogMels,
    statistics: Statistics,
    positions: Sequence[int],
    *,
    batch_size: int,
) -> Iterator[tuple[list[int], Features]]:
    """Embed clips of a task; an embedding does not depend on the other clips of its batch.

    Args:
        model: Frozen model.
        log_mels: Log-mels of the task by the model's frontend.
        statistics: Mean and std that standardize the log-mels.
        positions: Positions of the clips in the task, each once.
        batch_size: Clips per batch; affects only speed and memory.

    Yields:
        Positions of the readable clips, and their embeddings `(B, D)`.

    Raises:
        AudioError, TaskError: As for `LogMels.batches`.
        CheckpointError: If an embedding is not finite.
    """
    for readable, log_mel in log_mels.batches(positions, batch_size):
        embeddings = model.encoder(statistics.standardize(log_mel)).float().cpu().numpy()
        is_finite = np.isfinite(embeddings).all(axis=1)
        if not is_finite.all():
            clip = log_mels.task.clips[readable[int(np.argmin(is_finite))]]
            raise CheckpointError(
                f"{model.name}: embeddings must be finite; {clip.file_name} has none",
                code="not-finite",
                value=clip.file_name,
            )
        yield readable, embeddings


def _from_embedder(name: str, embedder: Embedder, statistics: Statistics | None) -> EmbeddingModel:
    return EmbeddingModel(
        name=name,
        encoder_name=embedder.encoder_name,
        weights_sha256=embedder.weights_sha256,
        embedding_dim=embedder.embedding_dim,
        frontend=embedder.frontend,
        statistics=statistics,
        encoder=embedder.encoder,
        version=embedder.release.get("version", ""),
    )
