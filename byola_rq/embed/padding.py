"""Batches of clips of unequal length, each embedded as if it were alone.

Padding would affect a clip at four points: the frontend instead continues with the clip's own
reflection; every convolution sees zeros after the last log-mel frame; the pooling of a block drops
an odd last frame; maximum and mean use only the clip's own frames.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from byola_rq.audio.frontend import LogMelSpectrogram
from byola_rq.model.encoder import Encoder, split_blocks
from byola_rq.model.first_block import convolution_block

LONGEST_TO_SHORTEST = 1.25  # in a batch: padding costs as much as sound


def group_by_length(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Group clips of similar length into batches, the shortest first.

    Args:
        lengths: Length of each clip in samples.
        room: Maximum samples of a batch, padding included; a longer clip is a batch by itself.

    Returns:
        Indices of the clips in each batch.
    """
    groups: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lengths.__getitem__):
        length = lengths[place]
        group = groups[-1] if groups else []
        is_alike = group and length <= LONGEST_TO_SHORTEST * lengths[group[0]]
        if is_alike and (len(group) + 1) * length <= room:
            group.append(place)
        else:
            groups.append([place])
    return groups


def padded_log_mel(frontend: LogMelSpectrogram, waveforms: Sequence[Tensor]) -> Tensor:
    """Compute log-mel spectrograms of clips of unequal length, `(B, F, T)`, T of the longest.

    The first `1 + S // hop_length` frames of each are those it has alone; the rest is undefined.
    """
    reach = frontend.n_fft // 2  # samples of a frame on either side of its center
    longest = max(len(waveform) for waveform in waveforms)
    batch = waveforms[0].new_zeros(len(waveforms), longest + reach)
    for row, waveform in zip(batch, waveforms, strict=True):
        row[: len(waveform)] = waveform
        row[len(waveform) : len(waveform) + reach] = waveform[-reach - 1 : -1].flip(0)
    log_mel: Tensor = frontend(batch)
    return log_mel[..., : 1 + longest // frontend.hop_length]


def padded_frames(encoder: Encoder, log_mel: Tensor, num_frames: Tensor) -> Tensor:
    """Compute frame embeddings of padded clips, `(B, T', D)`; each clip's own come first.

    Args:
        encoder: Encoder in eval mode.
        log_mel: Standardized log-mel spectrograms, `(B, 1, F, T)`.
        num_frames: Number of log-mel frames of each clip, `(B,)`; later frames are ignored.
    """
    features = _blank_behind(log_mel, num_frames)
    for block in split_blocks(encoder.features):
        num_frames = num_frames // 2
        features = _blank_behind(convolution_block(block, features), num_frames)
    return encoder.frames_of(features)


def pool_padded(frame_embeddings: Tensor, counts: Tensor) -> Tensor:
    """Pool by maximum plus mean over the first `counts` `(B,)` frames: `(B, T', D)` -> `(B, D)`."""
    is_padding = _is_behind(counts, frame_embeddings.shape[1])[..., None]  # (B, T', 1)
    highest = frame_embeddings.masked_fill(is_padding, -torch.inf).amax(dim=1)
    return highest + frame_embeddings.masked_fill(is_padding, 0).sum(dim=1) / counts[:, None]


def _blank_behind(features: Tensor, num_frames: Tensor) -> Tensor:
    """Set features `(B, C, F, T)` after each clip's frames to zero, as a convolution pads."""
    is_padding = _is_behind(num_frames, features.shape[-1])
    return features.masked_fill(is_padding[:, None, None], 0)


def _is_behind(counts: Tensor, length: int) -> Tensor:
    return torch.arange(length, device=counts.device) >= counts[:, None]
