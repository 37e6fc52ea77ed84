"""Detection of collapsed embeddings."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# Below these thresholds embeddings count as collapsed. Untrained, the recipe's encoder has 0.37 and
# 205 of 255 on views of real recordings, at D = 128 0.36 and 94 of 128 (November 2026).
# The first is the resolution of bfloat16: smaller differences are invisible to the networks.
MIN_RELATIVE_STD = 2.0**-8
# Share of the largest possible rank: 13 directions of 255. The evaluated tasks have six to a
# thousand classes; so few directions serve hardly any of them.
MIN_RANK_SHARE = 0.05

RANK_ROWS = 256  # at most, of a batch: the cost of the rank grows with their cube


@dataclass(frozen=True)
class EmbeddingHealth:
    """Spread of the embeddings of a batch; nan if they are not finite.

    Args:
        std: Standard deviation over the batch, mean over the dimensions.
        relative_std: `std` in units of the embeddings' root mean square.
        effective_rank: Number of directions in which they differ, see `effective_rank`.
        max_rank: Largest possible effective rank.
    """

    std: float
    relative_std: float
    effective_rank: float
    max_rank: int

    @property
    def collapse(self) -> str | None:
        """Description of the collapse; None if there is none."""
        if self.relative_std < MIN_RELATIVE_STD:
            return (
                f"the embeddings of different clips differ by {self.relative_std:.1e} of their size"
            )
        if self.effective_rank < MIN_RANK_SHARE * self.max_rank:
            return (
                f"the embeddings differ in only {self.effective_rank:.1f} directions "
                f"(effective rank), of {self.max_rank} possible"
            )
        return None


def examine_embeddings(embedding: Tensor) -> EmbeddingHealth:
    """Measure the embeddings of a batch, `(B, D)`; waits for the device."""
    values = embedding.cpu().double()
    std = values.std(dim=0).mean().item()
    size = values.square().mean().sqrt().item()
    num_rows, dim = values[:RANK_ROWS].shape
    return EmbeddingHealth(
        std=std,
        relative_std=std / size if size > 0 else 0.0 if size == 0 else math.nan,
        effective_rank=effective_rank(values),
        max_rank=min(num_rows - 1, dim),
    )


def effective_rank(embedding: Tensor) -> float:
    """Number of directions in which the embeddings of a batch differ.

    Exponential of the entropy of the singular values, normalized to sum 1, of at most 256 centered
    embeddings: 1 if all lie on a line (or are equal), at most min(rows - 1, D). Unlike in the
    source, the mean is subtracted: embeddings without negative values point in nearly the same
    direction, healthy or not, which would hide the rest.

    Args:
        embedding: Embeddings of a batch, `(B, D)`.

    Source: Roy and Vetterli, The effective rank (EUSIPCO 2007), eq. 2 to 4.
    """
    rows = embedding[:RANK_ROWS].double()
    rows = rows - rows.mean(dim=0)
    # Eigenvalues of the smaller Gram matrix are the squared singular values, ten times as fast.
    gram = rows @ rows.T if rows.shape[0] <= rows.shape[1] else rows.T @ rows
    if not gram.isfinite().all():
        return math.nan
    singular = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    total = singular.sum()
    if total == 0:
        return 1.0
    return float(torch.special.entr(singular / total).sum().exp())
