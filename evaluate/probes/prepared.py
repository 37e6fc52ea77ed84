"""Scaled clips that a probe is fitted on, and the fitted probe."""

import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from evaluate.probes.adam import AdamProbe
from evaluate.probes.knn import KNNProbe
from evaluate.probes.logistic import LogisticProbe
from evaluate.probes.scaling import Features, fit_scaler, scale
from evaluate.probes.threads import few_threads

Labels = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Part:
    """Training or validation clips of a fold.

    Attributes:
        features: Embeddings, `(N, D)`; may be a memory map.
        labels: Class indices, `(N,)`; multi-label targets, bool `(N, C)`.

    Raises:
        ValueError: If shapes do not match, or the labels have another type.
    """

    features: Features
    labels: Labels | Flags

    def __post_init__(self) -> None:
        if self.features.ndim != 2 or len(self.features) != len(self.labels):
            raise ValueError(
                f"features must be (N, D), N the number of labels, {len(self.labels)}; got "
                f"{self.features.shape}"
            )
        kind = self.labels.dtype.kind + str(self.labels.ndim)
        if kind not in ("i1", "b2"):
            raise ValueError(
                "labels must be integers (N,) or bool (N, C); got "
                f"{self.labels.dtype} {self.labels.shape}"
            )


@dataclass(frozen=True, eq=False)
class FittedProbe:
    """Scaler and classifier, both fitted without a test clip.

    Attributes:
        scaler: Mean and std of every dimension of the features it was fitted on.
        classifier: Predicts the probabilities of `classes`, in this order.
        classes: Classes that have training clips, ascending, `(K,)`.
        num_classes: Number of columns `C` of the scores: that of multi-label targets, else one
            more than the largest class of the training and validation clips.
        is_multilabel: True if a clip may have several classes.
        params: Values chosen on the validation clips, for the results.
        seed: Seed recorded with the result.
        fit_seconds: Wall time of the fit.
        warnings: Warnings for the user.
        num_train: Number of training clips.
        num_valid: Number of validation clips.
    """

    scaler: StandardScaler
    classifier: LogisticProbe | AdamProbe | KNNProbe
    classes: Labels
    num_classes: int
    is_multilabel: bool
    params: dict[str, float | int]
    seed: int
    fit_seconds: float
    warnings: tuple[str, ...] = ()
    num_train: int = 0
    num_valid: int = 0

    def scores(self, features: Features) -> Features:
        """Score every class for every row, `(N, num_classes)`; higher is more likely.

        The scores are probabilities (logistic, adam) or shares of the votes (knn); -inf for a
        class without training clips.
        """
        probabilities = self.classifier.predict_proba(scale(self.scaler, features, "cpu").numpy())
        scores = np.full((len(features), self.num_classes), -np.inf, dtype=np.float32)
        scores[:, self.classes] = probabilities
        return scores

    def predict(self, features: Features) -> Labels | Flags:
        """Predict the likeliest class, `(N,)`; multi-label: scores >= 0.5, bool `(N, C)`."""
        scores = self.scores(features)
        return scores >= 0.5 if self.is_multilabel else scores.argmax(axis=1)


@dataclass(frozen=True, eq=False)
class Prepared:
    """Scaled training and validation parts, with labels of the classes that can be learned."""

    scaler: StandardScaler
    train: Tensor  # (N, D)
    labels: Labels | Flags  # (N,), or (N, K)
    valid: Tensor
    valid_labels: Labels | Flags
    classes: Labels  # (K,)
    num_classes: int

    @property
    def pairs(self) -> tuple[Tensor, Labels | Flags, Tensor, Labels | Flags]:
        """Training features and labels, validation features and labels: arguments of `fit`."""
        return self.train, self.labels, self.valid, self.valid_labels

    def fit_layer(self, layer: AdamProbe, warnings: tuple[str, ...] = ()) -> FittedProbe:
        """Train a linear layer, stopped early by the validation part; return the probe."""
        start = time.perf_counter()
        num_clips = min(layer.batch_size, len(self.train))
        with few_threads(num_clips * self.train.shape[1] * len(self.classes)):
            layer.fit(*self.pairs)
        params = {"lr": layer.lr, "epochs": layer.num_epochs_, "best_epoch": layer.best_epoch_}
        return self.finish(layer, params, layer.seed, start, warnings)

    def finish(
        self,
        classifier: LogisticProbe | AdamProbe | KNNProbe,
        params: dict[str, float | int],
        seed: int,
        start: float,
        warnings: tuple[str, ...] = (),
    ) -> FittedProbe:
        """Return the probe of a classifier fitted on these parts, timed from `start`."""
        return FittedProbe(
            self.scaler,
            classifier,
            self.classes,
            self.num_classes,
            self.labels.ndim == 2,
            params,
            seed,
            time.perf_counter() - start,
            warnings,
            num_train=len(self.train),
            num_valid=len(self.valid),
        )


def prepare(
    train: Part, valid: Part, device: str, *, scaled_by: Features | None = None
) -> Prepared:
    """Scale both parts onto the device and select the classes that can be learned.

    Args:
        train: Clips to train on.
        valid: Clips to validate on.
        device: Torch device.
        scaled_by: Embeddings whose mean and std scale both parts; by default those of `train`.

    Raises:
        ValueError: If there are too few classes or clips, or a feature is not finite.
    """
    labels, valid_labels, classes, num_classes = select_classes(train.labels, valid.labels)
    scaler = fit_scaler(train.features if scaled_by is None else scaled_by)
    scaled = (scale(scaler, part.features, device) for part in (train, valid))
    train_features, valid_features = scaled
    return Prepared(
        scaler, train_features, labels, valid_features, valid_labels, classes, num_classes
    )


def select_classes(
    labels: Labels | Flags, valid_labels: Labels | Flags
) -> tuple[Labels | Flags, Labels | Flags, Labels, int]:
    """Select the classes that have training clips.

    Returns:
        Both labels, of multi-label targets only the columns of these classes; the classes,
        ascending, `(K,)`; the number of columns of the scores, as in `FittedProbe`.

    Raises:
        ValueError: If there are too few classes or validation clips, or the labels differ in type.
    """
    least = 3 - labels.ndim
    if labels.ndim != valid_labels.ndim or labels.shape[1:] != valid_labels.shape[1:]:
        raise ValueError(
            f"valid.labels must be like train.labels {labels.shape}; got {valid_labels.shape}"
        )
    if labels.ndim == 2:
        classes, num_classes = np.flatnonzero(labels.any(axis=0)), labels.shape[1]
        labels, valid_labels = labels[:, classes], valid_labels[:, classes]
    else:
        classes = np.unique(labels)
        num_classes = 1 + int(max(labels.max(initial=0), valid_labels.max(initial=0)))
    if len(classes) < least or not len(valid_labels):
        raise ValueError(
            "a probe must have training clips of at least 2 classes (multi-label: 1) and "
            f"validation clips; got {len(classes)} classes, {len(valid_labels)} validation clips"
        )
    return labels, valid_labels, classes, num_classes
