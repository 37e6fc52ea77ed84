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


class Encoder(nn.Module):
    """Convolution blocks, each of which halves bands and frames, an MLP per frame, and pooling.

    Parameter names match the published checkpoints.

    Args:
        dim: Embedding size `D`.
        n_mels: Number of mel bands `F`, a multiple of 2^`num_blocks`.
        num_blocks: Number of convolution blocks.
        hidden_dim: Hidden size of the MLP.
        keeps_blocks: True if an embedding begins with the blocks' output.

    Attributes:
        embedding_dim: Embedding size `D`.
        frames_per_embedding: Number of log-mel frames of a frame embedding.

    Raises:
        ValueError: If an argument breaks a rule above.
    """

    def __init__(
        self, dim: int, n_mels: int, *, num_blocks: int, hidden_dim: int, keeps_blocks: bool
    ) -> None:
        super().__init__()
        step: int = 2**num_blocks
        block_dim = NUM_CHANNELS * (n_mels // step)
        kept_dim = block_dim if keeps_blocks else 0
        if dim <= kept_dim:
            raise ValueError(f"encoder.dim must be at least {kept_dim + 1}; got {dim}")
        if n_mels < step or n_mels % step:
            raise ValueError(f"n_mels must be a multiple of {step}; got {n_mels}")
        self.embedding_dim = dim
        self.frames_per_embedding = step
        self._keeps_blocks = keeps_blocks
        self.features = nn.Sequential(
            *_convolution_block(1),
            *(module for _ in range(1, num_blocks) for module in _convolution_block(NUM_CHANNELS)),
        )
        self.fc = nn.Sequential(
            Linear(block_dim, hidden_dim),
            nn.ReLU(),
            nn.Dropout(p=0.3),
            Linear(hidden_dim, dim - kept_dim),
            nn.ReLU(),
        )

    def forward(self, log_mel: Tensor) -> Tensor:
        """Embed standardized log-mel spectrograms: `(B, 1, F, T)` -> `(B, D)`."""
        return pool_over_time(self.frames(log_mel))

    def frames(self, log_mel: Tensor) -> Tensor:
        """Embed every `frames_per_embedding` frames: `(B, 1, F, T)` -> `(B, T', D)`."""
        return self.frames_of(_run_blocks(self.features, log_mel))

    def frames_of(self, features: Tensor) -> Tensor:
        """Embed the convolution blocks' output: `(B, C, F', T')` -> `(B, T', D)`."""
        # Band-major, as in the published checkpoints.
        blocks = features.permute(0, 3, 2, 1).flatten(2)  # (B, T', F' * C)
        embeddings: Tensor = self.fc(blocks)
        return torch.cat((blocks, embeddings), dim=-1) if self._keeps_blocks else embeddings


class AudioNTT2020(Encoder):
    """BYOL-A's encoder: three convolution blocks and two linear layers per frame.

    Args:
        dim: Embedding size `D`; 2048, 1024 and 512 were published.
        n_mels: Number of mel bands `F`, a multiple of 8.

    Raises:
        ValueError: If an argument breaks a rule above.

    Source: Niizumi et al., BYOL for Audio (arXiv:2103.06695); pools by max + mean, like the
    published code, instead of the maximum alone.
    """

    def __init__(self, dim: int = 2048, n_mels: int = 64) -> None:
        super().__init__(dim, n_mels, num_blocks=3, hidden_dim=dim, keeps_blocks=False)


class AudioNTT2022(Encoder):
    """BYOL-A v2's encoder: two convolution blocks whose output is concatenated with an MLP's.

    Args:
        dim: Embedding size `D`; its first 16 * `n_mels` dimensions are the blocks' output.
        n_mels: Number of mel bands `F`, a multiple of 4.
        hidden_dim: Hidden size of the MLP.

    Raises:
        ValueError: If an argument breaks a rule above.

    Source: Niizumi et al., BYOL for Audio (arXiv:2204.07402).
    """

    def __init__(self, dim: int = 3072, n_mels: int = 64, hidden_dim: int = 2048) -> None:
        super().__init__(dim, n_mels, num_blocks=2, hidden_dim=hidden_dim, keeps_blocks=True)


ENCODERS: dict[str, type[AudioNTT2020 | AudioNTT2022]] = {
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
