"""The two BYOL-A encoders and their temporal pooling."""

import torch
from torch import Tensor, nn

from byola_rq.model.first_block import convolution_block
from byola_rq.model.linear import Linear

NUM_CHANNELS = 64  # output channels of every convolution block
_MODULES = 4  # per convolution block


def pool_over_time(frame_embeddings: Tensor) -> Tensor:
    """Add maximum and mean over time: `(B, T', D)` -> `(B, D)`.

    Source: Niizumi et al., BYOL for Audio (arXiv:2204.07402).
    """
    return frame_embeddings.amax(dim=1) + frame_embeddings.mean(dim=1)


class AudioNTT2020(nn.Module):
    """BYOL-A's encoder: three convolution blocks and two linear layers per frame.

    Parameter names match the published checkpoints.

    Args:
        dim: Embedding size `D`; 2048, 1024 and 512 were published.
        n_mels: Number of mel bands `F`, a multiple of 8.

    Raises:
        ValueError: If an argument breaks a rule above.

    Source: Niizumi et al., BYOL for Audio (arXiv:2103.06695); pools by max + mean, like the
    published code, instead of the maximum alone.
    """

    def __init__(self, dim: int = 2048, n_mels: int = 64) -> None:
        super().__init__()
        _check_sizes(dim, 1, n_mels, 8)
        self.embedding_dim = dim
        self.frames_per_embedding = 8  # log-mel frames
        self.features = nn.Sequential(
            *_convolution_block(1),
            *_convolution_block(NUM_CHANNELS),
            *_convolution_block(NUM_CHANNELS),
        )
        self.fc = nn.Sequential(
            Linear(NUM_CHANNELS * (n_mels // 8), dim),
            nn.ReLU(),
            nn.Dropout(p=0.3),
            Linear(dim, dim),
            nn.ReLU(),
        )

    def forward(self, log_mel: Tensor) -> Tensor:
        """Embed standardized log-mel spectrograms: `(B, 1, F, T)` -> `(B, D)`."""
        return pool_over_time(self.frames(log_mel))

    def frames(self, log_mel: Tensor) -> Tensor:
        """Embed every eight frames: `(B, 1, F, T)` -> `(B, T // 8, D)`."""
        return self.frames_of(_run_blocks(self.features, log_mel))

    def frames_of(self, features: Tensor) -> Tensor:
        """Embed the convolution blocks' output: `(B, C, F // 8, T // 8)` -> `(B, T // 8, D)`."""
        embeddings: Tensor = self.fc(_flatten_bands(features))
        return embeddings


class AudioNTT2022(nn.Module):
    """BYOL-A v2's encoder: two convolution blocks whose output is concatenated with an MLP's.

    Parameter names match the published checkpoints.

    Args:
        dim: Embedding size `D`; its first 16 * `n_mels` dimensions are the blocks' output.
        n_mels: Number of mel bands `F`, a multiple of 4.
        hidden_dim: Hidden size of the MLP.

    Raises:
        ValueError: If an argument breaks a rule above.

    Source: Niizumi et al., BYOL for Audio (arXiv:2204.07402).
    """

    def __init__(self, dim: int = 3072, n_mels: int = 64, hidden_dim: int = 2048) -> None:
        super().__init__()
        block_dim = NUM_CHANNELS * (n_mels // 4)
        _check_sizes(dim, block_dim + 1, n_mels, 4)
        self.embedding_dim = dim
        self.frames_per_embedding = 4  # log-mel frames
        self.features = nn.Sequential(*_convolution_block(1), *_convolution_block(NUM_CHANNELS))
        self.fc = nn.Sequential(
            Linear(block_dim, hidden_dim),
            nn.ReLU(),
            nn.Dropout(p=0.3),
            Linear(hidden_dim, dim - block_dim),
            nn.ReLU(),
        )

    def forward(self, log_mel: Tensor) -> Tensor:
        """Embed standardized log-mel spectrograms: `(B, 1, F, T)` -> `(B, D)`."""
        return pool_over_time(self.frames(log_mel))

    def frames(self, log_mel: Tensor) -> Tensor:
        """Embed every four frames: `(B, 1, F, T)` -> `(B, T // 4, D)`."""
        return self.frames_of(_run_blocks(self.features, log_mel))

    def frames_of(self, features: Tensor) -> Tensor:
        """Embed the convolution blocks' output: `(B, C, F // 4, T // 4)` -> `(B, T // 4, D)`."""
        blocks = _flatten_bands(features)
        return torch.cat((blocks, self.fc(blocks)), dim=-1)


Encoder = AudioNTT2020 | AudioNTT2022

ENCODERS: dict[str, type[AudioNTT2020] | type[AudioNTT2022]] = {
    "audio_ntt_2020": AudioNTT2020,
    "audio_ntt_2022": AudioNTT2022,
}


def build_encoder(name: str, *, dim: int, n_mels: int) -> Encoder:
    """Build an untrained encoder by its name.

    Raises:
        ValueError: If the name is unknown or the sizes do not fit.
    """
    if name not in ENCODERS:
        raise ValueError(f"encoder must be one of {', '.join(ENCODERS)}; got {name!r}")
    return ENCODERS[name](dim=dim, n_mels=n_mels)


def _convolution_block(in_channels: int) -> tuple[nn.Module, ...]:
    # Pooling before the ReLU: the two commute, and the ReLU then touches a quarter of the elements.
    return (
        nn.Conv2d(in_channels, NUM_CHANNELS, kernel_size=3, padding=1),
        nn.BatchNorm2d(NUM_CHANNELS),
        nn.MaxPool2d(kernel_size=2, stride=2),
        nn.ReLU(inplace=True),
    )


def split_blocks(features: nn.Sequential) -> list[list[nn.Module]]:
    """Return the modules of each convolution block; each block halves bands and frames."""
    modules = list(features)
    return [modules[first : first + _MODULES] for first in range(0, len(modules), _MODULES)]


def _run_blocks(features: nn.Sequential, x: Tensor) -> Tensor:
    for block in split_blocks(features):
        x = convolution_block(block, x)
    return x


def _flatten_bands(features: Tensor) -> Tensor:
    """Reshape `(B, C, F', T')` to `(B, T', F' * C)`, band-major as in the published checkpoints."""
    return features.permute(0, 3, 2, 1).flatten(2)


def _check_sizes(dim: int, least_dim: int, n_mels: int, band_step: int) -> None:
    if dim < least_dim:
        raise ValueError(f"encoder.dim must be at least {least_dim}; got {dim}")
    if n_mels < band_step or n_mels % band_step:
        raise ValueError(f"n_mels must be a multiple of {band_step}; got {n_mels}")
