"""The nearest training clips by cosine similarity vote for the classes of a clip."""

from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from evaluate.probes.metrics import METRICS, Labels, class_positions, metric_for

_CHUNK_ELEMENTS = 2**25  # similarities, or neighbors' targets, held at a time: 128 MiB of float32


class KNNProbe:
    """Weighted vote of the k nearest training clips; nothing but k is chosen.

    A neighbor's vote weighs 1 + its cosine similarity. That needs no temperature, hardly differs
    from one clip, one vote, and gives a tie to the class that is nearer, where equal votes give it
    to the class that happens to come first. Of training clips equally near the first count. A row
    of zeros has similarity 0 to every other.

    The training features are kept as they are given (a float32 tensor on the device is not
    copied); beyond them a search holds some 128 MiB of similarities at a time.

    Args:
        num_neighbors: The k to choose from; those above the number of training clips are left out.
        device: A torch device.
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
        """Keep `X (N, D)` and `y`; choose k on the validation pair, of equal ones the smallest.

        Labels are `(N,)`, or bool `(N, C)` where a clip may have several classes. A validation
        label that is no training label counts as missed.

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
        """Every class' share of the votes for every row of `X (N, D)`, `(N, C)`."""
        return self._vote(*self._search(self._to_device(X), self.k_))

    def _search(self, features: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Weights and rows of the k nearest training clips, the nearest first, `(N, k)` each."""
        found = []
        for part in torch.split(features, max(1, _CHUNK_ELEMENTS // len(self.features_))):
            # We scale the similarities, not the training features: that would be a copy of them.
            similarity = (part * _invert_norms(part)[:, None]) @ self.features_.T
            similarity *= self.inverse_norms_
            found.append(_largest(similarity, k))
        similarities, neighbors = (torch.cat(parts).cpu() for parts in zip(*found, strict=True))
        return (1 + similarities).clamp_min_(0), neighbors

    def _vote(self, weights: Tensor, neighbors: Tensor) -> npt.NDArray[np.float32]:
        """Scores from `(N, k)`; on the CPU, where sums of one row have one order."""
        num_classes, k = len(self.classes_), weights.shape[1]
        # All weights are 0 only where all neighbors lie opposite; then no class gets a vote.
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
    """One over every row's length, `(N,)`; 0 for a row of zeros."""
    norms = torch.linalg.vector_norm(features, dim=1)
    return torch.where(norms > 0, 1 / norms, 0)


def _largest(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of every row and their columns, descending, of equal ones the first columns."""
    largest, columns = values.topk(k, dim=1)
    # topk takes any of the values that equal the smallest taken. Rows where it had a choice are
    # few (copies of a clip), so only they are sorted as a whole.
    had_choice = (values >= largest[:, -1:]).sum(dim=1) > k
    if had_choice.any():
        whole, order = values[had_choice].sort(dim=1, descending=True, stable=True)
        largest[had_choice], columns[had_choice] = whole[:, :k], order[:, :k]
    # And it leaves equal values in any order.
    columns, order = columns.sort(dim=1)
    largest, order = largest.gather(1, order).sort(dim=1, descending=True, stable=True)
    return largest, columns.gather(1, order)
