"""Nearest-neighbor probe: training clips vote by cosine similarity."""

from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from evaluate.probes.metrics import METRICS, Labels, class_positions, metric_for

_CHUNK_ELEMENTS = 2**25  # similarities or neighbors' targets in memory: 128 MiB of float32


class KNNProbe:
    """Weighted vote of the k nearest training clips; only k is chosen.

    A neighbor's vote weighs 1 + its cosine similarity. This needs no temperature, hardly differs
    from equal votes, and gives ties to the nearer class; equal votes would give them to the class
    that comes first. Of training clips equally near the first count. A row of zeros has similarity
    0 to every other.

    The training features are not copied if they are a float32 tensor on the device; a search takes
    another 128 MiB for similarities.

    Args:
        num_neighbors: Candidate values of k; those above the number of training clips are ignored.
        device: Torch device.
    """

    def __init__(self, *, num_neighbors: tuple[int, ...], device: str = "cpu") -> None:
        self.num_neighbors = num_neighbors
        self.device = device

    def fit(
        self,
        X: npt.ArrayLike | Tensor,  # noqa: N803  # the names scikit-learn gives them
        y: Labels,
        X_valid: npt.ArrayLike | Tensor,  # noqa: N803
        y_valid: Labels,
    ) -> Self:
        """Keep `X (N, D)` and `y`; choose k on the validation pair, the smallest of equal scores.

        Labels are `(N,)`, or multi-label targets, bool `(N, C)`. A validation label that is not a
        training label counts as an error.

        Sets `classes_` and `k_`.
        """
        self.features_ = self._to_device(X)
        self.inverse_norms_ = _invert_norms(self.features_)
        self.classes_, targets = np.arange(y.shape[-1]), y
        if y.ndim == 1:
            self.classes_, targets = np.unique(y, return_inverse=True)
            y_valid = class_positions(y_valid, self.classes_)
        self.targets_ = torch.from_numpy(targets)
        choices = sorted(k for k in self.num_neighbors if k <= len(y))
        weights, neighbors = self._search(self._to_device(X_valid), choices[-1])
        measure, best_score = METRICS[metric_for(y_valid)], -1.0
        for k in choices:
            score = measure(y_valid, self._vote(weights[:, :k], neighbors[:, :k]))
            if score > best_score:
                best_score, self.k_ = score, k
        return self

    def predict_proba(self, X: npt.ArrayLike | Tensor) -> npt.NDArray[np.float32]:  # noqa: N803
        """Return every class' share of the votes for every row of `X (N, D)`, `(N, C)`."""
        return self._vote(*self._search(self._to_device(X), self.k_))

    def _search(self, features: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Return weights and rows of the k nearest training clips, nearest first, `(N, k)` each."""
        found = []
        for part in torch.split(features, max(1, _CHUNK_ELEMENTS // len(self.features_))):
            # Scaling the similarities avoids a scaled copy of the training features.
            similarity = (part * _invert_norms(part)[:, None]) @ self.features_.T
            similarity *= self.inverse_norms_
            found.append(_largest(similarity, k))
        similarities, neighbors = (torch.cat(parts).cpu() for parts in zip(*found, strict=True))
        return (1 + similarities).clamp_min_(0), neighbors

    def _vote(self, weights: Tensor, neighbors: Tensor) -> npt.NDArray[np.float32]:
        """Score from weights and rows `(N, k)`; on the CPU, where summation order is fixed."""
        num_classes, k = len(self.classes_), weights.shape[1]
        # All weights are 0 only if all neighbors have similarity -1; then no class gets a vote.
        weights = weights / weights.sum(dim=1, keepdim=True).clamp_min(1e-12)
        if self.targets_.ndim == 1:
            shares = torch.zeros(len(weights), num_classes)
            shares.scatter_add_(1, self.targets_[neighbors], weights)
        else:
            size = max(1, _CHUNK_ELEMENTS // (k * num_classes))
            chunks = zip(torch.split(weights, size), torch.split(neighbors, size), strict=True)
            # (N, 1, k) @ (N, k, C)
            shares = torch.cat([w[:, None] @ self.targets_[n].float() for w, n in chunks])[:, 0]
        scores: npt.NDArray[np.float32] = shares.clamp_(max=1).numpy()  # rounding may exceed it
        return scores

    def _to_device(self, features: npt.ArrayLike | Tensor) -> Tensor:
        return torch.as_tensor(features, dtype=torch.float32, device=self.device)


def _invert_norms(features: Tensor) -> Tensor:
    """Invert the norm of every row, `(N,)`; 0 for a row of zeros."""
    norms = torch.linalg.vector_norm(features, dim=1)
    return torch.where(norms > 0, 1 / norms, 0)


def _largest(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k largest values of every row and their columns, descending; ties by column."""
    largest, columns = values.topk(k, dim=1)
    # topk takes any of the values that equal the smallest taken. Rows where it had a choice are
    # few (copies of a clip), so only they are sorted as a whole.
    had_choice = (values >= largest[:, -1:]).sum(dim=1) > k
    if had_choice.any():
        whole, order = values[had_choice].sort(dim=1, descending=True, stable=True)
        largest[had_choice], columns[had_choice] = whole[:, :k], order[:, :k]
    # topk also leaves equal values in any order.
    columns, order = columns.sort(dim=1)
    largest, order = largest.gather(1, order).sort(dim=1, descending=True, stable=True)
    return largest, columns.gather(1, order)
