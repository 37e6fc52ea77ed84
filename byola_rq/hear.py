"""HEAR 2021 interface: `hear-validator byola_rq.hear [--model MODEL]`.

Source: https://hearbenchmark.com/hear-api.html
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from byola_rq.audio.waveforms import as_rows
from byola_rq.embed.embedder import Embedder, load
from byola_rq.errors import AudioError, CheckpointError
from byola_rq.model.builtin import NAME

MAX_HOP_MS = 50.0  # between timestamps; HEAR's tolerance for onsets
SAMPLE_RATES = (16000, 22050, 32000, 44100, 48000)  # of HEAR's published sets, in Hz


class HearModel(nn.Module):
    """Embedder with the attributes that HEAR requires of a model.

    Attributes:
        sample_rate: Sample rate of input waveforms, in Hz.
        scene_embedding_size: Embedding size `D`.
        timestamp_embedding_size: Embedding size `D`.

    Args:
        embedder: Embedder to wrap; its statistics standardize all sounds.

    Raises:
        CheckpointError: If HEAR has no sounds at its sample rate, or its log-mel frames are more
            than 50 ms apart.
    """

    def __init__(self, embedder: Embedder) -> None:
        super().__init__()
        if embedder.sample_rate not in SAMPLE_RATES:
            raise CheckpointError(
                f"the model's sample rate must be one of {', '.join(map(str, SAMPLE_RATES))} Hz "
                f"for HEAR; got {embedder.sample_rate}",
                code="value",
                key="sample rate",
                value=embedder.sample_rate,
            )
        self.embedder = embedder
        self.sample_rate = embedder.sample_rate
        self.scene_embedding_size = embedder.embedding_dim
        self.timestamp_embedding_size = embedder.embedding_dim
        self.num_passes = _count_passes(embedder)

    def forward(self, audio: Tensor) -> Tensor:
        """Compute scene embeddings: `(B, S)` -> `(B, D)`."""
        return get_scene_embeddings(audio, self)


def load_model(model_file_path: Path | str = "") -> HearModel:
    """Load a model for HEAR.

    Args:
        model_file_path: Model for `byola_rq.load`; the built-in encoder if empty.

    Raises:
        CheckpointError: If the model cannot be used.
    """
    return HearModel(load(model_file_path or NAME))


def get_timestamp_embeddings(audio: Tensor, model: HearModel) -> tuple[Tensor, Tensor]:
    """Embed each sound at regular times, at most 50 ms apart.

    The encoder gives one embedding for every 8 log-mel frames (`audio_ntt_2022`: 4), 80 ms (40 ms).
    If that is more than 50 ms, the encoder runs again on the sound shifted by a half (or a quarter
    ...) of that step, and the passes are interleaved: no embedding is interpolated.

    Args:
        audio: Mono sounds, `(B, S)` in [-1, 1] at `model.sample_rate`, at least 0.1 s.
        model: Model from `load_model`.

    Returns:
        Embeddings, float32 `(B, T', D)`, and the center of each in milliseconds, `(B, T')`.

    Raises:
        AudioError: If the sounds have another shape, or are too short.
    """
    audio = _checked(audio)
    embedder = model.embedder
    step = embedder.encoder.frames_per_embedding * embedder.frontend.hop_length  # samples
    if audio.shape[1] <= step:
        raise AudioError(
            f"audio: length must be over {step} samples; got {audio.shape[1]}",
            code="too-short",
            key="audio",
            value=audio.shape[1],
        )
    starts = range(0, step, step // model.num_passes)
    passes = [_frames_from(start, audio, embedder, step) for start in starts]
    samples = torch.cat(
        [
            start + step * torch.arange(each.shape[1])
            for start, each in zip(starts, passes, strict=True)
        ]
    )
    order = samples.argsort()
    # The first log-mel frame is centered on sample 0. Integer samples up to here: float32 seconds
    # of long sounds would not be regular to HEAR's 0.001 ms.
    centers = samples[order] + (step - embedder.frontend.hop_length) / 2
    embeddings = torch.cat(passes, dim=1)
    timestamps = (centers.double() * 1000 / model.sample_rate).float().to(embeddings.device)
    embeddings = embeddings[:, order.to(embeddings.device)].float()
    return embeddings, timestamps.repeat(len(audio), 1)


def get_scene_embeddings(audio: Tensor, model: HearModel) -> Tensor:
    """Embed each sound as a whole.

    Args:
        audio: Mono sounds, `(B, S)` in [-1, 1] at `model.sample_rate`, at least 0.1 s.
        model: Model from `load_model`.

    Returns:
        Embeddings, float32 `(B, D)`: maximum plus mean over time, as in training.

    Raises:
        AudioError: If the sounds have another shape, or are too short.
    """
    embedding: Tensor = model.embedder(_checked(audio), model.sample_rate)
    return embedding.float().clone()  # no inference tensor, so that heads can be trained on it


def _frames_from(start: int, audio: Tensor, embedder: Embedder, step: int) -> Tensor:
    """Embed stretches of `step` samples from sample `start` on."""
    if start == 0:
        return embedder.frames(audio, embedder.sample_rate)[0]
    # Reflecting the sound before its beginning, as the frontend does, keeps the log-mel frames from
    # sample 0 on, and every stretch sees its real context. The first stretch begins before the
    # sound and is dropped.
    earlier = F.pad(audio, (step - start, 0), mode="reflect")
    return embedder.frames(earlier, embedder.sample_rate)[0][:, 1:]


def _count_passes(embedder: Embedder) -> int:
    """Return the smallest divisor of the frames per embedding that gives a fine enough hop."""
    stride = embedder.encoder.frames_per_embedding
    frame_ms = 1000 * embedder.frontend.hop_length / embedder.sample_rate
    for passes in range(1, stride + 1):
        if stride % passes == 0 and stride // passes * frame_ms <= MAX_HOP_MS:
            return passes
    raise CheckpointError(
        f"the model's log-mel frames must be at most {MAX_HOP_MS:g} ms apart for HEAR; "
        f"got {frame_ms:g} ms",
        code="value",
        key="log-mel frames",
        value=frame_ms,
    )


def _checked(audio: Tensor) -> Tensor:
    """Check the shape of sounds for HEAR, `(B, S)`, and convert them to float32."""
    if audio.ndim != 2:
        shape = tuple(audio.shape)
        rule = f"audio: must be (B, S) for HEAR; got shape {shape}"
        raise AudioError(rule, code="value", key="audio", value=shape)
    rows = as_rows(audio)
    assert isinstance(rows, Tensor)
    return rows
