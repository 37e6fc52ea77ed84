"""Randomized quantization of token embeddings: python -m examples.tokens.

Makes clips of 1 s of 23 kinds of notes and events, cuts their log-mels into patches, embeds each
patch by a fixed random matrix, and pretrains a small Transformer on these tokens: with e-Mix (i-Mix
on embeddings, as in DABS: Tamkin et al., arXiv:2111.12062), with quantization and with both, and
probes each. docs/other_data.md has the results.
"""

import numpy as np
import torch
from torch import Tensor, nn

from byola_rq import IMix, LogMelSpectrogram, QuantizeAlong
from byola_rq.synthesis.generate import KINDS, make_clip
from examples.comparison import compare, parse_options

CLIPS, DIM = 40, 64  # per kind; of a token
BANDS, FRAMES = 16, 16  # of a patch


class SmallTransformer(nn.Module):
    """Two layers and the mean over tokens: `(B, T, 64)` -> `(B, 64)`."""

    embedding_dim = DIM

    def __init__(self, num_tokens: int) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(num_tokens, DIM))
        layer = nn.TransformerEncoderLayer(
            DIM, nhead=4, dim_feedforward=2 * DIM, dropout=0, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, num_layers=2, enable_nested_tensor=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Embed sequences of tokens, `(B, T, 64)`."""
        encoded: Tensor = self.layers(tokens + self.positions)
        return encoded.mean(1)


def make_log_mels(kinds: list[str]) -> Tensor:
    """Compute standardized log-mels of clips of each kind, `(N, 64, 48)`."""
    clips = [make_clip(kind, seed=seed, seconds=1) for kind in kinds for seed in range(CLIPS)]
    frontend = LogMelSpectrogram(hop_length=320)
    log_mels = frontend(torch.from_numpy(np.stack(clips)).float())[..., : 3 * FRAMES]
    return torch.as_tensor((log_mels - log_mels.mean()) / log_mels.std())


def embed_patches(log_mels: Tensor) -> Tensor:
    """Embed patches by a random matrix: `(N, 64, 48)` -> `(N, 12, 64)`."""
    patches = log_mels.unfold(1, BANDS, BANDS).unfold(2, FRAMES, FRAMES)  # (N, 4, 3, 16, 16)
    weight = torch.randn(BANDS * FRAMES, DIM, generator=torch.Generator().manual_seed(0))
    return torch.as_tensor(patches.flatten(3).flatten(1, 2) @ weight / weight.norm(dim=0))


def main() -> None:
    """Compare four ways of making views."""
    options = parse_options(__doc__, steps=150)
    kinds = [kind for kind in KINDS if kind.startswith(("note", "event"))]  # 23
    log_mels = make_log_mels(kinds)
    tokens = embed_patches(log_mels)
    # The paper's K for audio; it gives none for embeddings.
    quantize = QuantizeAlong(num_bins=5, channel_dim=-1, sample_ndim=2)
    compare(
        tokens,
        torch.arange(len(kinds)).repeat_interleave(CLIPS),
        make_encoder=lambda: SmallTransformer(tokens.shape[1]),
        variants={
            "none": (),
            "e-Mix": (IMix(),),
            "quantization": (quantize,),
            "e-Mix + quantization": (IMix(), quantize),
        },
        plain=("log-mel, mean and std", torch.cat((log_mels.mean(-1), log_mels.std(-1)), dim=-1)),
        options=options,
    )


if __name__ == "__main__":
    main()
