"""Embedder: a frozen encoder with its frontend and statistics."""

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from byola_rq.audio.frontend import LogMelSpectrogram, Statistics
from byola_rq.audio.waveforms import SampleRate, Waveforms
from byola_rq.embed.audio_files import embed_files
from byola_rq.embed.clip_encoder import MIN_SECONDS, ClipEncoder
from byola_rq.errors import CheckpointError
from byola_rq.model import builtin
from byola_rq.model.encoder import ENCODERS, Encoder, build_encoder
from byola_rq.model.model_file import digest_weights, read_model_file, write_model_file
from byola_rq.runtime.threads import leave_forked_threads

__all__ = ["MIN_SECONDS", "Embedder", "load"]

PRECISIONS = (torch.float32, torch.float16, torch.bfloat16)

# Id of a model on the hub: owner/name, optionally @revision.
_HUB_ID = re.compile(r"(\w[\w.-]*/\w[\w.-]*)(?:@([\w./-]+))?")


class Embedder(nn.Module):
    """Frozen encoder of waveforms, always in eval mode and without gradients.

    Args:
        encoder: Encoder, trained or untrained.
        frontend: Frontend that computes the log-mel spectrogram.
        statistics: Statistics of the corpus that the encoder was trained on.
        summary: Facts about the training, stored in the model file.
        license: License of the weights as an SPDX identifier ("CC-BY-4.0"), stored in the model
            file; None if not stated.

    The encoder may have half precision (`to(torch.bfloat16)`, `half()`, or the `dtype` of `load`);
    frontend, pooling and embeddings stay float32.
    """

    def __init__(
        self,
        encoder: Encoder,
        frontend: LogMelSpectrogram,
        statistics: Statistics,
        summary: Mapping[str, Any] | None = None,
        license: str | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.frontend = frontend
        self.statistics = statistics
        self.summary = dict(summary or {})
        self.license = license
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
        """Build an embedder with an untrained encoder, the baseline for comparisons.

        Its statistics are mean 0 and std 1; set those of your clips with `with_statistics`.
        """
        frontend = frontend or LogMelSpectrogram()
        with torch.device("cpu"), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoder = build_encoder(encoder_name, dim=dim, n_mels=frontend.n_mels)
        return cls(encoder, frontend, Statistics(mean=0.0, std=1.0), {"steps": 0, "seed": seed})

    @property
    def embedding_dim(self) -> int:
        """Embedding size `D`."""
        return self.encoder.embedding_dim

    @property
    def sample_rate(self) -> int:
        """Sample rate of the frontend in Hz, to which waveforms are resampled."""
        return self.frontend.sample_rate

    @property
    def clips(self) -> ClipEncoder:
        """Encoder for checked waveforms at `sample_rate` on the device."""
        return ClipEncoder(self.encoder, self.frontend, self.statistics)

    @property
    def encoder_name(self) -> str:
        """Name of the encoder in config.yaml."""
        return next(name for name, kind in ENCODERS.items() if isinstance(self.encoder, kind))

    @property
    def weights_sha256(self) -> str:
        """SHA-256 of the encoder's weights: names, shapes, types and bytes."""
        return digest_weights(self.encoder.state_dict())

    @property
    def description(self) -> dict[str, Any]:
        """Facts that determine the embeddings: encoder, frontend, statistics, weights' digest."""
        return {
            "encoder": {"name": self.encoder_name, "dim": self.embedding_dim},
            "frontend": self.frontend.options,
            "statistics": asdict(self.statistics),
            "weights_sha256": self.weights_sha256,
        }

    @property
    def release(self) -> dict[str, str]:
        """Name, version and sha256 of the built-in encoder; empty for another model."""
        release = self.summary.get("release")
        if isinstance(release, dict) and release.keys() == builtin.IDENTITY.keys():
            return release
        return {}

    def with_statistics(self, statistics: Statistics) -> Self:
        """Return an embedder with other statistics that shares the weights."""
        other = copy.copy(self)
        other.statistics = statistics
        return other

    def train(self, mode: bool = True) -> Self:  # noqa: ARG002
        """Stay in eval mode: an embedder is frozen."""
        return super().train(False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # `to` and the like move the frontend but do not convert it: a spectrogram in half
        # precision would differ.
        self.encoder._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.frontend._apply(  # type: ignore[no-untyped-call]
            lambda buffer: buffer.to(fn(buffer).device), recurse
        )
        return self

    @torch.no_grad()
    def forward(
        self,
        waveform: Waveforms,
        sample_rate: SampleRate,
        lengths: Sequence[int] | Tensor | None = None,
    ) -> Tensor:
        """Embed whole waveforms.

        Each embedding depends only on its own clip. A clip of more than 240 s is processed in
        windows, with the result of the whole. Autocast around the call has no effect. A process
        forked from one that has loaded a model computes with one thread.

        Args:
            waveform: Mono waveforms `(S,)`, `(B, S)`, or a list of B waveforms `(S,)` of any
                lengths of at least 0.1 s. Floating point in [-1, 1], or uint8, int16 or int32,
                whose full scale becomes 1.
            sample_rate: Sample rate of the waveforms in Hz; a number, or an array or tensor of
                equal numbers.
            lengths: Number of valid samples in each row of a padded `(B, S)`.

        Returns:
            Embeddings, float32 `(B, D)`, on the embedder's device.

        Raises:
            AudioError: If a waveform is too short, not finite, or has another form.
        """
        return self.clips.embed(self.clips.prepare(waveform, sample_rate, lengths))

    @torch.no_grad()
    def frames(
        self,
        waveform: Waveforms,
        sample_rate: SampleRate,
        lengths: Sequence[int] | Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Embed stretches of 8 (`audio_ntt_2022`: 4) log-mel frames.

        Args:
            waveform: Waveforms in the forms of `forward`.
            sample_rate: Sample rate of the waveforms in Hz.
            lengths: Number of valid samples in each row of a padded `(B, S)`.

        Returns:
            Frame embeddings, float32 `(B, T', D)`, NaN after the end of clips shorter than the
            longest, and the center of each frame in seconds, `(T',)`.

        Raises:
            AudioError: As `forward`.
        """
        frames = self.clips.frames(self.clips.prepare(waveform, sample_rate, lengths))
        return frames, self.frame_seconds(frames.shape[1]).to(frames.device)

    def frame_seconds(self, num_frames: int) -> Tensor:
        """Centers of a clip's first frame embeddings, in seconds, float32 `(T',)`."""
        stride = self.encoder.frames_per_embedding
        first = (stride - 1) / 2  # log-mel frame t is centered on sample t * hop_length
        centers = first + stride * torch.arange(num_frames, dtype=torch.float32, device="cpu")
        return centers * self.frontend.hop_length / self.sample_rate

    @torch.no_grad()
    def embed_files(
        self, paths: Sequence[Path | str], *, num_workers: int = 2, progress: bool = False
    ) -> Tensor:
        """Embed audio files in bounded memory, files of similar length together.

        Args:
            paths: Paths of audio files of any sample rate, length and number of channels.
            num_workers: Number of threads that decode ahead.
            progress: Show a progress bar on stderr.

        Returns:
            Embeddings, float32 `(files, D)` on the CPU, in the order of `paths`.

        Raises:
            AudioError: If a file cannot be read or is too short; the message names it.
        """
        return embed_files(self.clips, paths, num_workers=num_workers, progress=progress)

    def save(self, path: Path | str) -> None:
        """Write a model file for `load`, atomically.

        Raises:
            CheckpointError: If it cannot be written.
        """
        description = {**self.description, "license": self.license, "training": self.summary}
        write_model_file(Path(path), description, self.encoder.state_dict())


def load(
    path: Path | str = builtin.NAME,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Embedder:
    """Load a model file.

    Args:
        path: Model file written by `Embedder.save`, `byola-rq export` or training; or, as text,
            `builtin` for the encoder in the package, or the id `owner/name` of a model on the
            Hugging Face hub.
        device: Device of the embedder, for example "cuda".
        dtype: Type of the weights: torch.float32, or float16 or bfloat16 for half the memory and,
            on a GPU, more speed; docs/embedding.md has the loss of precision.

    Returns:
        The embedder, frozen and in eval mode.

    Raises:
        CheckpointError: If the file is missing, not a model, damaged, or of a newer format.
        ValueError: If `dtype` is not one of these.
    """
    if dtype not in PRECISIONS:
        raise ValueError(f"dtype must be one of {', '.join(map(str, PRECISIONS))}; got {dtype}")
    leave_forked_threads()
    with torch.device("cpu"):  # whatever the default device is
        stored = read_model_file(_find(path))
    summary = stored.summary
    if path == builtin.NAME:
        summary = {**summary, "release": builtin.IDENTITY}
    embedder = Embedder(stored.encoder, stored.frontend, stored.statistics, summary, stored.license)
    return embedder.to(device, dtype)


def _find(path: Path | str) -> Path:
    """Find the model file: a path, the built-in one, or a download from the hub."""
    if path == builtin.NAME:
        return builtin.builtin_path()
    file = Path(path).expanduser()
    if isinstance(path, str) and builtin.is_near_miss(path) and not file.exists():
        message = f"{path}: no such model file; did you mean {builtin.NAME}?"
        raise CheckpointError(message, code="unknown", path=file, value=path)
    hub_id = _HUB_ID.fullmatch(path) if isinstance(path, str) else None
    # Never go online for what may be a mistyped path.
    if hub_id is None or file.suffix == ".safetensors" or file.exists() or file.parent.exists():
        return file
    from byola_rq.model.hub_download import download_model_file

    return download_model_file(hub_id[1], revision=hub_id[2])
