"""The two linear probes of the protocol, and its constants."""

import copy
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from evaluate.adam import AdamProbe

# The protocol. Not options: a score stands for the same thing in every results.csv.
LOGISTIC_C = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
LOGISTIC_MAX_ITERATIONS = (200, 1_000, 5_000)  # further steps only where one has not converged
ADAM_NUM_SEEDS = 3

# Clips x dimensions x classes of one step from which a second thread pays. Below it the threads
# mostly wait for each other: at 1,420 x 2,048 x 12 one logistic fit took 59 s with two threads and
# 0.8 s with one, an adam fit 12 s and 0.9 s (2 CPU cores under load, November 2026). It also makes
# small results the same on any number of cores.
_MANY_PRODUCTS = 10**8

Features = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Part:
    """The embeddings `(N, D)` and class indices `(N,)` of a fold's training or other clips."""

    features: Features
    labels: Labels


@dataclass(frozen=True, eq=False)
class FittedProbe:
    """A scaler and a linear classifier, both fitted without a test clip."""

    scaler: StandardScaler
    classifier: Any  # LogisticRegression or AdamProbe; predicts class indices
    params: dict[str, float | int]
    seed: int
    fit_seconds: float
    warnings: tuple[str, ...] = ()

    def predict(self, features: Features) -> Labels:
        """The class index of every row."""
        labels: Labels = self.classifier.predict(self.scaler.transform(features))
        return labels


def fit_logistic(
    train: Part,
    valid: Part,
    *,
    seed: int,
    device: str,  # noqa: ARG001  # every probe is called alike
) -> tuple[FittedProbe, ...]:
    """Fit multinomial logistic regression (lbfgs), C chosen by validation accuracy.

    Of equal accuracies the smaller C counts. The chosen model is the one fitted on `train`: it is
    not fitted again with the validation clips, so that both probes learn from the same clips.

    Args:
        train: What the scaler and the coefficients are fitted on.
        valid: What C is chosen on.
        seed: Written down with the result; lbfgs itself draws nothing.
        device: Not used: scikit-learn computes on the CPU.

    Returns:
        One probe.
    """
    start = time.perf_counter()
    scaler = StandardScaler().fit(train.features)
    train_features, valid_features = (scaler.transform(p.features) for p in (train, valid))
    # Upwards from the smallest C, each fit starts where the last ended: the optimum is the same,
    # the objective is convex, but large C need far fewer iterations.
    classifier = LogisticRegression(warm_start=True)
    best, best_accuracy, unconverged = classifier, -1.0, []
    for inverse_penalty in LOGISTIC_C:
        classifier.set_params(C=inverse_penalty)
        with _few_threads(train_features.size * len(np.unique(train.labels))):
            has_converged = _fit_until_converged(classifier, train_features, train.labels)
        if not has_converged:
            unconverged.append(f"{inverse_penalty:g}")
        accuracy = classifier.score(valid_features, valid.labels)
        if accuracy > best_accuracy:
            best, best_accuracy = copy.deepcopy(classifier), accuracy
    seconds = time.perf_counter() - start
    limit = LOGISTIC_MAX_ITERATIONS[-1]
    notes = tuple(f"logistic C={c} has not converged in {limit} iterations" for c in unconverged)
    return (FittedProbe(scaler, best, {"C": best.C}, seed, seconds, notes),)


def fit_adam(train: Part, valid: Part, *, seed: int, device: str) -> tuple[FittedProbe, ...]:
    """Fit one linear layer with Adam from three seeds, each stopped by validation accuracy.

    Args:
        train: What the scaler and the layer are fitted on.
        valid: What decides when to stop and which epoch's weights are kept.
        seed: The first of the three, which follow each other.
        device: A torch device.

    Returns:
        Three probes.
    """
    scaler = StandardScaler().fit(train.features)
    train_features, valid_features = (scaler.transform(p.features) for p in (train, valid))
    probes = []
    for each_seed in range(seed, seed + ADAM_NUM_SEEDS):
        start = time.perf_counter()
        classifier = AdamProbe(seed=each_seed, device=device)
        step_size = min(classifier.batch_size, len(train.labels)) * train.features.shape[1]
        with _few_threads(step_size * len(np.unique(train.labels))):
            classifier.fit(train_features, train.labels, valid_features, valid.labels)
        seconds = time.perf_counter() - start
        params = {
            "lr": classifier.lr,
            "epochs": classifier.num_epochs_,
            "best_epoch": classifier.best_epoch_,
        }
        probes.append(FittedProbe(scaler, classifier, params, each_seed, seconds))
    return tuple(probes)


# Every probe by its name on the command line: (train, valid, *, seed, device) -> fitted probes.
PROBES: dict[str, Callable[..., tuple[FittedProbe, ...]]] = {
    "logistic": fit_logistic,
    "adam": fit_adam,
}


@contextmanager
def _few_threads(num_products: int) -> Iterator[None]:
    """One thread for linear algebra while a step is small."""
    if num_products >= _MANY_PRODUCTS:
        yield
        return
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(num_threads)


def _fit_until_converged(
    classifier: LogisticRegression, features: Features, labels: Labels
) -> bool:
    """Fit with ever more iterations, each fit going on from the last; False if none suffices."""
    for max_iter in LOGISTIC_MAX_ITERATIONS:
        classifier.set_params(max_iter=max_iter)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            classifier.fit(features, labels)
        others = [w for w in caught if not issubclass(w.category, ConvergenceWarning)]
        for other in others:  # not ours to swallow
            warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
        if len(others) == len(caught):
            return True
    return False
