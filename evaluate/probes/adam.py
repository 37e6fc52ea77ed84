"""Linear layer trained with Adam and early stopping, as a scikit-learn estimator."""

import copy
from functools import partial
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import expit, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from evaluate.probes.metrics import METRICS, Labels, class_positions, metric_for


class AdamProbe(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Linear layer on cross-entropy with the weights of its last best validation epoch.

    An epoch whose validation score equals the best counts as progress, as in the official probes:
    early accuracies on few clips tie, and the later of two such layers has learned more.

    In multi-label tasks the loss is the sum of the classes' binary cross-entropies, and the best
    epoch is chosen by mean average precision instead of accuracy.

    Deterministic for a seed on one device; the global random state is neither used nor changed.

    Args:
        lr: Learning rate of Adam.
        batch_size: Clips per step.
        max_epochs: Maximum number of epochs.
        patience: Epochs below the best validation score after which training stops.
        weight_decay: Weight decay (L2) of Adam.
        is_mean_over_classes: True to divide the loss by the number of classes.
        seed: Seed of the initial weights and the order of the clips.
        device: Torch device; all features are moved there at once.

    Source: Adam, batches of 200 and at most 200 epochs are those of the linear evaluations behind
    the published numbers; their other rules are in `evaluate.probes.official`.
    """

    def __init__(
        self,
        *,
        lr: float = 1e-3,
        batch_size: int = 200,
        max_epochs: int = 200,
        patience: int = 20,
        weight_decay: float = 0.0,
        is_mean_over_classes: bool = False,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        # Assignments only: scikit-learn's clone() requires it.
        self.lr = lr
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.patience = patience
        self.weight_decay = weight_decay
        self.is_mean_over_classes = is_mean_over_classes
        self.seed = seed
        self.device = device

    def fit(
        self,
        X: npt.ArrayLike | Tensor,  # noqa: N803  # the names scikit-learn gives them
        y: npt.ArrayLike,
        X_valid: npt.ArrayLike | Tensor,  # noqa: N803
        y_valid: npt.ArrayLike,
    ) -> Self:
        """Train on `X (N, D)` and `y`; stop and choose the epoch on the validation pair.

        Labels are `(N,)`, or multi-label targets, bool `(N, C)`. A validation label that is not a
        training label counts as an error.

        Sets `classes_`, `layer_`, `num_epochs_` and `best_epoch_`; epochs count from 1.
        """
        features, valid_features = self._to_device(X), self._to_device(X_valid)
        labels, valid_labels = np.asarray(y), np.asarray(y_valid)
        if labels.ndim == 2:
            self.classes_ = np.arange(labels.shape[1])
            targets = torch.from_numpy(labels.astype(np.float32)).to(self.device)
        else:
            self.classes_, indices = np.unique(labels, return_inverse=True)
            targets = torch.from_numpy(indices).to(self.device)
            valid_labels = class_positions(valid_labels, self.classes_)
        self._train(features, targets, valid_features, valid_labels)
        return self

    def predict_proba(self, X: npt.ArrayLike | Tensor) -> npt.NDArray[np.float32]:  # noqa: N803
        """Return the probability of every class for every row of `X (N, D)`, `(N, C)`."""
        check_is_fitted(self)
        logits = _score(self.layer_, self._to_device(X))
        to_probabilities = expit if self.is_multilabel_ else partial(softmax, axis=1)
        probabilities: npt.NDArray[np.float32] = to_probabilities(logits)
        return probabilities

    def predict(self, X: npt.ArrayLike | Tensor) -> npt.NDArray[np.generic]:  # noqa: N803
        """Predict the label of every row of `X`, `(N,)`; multi-label: bool `(N, C)`."""
        probabilities = self.predict_proba(X)
        if self.is_multilabel_:
            return probabilities >= 0.5
        labels: npt.NDArray[np.generic] = self.classes_[probabilities.argmax(axis=1)]
        return labels

    def _train(
        self, features: Tensor, targets: Tensor, valid_features: Tensor, valid_labels: Labels
    ) -> None:
        """Train until patience runs out; `valid_labels` are column indices of the scores."""
        self.is_multilabel_ = targets.ndim == 2
        loss_of = sum_of_binary_losses if self.is_multilabel_ else nn.functional.cross_entropy
        measure = METRICS[metric_for(valid_labels)]
        generator = torch.Generator().manual_seed(self.seed)  # on the CPU: same draws everywhere
        layer = make_layer(features.shape[1], len(self.classes_), generator).to(self.device)
        optimizer = torch.optim.Adam(layer.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        divisor = len(self.classes_) if self.is_mean_over_classes else 1
        best_score, best_weights = -1.0, layer.state_dict()
        self.best_epoch_ = 0
        for epoch in range(1, self.max_epochs + 1):
            self.num_epochs_ = epoch
            order = torch.randperm(len(features), generator=generator).to(self.device)
            for batch in torch.split(order, self.batch_size):
                loss = loss_of(layer(features[batch]), targets[batch]) / divisor
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            score = measure(valid_labels, _score(layer, valid_features))
            if score >= best_score:
                best_score, self.best_epoch_ = score, epoch
                best_weights = copy.deepcopy(layer.state_dict())
            elif epoch - self.best_epoch_ >= self.patience:
                break
        layer.load_state_dict(best_weights)
        self.layer_ = layer

    def _to_device(self, features: npt.ArrayLike | Tensor) -> Tensor:
        return torch.as_tensor(features, dtype=torch.float32, device=self.device)


def make_layer(num_features: int, num_classes: int, generator: torch.Generator) -> nn.Linear:
    """Make a linear layer with torch's default initialization, drawn from `generator`."""
    layer = nn.Linear(num_features, num_classes, device="meta").to_empty(device="cpu")
    bound = num_features**-0.5
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=generator)
        layer.bias.uniform_(-bound, bound, generator=generator)
    return layer


def sum_of_binary_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the binary loss, averaged over clips, summed over classes: each trains as if alone."""
    loss = nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="sum")
    return loss / len(targets)


@torch.no_grad()
def _score(layer: nn.Linear, features: Tensor) -> npt.NDArray[np.float32]:
    scores: npt.NDArray[np.float32] = layer(features).cpu().numpy()
    return scores
