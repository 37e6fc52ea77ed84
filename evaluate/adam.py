"""One linear layer trained with Adam and stopped early, as a scikit-learn estimator."""

import copy
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn


class AdamProbe(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Linear layer on cross-entropy, the weights of its best epoch on validation clips kept.

    Deterministic for a seed, on one device; the global random state is neither used nor changed.

    Args:
        lr: Adam's learning rate.
        batch_size: Clips per step.
        max_epochs: Epochs at most.
        patience: Epochs without a better validation accuracy after which training stops.
        seed: Of the initial weights and the order of the clips.
        device: A torch device.

    Source: the linear evaluation behind the published BYOL-A numbers (Niizumi et al.,
    arXiv:2103.06695): Adam, batches of 200, at most 200 epochs, a patience of 20.
    """

    def __init__(
        self,
        *,
        lr: float = 1e-3,
        batch_size: int = 200,
        max_epochs: int = 200,
        patience: int = 20,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        # No checks and nothing else here: scikit-learn's clone() relies on it.
        self.lr = lr
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.patience = patience
        self.seed = seed
        self.device = device

    def fit(
        self,
        X: npt.ArrayLike,  # noqa: N803  # the names scikit-learn gives them
        y: npt.ArrayLike,
        X_valid: npt.ArrayLike,  # noqa: N803
        y_valid: npt.ArrayLike,
    ) -> Self:
        """Train on `X (N, D)`, `y (N,)`; stop and choose the epoch on the validation pair.

        Sets `classes_`, `layer_`, `num_epochs_`, `best_epoch_`, both counted from 1.

        Raises:
            ValueError: If a validation label is not among the training labels.
        """
        self.classes_, targets = np.unique(np.asarray(y), return_inverse=True)
        unknown = np.setdiff1d(np.asarray(y_valid), self.classes_)
        if unknown.size:
            raise ValueError(f"y_valid must hold training labels only; got {unknown[0]!r}")
        features, labels = self._to_device(X), torch.from_numpy(targets).to(self.device)
        valid_features = self._to_device(X_valid)
        valid_labels = torch.from_numpy(np.searchsorted(self.classes_, y_valid)).to(self.device)

        generator = torch.Generator().manual_seed(self.seed)  # on the CPU: same draws everywhere
        layer = _make_layer(features.shape[1], len(self.classes_), generator).to(self.device)
        optimizer = torch.optim.Adam(layer.parameters(), lr=self.lr)
        best_accuracy, best_weights = -1.0, layer.state_dict()
        self.best_epoch_ = 0
        for epoch in range(1, self.max_epochs + 1):
            self.num_epochs_ = epoch
            order = torch.randperm(len(features), generator=generator).to(self.device)
            for batch in torch.split(order, self.batch_size):
                loss = nn.functional.cross_entropy(layer(features[batch]), labels[batch])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            accuracy = (_predict(layer, valid_features) == valid_labels).float().mean().item()
            if accuracy > best_accuracy:
                best_accuracy, self.best_epoch_ = accuracy, epoch
                best_weights = copy.deepcopy(layer.state_dict())
            elif epoch - self.best_epoch_ >= self.patience:
                break
        layer.load_state_dict(best_weights)
        self.layer_ = layer
        return self

    def predict(self, X: npt.ArrayLike) -> npt.NDArray[np.generic]:  # noqa: N803
        """The label of every row of `X (N, D)`, `(N,)`."""
        check_is_fitted(self)
        indices = _predict(self.layer_, self._to_device(X)).cpu().numpy()
        labels: npt.NDArray[np.generic] = self.classes_[indices]
        return labels

    def _to_device(self, features: npt.ArrayLike) -> Tensor:
        return torch.as_tensor(np.asarray(features, dtype=np.float32), device=self.device)


def _make_layer(num_features: int, num_classes: int, generator: torch.Generator) -> nn.Linear:
    """A linear layer with torch's usual initialization, drawn from `generator`."""
    layer = nn.Linear(num_features, num_classes, device="meta").to_empty(device="cpu")
    bound = num_features**-0.5
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=generator)
        layer.bias.uniform_(-bound, bound, generator=generator)
    return layer


@torch.no_grad()
def _predict(layer: nn.Linear, features: Tensor) -> Tensor:
    predictions: Tensor = layer(features).argmax(dim=1)
    return predictions
