"""Scaling of embeddings before cosines are taken."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

FloatArray = npt.NDArray[np.floating[Any]]

ROWS_AT_ONCE = 65_536  # embeddings in float32: 128 MiB at D = 512
# Relative spread of equal values: one sound embedded in batches of two sizes differs by so little.
SAME = 1e-5
LEAST_STD = 1e-20  # a dimension with less does not vary


@dataclass(frozen=True)
class Scaling:
    """Shift and scale embeddings so that their cosines discriminate between sounds.

    The dimensions of an encoder that ends in a ReLU share a large mean, which makes all raw
    cosines nearly 1.

    Attributes:
        mean: Mean of each dimension, `(D,)`.
        weight: Factor of each dimension, `(D,)`, or matrix, `(D, D)`, applied after the shift.
    """

    mean: Tensor
    weight: Tensor

    @classmethod
    def standardized(cls, rows: FloatArray) -> "Scaling":
        """Scale every dimension to mean 0 and standard deviation 1 over rows `(N, D)`.

        Rows that are all the same have no scale, and stay as they are.
        """
        mean = _mean(rows)
        squares = ((block - mean).square().sum(0) for block in blocks(rows))
        square = sum(squares, start=torch.zeros_like(mean))
        std = (square / len(rows)).sqrt()
        is_varied = std > SAME * mean.abs() + LEAST_STD
        if not is_varied.any():
            mean = torch.zeros_like(mean)
        return cls(mean.float(), (1 / torch.where(is_varied, std, 1.0)).float())

    @classmethod
    def whitened(cls, rows: FloatArray, shrinkage: float = 0.1) -> "Scaling":
        """Make the covariance of rows `(N, D)` the identity, up to `shrinkage`.

        Separates copies from similar sounds, but finds fewer similar sounds (docs/explore.md). The
        share `shrinkage` of each variance is replaced by the mean variance, so that directions with
        hardly any variation are not amplified. Rows that are all the same stay as they are.
        """
        mean = _mean(rows)
        products = ((block - mean).T @ (block - mean) for block in blocks(rows))
        covariance = sum(products, start=mean.new_zeros(len(mean), len(mean))) / len(rows)
        if covariance.trace() <= (SAME * mean.norm()) ** 2:
            return cls(torch.zeros_like(mean).float(), torch.ones_like(mean).float())
        variances, directions = torch.linalg.eigh(covariance)
        variances = (1 - shrinkage) * variances.clamp(min=0) + shrinkage * variances.mean()
        scale = 1 / torch.where(variances > 0, variances, 1.0).sqrt()
        return cls(mean.float(), (directions * scale).float())

    def __call__(self, rows: Tensor) -> Tensor:
        """Scale rows `(N, D)`, then normalize each to length 1."""
        rows = rows - self.mean
        return F.normalize(rows * self.weight if self.weight.ndim == 1 else rows @ self.weight)


def _mean(rows: FloatArray) -> Tensor:
    """Mean of each dimension, float64 `(D,)`."""
    sums = (block.sum(0, dtype=torch.float64) for block in blocks(rows))
    return sum(sums, start=torch.zeros(rows.shape[1], dtype=torch.float64)) / len(rows)


def blocks(rows: FloatArray) -> Iterator[Tensor]:
    """Iterate over rows `(N, D)` in float32, so many at a time as memory holds easily."""
    for first in range(0, len(rows), ROWS_AT_ONCE):
        yield torch.from_numpy(np.array(rows[first : first + ROWS_AT_ONCE], np.float32))
