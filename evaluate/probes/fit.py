"""The probes of the protocol, and its constants."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from evaluate.probes.adam import AdamProbe
from evaluate.probes.knn import KNNProbe
from evaluate.probes.logistic import LogisticProbe, choose_device
from evaluate.probes.scaling import Features, fit_scaler, scale
from evaluate.probes.threads import few_threads

# The protocol. Not options: a score stands for the same thing in every results.csv.
LOGISTIC_C = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
LOGISTIC_MAX_ITERATIONS = (200, 1_000, 5_000)  # further steps only where one has not converged
ADAM_NUM_SEEDS = 3
KNN_K = (1, 3, 5, 10, 20, 50, 100)

Labels = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Part:
    """The clips of a fold that are trained or validated on.

    Attributes:
        features: Embeddings, `(N, D)`; a memory map will do.
        labels: Class indices, `(N,)`, or, where a clip may have several classes, which it has:
            bool `(N, C)`.

    Raises:
        ValueError: If the shapes do not fit, or the labels are of another kind.
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
    """A scaler and a classifier, both fitted without a test clip.

    Attributes:
        scaler: Fitted on the training clips.
        classifier: Gives the probabilities of `classes`, in this order.
        classes: The classes that have training clips, ascending, `(K,)`.
        num_classes: Columns of the scores: those of multi-label targets, else one more than the
            largest class of the training and validation clips.
        is_multilabel: Whether a clip may have several classes.
        params: What was chosen on the validation clips, for the results.
        seed: Written down with the result.
        fit_seconds: Wall time.
        warnings: What the user should know of this fit.
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

    def scores(self, features: Features) -> Features:
        """How likely each class is for every row, `(N, num_classes)`; higher is more likely.

        Probabilities of logistic and adam, shares of the votes of knn; of a class without training
        clips -inf.
        """
        probabilities = self.classifier.predict_proba(scale(self.scaler, features, "cpu").numpy())
        scores = np.full((len(features), self.num_classes), -np.inf, dtype=np.float32)
        scores[:, self.classes] = probabilities
        return scores

    def predict(self, features: Features) -> Labels | Flags:
        """The likeliest class of every row, `(N,)`; multi-label: score >= 0.5, bool `(N, C)`."""
        scores = self.scores(features)
        return scores >= 0.5 if self.is_multilabel else scores.argmax(axis=1)


def fit_logistic(train: Part, valid: Part, *, seed: int, device: str) -> tuple[FittedProbe, ...]:
    """Fit logistic regression (lbfgs), C chosen by validation accuracy, multi-label by its mAP.

    Of equal scores the smaller C counts. The chosen model is the one fitted on `train`: it is
    not fitted again with the validation clips, so that all probes learn from the same clips.

    Held at the peak, beside the parts: one scaled copy of their features on the device, there two
    to four arrays `(N, C)`, on the CPU some 25 float64 arrays `(C, D)` of lbfgs.

    Args:
        train: What the scaler and the coefficients are fitted on.
        valid: What C is chosen on.
        seed: Written down with the result; lbfgs itself draws nothing.
        device: A torch device.

    Returns:
        One probe. Its warnings name the C that have not converged, and hold scikit-learn's own.
    """
    start = time.perf_counter()
    warnings: tuple[str, ...] = ()
    if train.labels.ndim == 1:  # scikit-learn's part
        device, warnings = choose_device(device)
    data = _prepare(train, valid, device)
    classifier = LogisticProbe(
        penalties=LOGISTIC_C,
        max_iterations=LOGISTIC_MAX_ITERATIONS,
        device=device,
        has_array_api=device != "cpu",
    )
    with few_threads(data.train.numel() * len(data.classes)):
        classifier.fit(*data.pairs)
    warnings += classifier.warnings_
    return (data.finish(classifier, {"C": classifier.penalty_}, seed, start, warnings),)


def fit_adam(train: Part, valid: Part, *, seed: int, device: str) -> tuple[FittedProbe, ...]:
    """Fit one linear layer with Adam from three seeds, each stopped by the validation score.

    Held beside the parts: one scaled copy of their features, on the device, for all seeds.

    Args:
        train: What the scaler and the layer are fitted on.
        valid: What decides when to stop and which epoch's weights are kept.
        seed: The first of the three, which follow each other.
        device: A torch device.

    Returns:
        Three probes.
    """
    data = _prepare(train, valid, device)
    probes = []
    for each_seed in range(seed, seed + ADAM_NUM_SEEDS):
        start = time.perf_counter()
        classifier = AdamProbe(seed=each_seed, device=device)
        num_clips = min(classifier.batch_size, len(data.train))
        with few_threads(num_clips * data.train.shape[1] * len(data.classes)):
            classifier.fit(*data.pairs)
        params = {
            "lr": classifier.lr,
            "epochs": classifier.num_epochs_,
            "best_epoch": classifier.best_epoch_,
        }
        probes.append(data.finish(classifier, params, each_seed, start))
    return tuple(probes)


def fit_knn(train: Part, valid: Part, *, seed: int, device: str) -> tuple[FittedProbe, ...]:
    """Choose the number of nearest training clips that vote, by the validation score.

    Cosine similarity is taken of the standardized features that the other probes see: of raw
    embeddings, most of which have no negative element, all similarities are near 1, and they
    follow the few dimensions of largest variance.

    Held beside the parts: one scaled copy of their features, on the device, for as long as the
    probe is.

    Args:
        train: What the scaler is fitted on, and the clips that vote.
        valid: What k is chosen on.
        seed: Written down with the result; nothing is drawn.
        device: A torch device.

    Returns:
        One probe.
    """
    start = time.perf_counter()
    data = _prepare(train, valid, device)
    classifier = KNNProbe(num_neighbors=KNN_K, device=device)
    with few_threads(data.train.numel() * len(data.valid)):
        classifier.fit(*data.pairs)
    return (data.finish(classifier, {"k": classifier.k_}, seed, start),)


# Every probe by its name on the command line: (train, valid, *, seed, device) -> fitted probes.
PROBES: dict[str, Callable[..., tuple[FittedProbe, ...]]] = {
    "logistic": fit_logistic,
    "adam": fit_adam,
    "knn": fit_knn,
}


@dataclass(frozen=True, eq=False)
class _Prepared:
    """Both parts, scaled, with the labels of the classes that can be learned."""

    scaler: StandardScaler
    train: Tensor  # (N, D)
    labels: Labels | Flags  # (N,), or (N, K)
    valid: Tensor
    valid_labels: Labels | Flags
    classes: Labels  # (K,)
    num_classes: int

    @property
    def pairs(self) -> tuple[Tensor, Labels | Flags, Tensor, Labels | Flags]:
        """What every classifier is fitted on."""
        return self.train, self.labels, self.valid, self.valid_labels

    def finish(
        self,
        classifier: LogisticProbe | AdamProbe | KNNProbe,
        params: dict[str, float | int],
        seed: int,
        start: float,
        warnings: tuple[str, ...] = (),
    ) -> FittedProbe:
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
        )


def _prepare(train: Part, valid: Part, device: str) -> _Prepared:
    """Scale both parts onto the device by the mean and std of `train`; see what can be learned."""
    labels, valid_labels = train.labels, valid.labels
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
    if len(classes) < 3 - train.labels.ndim or not len(valid.features):
        raise ValueError(
            "a probe must have training clips of at least 2 classes (multi-label: 1) and "
            f"validation clips; got {len(classes)} classes, {len(valid.features)} validation clips"
        )
    scaler = fit_scaler(train.features)
    scaled = (scale(scaler, part.features, device) for part in (train, valid))
    train_features, valid_features = scaled
    return _Prepared(
        scaler, train_features, labels, valid_features, valid_labels, classes, num_classes
    )
