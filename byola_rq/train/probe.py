"""Quick probe: classification accuracy from the embeddings of labeled clips."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from byola_rq.errors import package_needed

NUM_NEIGHBORS = 10  # neighbors that vote, weighted by similarity
LOGISTIC_C = 0.01  # middle of the range that an evaluation searches
LOGISTIC_ROUNDS, LOGISTIC_ITERATIONS = 20, 10  # a stop is checked between rounds

_ROWS_PER_CHUNK = 256  # rows per neighbor search

Features = npt.NDArray[np.float32]
Labels = npt.NDArray[np.str_]
Flags = npt.NDArray[np.bool_]


def score_embeddings(
    probe: str,
    embeddings: Features,
    labels: Labels,
    *,
    is_train: Flags,
    should_stop: Callable[[], bool] = lambda: False,
) -> float | None:
    """Fit a probe on the embeddings of the training clips, and test it on the other clips.

    Each dimension is standardized by the training clips. `knn` is a vote of the ten training clips
    nearest by cosine; `logistic` has a fixed penalty. Neither draws random numbers.

    Args:
        probe: Name of the probe, `knn` or `logistic`.
        embeddings: Embeddings of all clips, `(N, D)`.
        labels: Class of each clip, `(N,)`.
        is_train: True for training clips, bool `(N,)`.
        should_stop: Called about every second; True stops the probe.

    Returns:
        Accuracy in percent; nan if an embedding is not finite; None if stopped.

    Raises:
        MissingPackageError: If scikit-learn is not installed.
    """
    if not np.isfinite(embeddings).all():
        return float("nan")
    scaler = import_sklearn().preprocessing.StandardScaler().fit(embeddings[is_train])
    train, valid = (scaler.transform(embeddings[part]) for part in (is_train, ~is_train))
    predict = {"knn": _predict_knn, "logistic": _predict_logistic}[probe]
    predicted = predict(train, labels[is_train], valid, should_stop)
    return None if predicted is None else 100 * float((predicted == labels[~is_train]).mean())


def import_sklearn() -> Any:
    """Import scikit-learn.

    Raises:
        MissingPackageError: If it is not installed.
    """
    with package_needed("validation.labelled", "scikit-learn", extra="evaluate"):
        import sklearn  # submodules are loaded on first access
    return sklearn


def _predict_knn(
    train: Features, labels: Labels, valid: Features, should_stop: Callable[[], bool]
) -> Labels | None:
    """Predict labels of `valid (N, D)` from nearest neighbors in `train`; None if stopped."""
    classifier = import_sklearn().neighbors.KNeighborsClassifier(
        min(NUM_NEIGHBORS, len(train)), metric="cosine", weights="distance"
    )
    classifier.fit(train, labels)
    predicted = []
    for start in range(0, len(valid), _ROWS_PER_CHUNK):
        if should_stop():
            return None
        predicted.append(classifier.predict(valid[start : start + _ROWS_PER_CHUNK]))
    return np.concatenate(predicted)


def _predict_logistic(
    train: Features, labels: Labels, valid: Features, should_stop: Callable[[], bool]
) -> Labels | None:
    """Predict labels of `valid (N, D)` by logistic regression on `train`; None if stopped."""
    sklearn = import_sklearn()
    classifier = sklearn.linear_model.LogisticRegression(
        C=LOGISTIC_C, max_iter=LOGISTIC_ITERATIONS, warm_start=True
    )
    for _ in range(LOGISTIC_ROUNDS):
        if should_stop():
            return None
        with warnings.catch_warnings():  # only the last round converges
            warnings.simplefilter("ignore", sklearn.exceptions.ConvergenceWarning)
            classifier.fit(train, labels)
        if classifier.n_iter_.max() < LOGISTIC_ITERATIONS:
            break
    predicted: Labels = classifier.predict(valid)
    return predicted
