"""A quick probe: how well the classes of clips are told from their embeddings."""

import importlib
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from byola_rq.errors import MissingPackageError

NUM_NEIGHBOURS = 10  # of a clip vote, the nearer the more
LOGISTIC_C = 0.01  # the middle of the range that an evaluation would choose from
LOGISTIC_ROUNDS, LOGISTIC_ITERATIONS = 20, 10  # between two rounds a stop is looked for

_ROWS_PER_CHUNK = 256  # whose neighbours are searched together

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
    """Fit a probe on the train clips' embeddings, and test it on the other clips'.

    Each dimension is standardized by the train clips. `knn` is a vote of the ten train clips that
    are nearest by cosine; `logistic` has a fixed penalty. Both draw no random number.

    Args:
        probe: knn or logistic.
        embeddings: `(N, D)`.
        labels: Class of each clip, `(N,)`.
        is_train: Whether it is a train clip, `(N,)`.
        should_stop: Asked between pieces of work, of a second or so.

    Returns:
        Accuracy in percent; nan where an embedding is not finite; None where it was stopped.

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
    """scikit-learn with the parts that are used here.

    Raises:
        MissingPackageError: If it is not installed.
    """
    try:
        import sklearn

        for part in ("exceptions", "linear_model", "neighbors", "preprocessing"):
            importlib.import_module(f"sklearn.{part}")
    except ImportError as error:
        raise MissingPackageError(
            f"validation.labelled needs scikit-learn, which does not import ({error}); "
            "`pip install 'byola_rq[evaluate]'` adds it, or set validation.labelled=null"
        ) from error
    return sklearn


def _predict_knn(
    train: Features, labels: Labels, valid: Features, should_stop: Callable[[], bool]
) -> Labels | None:
    """Labels of `valid (N, D)` by their nearest neighbours in `train`; None where stopped."""
    classifier = import_sklearn().neighbors.KNeighborsClassifier(
        min(NUM_NEIGHBOURS, len(train)), metric="cosine", weights="distance"
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
    """Labels of `valid (N, D)` by logistic regression on `train`; None where stopped."""
    sklearn = import_sklearn()
    classifier = sklearn.linear_model.LogisticRegression(
        C=LOGISTIC_C, max_iter=LOGISTIC_ITERATIONS, warm_start=True
    )
    for _ in range(LOGISTIC_ROUNDS):
        if should_stop():
            return None
        with warnings.catch_warnings():  # each round but the last ends before it has converged
            warnings.simplefilter("ignore", sklearn.exceptions.ConvergenceWarning)
            classifier.fit(train, labels)
        if classifier.n_iter_.max() < LOGISTIC_ITERATIONS:
            break
    predicted: Labels = classifier.predict(valid)
    return predicted
