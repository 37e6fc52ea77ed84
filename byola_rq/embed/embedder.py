"""A frozen encoder with its frontend and statistics: waveform in, embeddings out."""

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

# The id of a model on the hub: owner/name, perhaps @revision.
_HUB_ID = re.compile(r"(\w[\w.-]*/\w[\w.-]*)(?:@([\w./-]+))?")


class Embedder(nn.Module):
    """Frozen audio embeddings, in eval mode for good; what learns from them gets plain tensors.

    Args:
        encoder: Trained or untrained.
        frontend: Waveform -> log-mel spectrogram.
        statistics: Of the corpus that the encoder was trained on.
        summary: What is known of the training; stored in the model file.
        licence: Under which the weights may be used, as an SPDX identifier ("CC-BY-4.0"); None
            where nobody has said. Stored in the model file.

    The encoder may be of half precision (`to(torch.bfloat16)`, `half()`, or the `dtype` of
    `load`); frontend, pooling and embeddings are float32 all the same.
    """

    def __init__(
        self,
        encoder: Encoder,
        frontend: LogMelSpectrogram,
        statistics: Statistics,
        summary: Mapping[str, Any] | None = None,
        licence: str | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.frontend = frontend
        self.statistics = statistics
        self.summary = dict(summary or {})
        self.licence = licence
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
    def clips(self) -> ClipEncoder:
        """What embeds waveforms that are checked, at `sample_rate` and on the device already."""
        return ClipEncoder(self.encoder, self.frontend, self.statistics)

    @property
    def encoder_name(self) -> str:
        """As in config.yaml."""
        return next(name for name, kind in ENCODERS.items() if isinstance(self.encoder, kind))

    @property
    def weights_sha256(self) -> str:
        """Digest of the encoder's weights: names, shapes, types and bytes."""
        return digest_weights(self.encoder.state_dict())

    @property
    def description(self) -> dict[str, Any]:
        """What decides the embeddings: encoder, frontend, statistics, and the weights' digest."""
        return {
            "encoder": {"name": self.encoder_name, "dim": self.embedding_dim},
            "frontend": self.frontend.options,
            "statistics": asdict(self.statistics),
            "weights_sha256": self.weights_sha256,
        }

    @property
    def release(self) -> dict[str, str]:
        """`name`, `version` and `sha256` of the built-in encoder; of another model, nothing."""
        release = self.summary.get("release")
        if isinstance(release, dict) and release.keys() == builtin.IDENTITY.keys():
            return release
        return {}

    def with_statistics(self, statistics: Statistics) -> Self:
        """The same embedder (shared weights) with other statistics."""
        other = copy.copy(self)
        other.statistics = statistics
        return other

    def train(self, mode: bool = True) -> Self:  # noqa: ARG002
        """Stay in eval mode: an embedder is frozen."""
        return super().train(False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # What moves or converts the encoder moves the frontend, but does not convert it: a
        # spectrogram of half precision would be another one.
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

        Each embedding is that of its clip alone, whatever is embedded with it. A clip of more than
        240 s goes through the encoder in windows, and has the embedding of the whole. Autocast
        around the call changes nothing. In a process forked from one that has loaded a model, it
        computes with one thread.

        Args:
            waveform: `(S,)`, `(B, S)`, or a list of B waveforms `(S,)` of any lengths, each at
                least 0.1 s. One channel each. Floating point in [-1, 1], or uint8, int16 or int32,
                whose full scale becomes 1.
            sample_rate: Of the waveforms, in Hz; a number, or as an array or tensor, also with one
                for each waveform if all are equal.
            lengths: Of a padded `(B, S)`: how many samples of each row are the clip's.

        Returns:
            Embeddings, float32 `(B, D)`, on the embedder's device.

        Raises:
            AudioError: If a waveform is too short, not finite, or not of this form.
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
            waveform: As for the call itself.
            sample_rate: Of the waveforms, in Hz.
            lengths: As for the call itself.

        Returns:
            Frame embeddings, float32 `(B, T', D)`, NaN behind the end of clips that are shorter
            than the longest, and the centre of each in seconds, `(T',)`.

        Raises:
            AudioError: As the call itself.
        """
        frames = self.clips.frames(self.clips.prepare(waveform, sample_rate, lengths))
        return frames, self.frame_seconds(frames.shape[1]).to(frames.device)

    def frame_seconds(self, num_frames: int) -> Tensor:
        """Centres of a clip's first frame embeddings, in seconds, float32 `(T',)`."""
        stride = self.encoder.frames_per_embedding
        first = (stride - 1) / 2  # log-mel frame t is centred on sample t * hop_length
        centres = first + stride * torch.arange(num_frames)
        return centres * self.frontend.hop_length / self.sample_rate

    @torch.no_grad()
    def embed_files(
        self, paths: Sequence[Path | str], *, num_workers: int = 2, progress: bool = False
    ) -> Tensor:
        """Embed audio files: those of similar length together, long ones in bounded memory.

        Args:
            paths: Of files that libsndfile reads, of any rate, length and number of channels.
            num_workers: Threads that decode ahead.
            progress: Show a bar on stderr.

        Returns:
            Embeddings, float32 `(files, D)` on the CPU, in the order of `paths`.

        Raises:
            AudioError: If a file cannot be read or is too short; the message names it.
        """
        return embed_files(self.clips, paths, num_workers=num_workers, progress=progress)

    def save(self, path: Path | str) -> None:
        """Write a model file that rebuilds this embedder with `load`; appears whole or not at all.

        Raises:
            CheckpointError: If the disk refuses.
        """
        description = {**self.description, "licence": self.licence, "training": self.summary}
        write_model_file(Path(path), description, self.encoder.state_dict())


def load(
    path: Path | str = builtin.NAME,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Embedder:
    """Load a model file.

    Args:
        path: What `Embedder.save`, `byola-rq export` or the end of training wrote; or, as text,
            `builtin`, the encoder that comes with the package, or the id of a model on the Hugging
            Face hub, `owner/name`, where that is no path here.
        device: Where to put it, for example "cuda".
        dtype: Of the weights: torch.float32, or float16 or bfloat16 for half the memory and, on a
            GPU, more speed; docs/embedding.md says what it costs in precision.

    Returns:
        The embedder, frozen and in eval mode.

    Raises:
        CheckpointError: If the file is missing, foreign, damaged, or of a newer format.
        ValueError: If `dtype` is another.
    """
    if dtype not in PRECISIONS:
        raise ValueError(f"dtype must be one of {', '.join(map(str, PRECISIONS))}; got {dtype}")
    leave_forked_threads()
    stored = read_model_file(_find(path))
    summary = stored.summary
    if path == builtin.NAME:
        summary = {**summary, "release": builtin.IDENTITY}
    embedder = Embedder(stored.encoder, stored.frontend, stored.statistics, summary, stored.license)
    return embedder.to(device, dtype)


def _find(path: Path | str) -> Path:
    """The file itself, the built-in one, or what the hub has under this id."""
    if path == builtin.NAME:
        return builtin.builtin_path()
    file = Path(path).expanduser()
    if isinstance(path, str) and builtin.is_near_miss(path) and not file.exists():
        message = f"{path}: no such model file; did you mean {builtin.NAME}?"
        raise CheckpointError(message, code="unknown", path=file, value=path)
    hub_id = _HUB_ID.fullmatch(path) if isinstance(path, str) else None
    # What may be a path with a slip of the pen in it opens no connection.
    if hub_id is None or file.suffix == ".safetensors" or file.exists() or file.parent.exists():
        return file
    from byola_rq.model.hub_download import download_model_file

    return download_model_file(hub_id[1], revision=hub_id[2])
