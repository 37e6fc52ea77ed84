"""Probes of the protocol, and its constants."""

import time
from collections.abc import Callable

from evaluate.probes.adam import AdamProbe
from evaluate.probes.knn import KNNProbe
from evaluate.probes.logistic import LogisticProbe, choose_device
from evaluate.probes.prepared import FittedProbe, Part, prepare
from evaluate.probes.threads import few_threads

# The protocol. Constants, not options, so that scores of all results.csv files are comparable.
LOGISTIC_C = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
LOGISTIC_MAX_ITERATIONS = (200, 1_000, 5_000)  # the next limit only if a fit has not converged
ADAM_NUM_SEEDS = 3
KNN_K = (1, 3, 5, 10, 20, 50, 100)


def fit_logistic(train: Part, valid: Part, *, seed: int, device: str) -> tuple[FittedProbe, ...]:
    """Fit logistic regression (lbfgs), C chosen by validation accuracy; multi-label by mAP.

    Of equal scores the smaller C counts. The chosen model is the one fitted on `train`: it is
    not refitted with the validation clips, so that all probes learn from the same clips.

    Additional peak memory: on the device one scaled copy of the parts' features and two to four
    arrays `(N, C)`, on the CPU some 25 float64 arrays `(C, D)` of lbfgs.

    Args:
        train: Clips that fit the scaler and the coefficients.
        valid: Clips that choose C.
        seed: Seed recorded with the result; lbfgs is deterministic.
        device: Torch device.

    Returns:
        One probe. Its warnings name each C that has not converged, and quote scikit-learn's.
    """
    start = time.perf_counter()
    warnings: tuple[str, ...] = ()
    if train.labels.ndim == 1 or device == "mps":  # scikit-learn's part, or float64
        device, warnings = choose_device(device)
    data = prepare(train, valid, device)
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

    Additional memory: one scaled copy of the parts' features on the device, for all seeds.

    Args:
        train: Clips that fit the scaler and the layer.
        valid: Clips that decide when to stop and which epoch's weights are kept.
        seed: First of three consecutive seeds.
        device: Torch device.

    Returns:
        Three probes.
    """
    data = prepare(train, valid, device)
    seeds = range(seed, seed + ADAM_NUM_SEEDS)
    return tuple(data.fit_layer(AdamProbe(seed=each, device=device)) for each in seeds)


def fit_knn(train: Part, valid: Part, *, seed: int, device: str) -> tuple[FittedProbe, ...]:
    """Choose the number of nearest training clips that vote, by the validation score.

    Cosine similarity is computed on the standardized features that the other probes see. Raw
    embeddings rarely have negative elements: their similarities are all near 1 and follow the few
    dimensions of largest variance.

    Additional memory: one scaled copy of the parts' features on the device, as long as the probe
    exists.

    Args:
        train: Clips that fit the scaler, and that vote.
        valid: Clips that choose k.
        seed: Seed recorded with the result; the probe is deterministic.
        device: Torch device.

    Returns:
        One probe.
    """
    start = time.perf_counter()
    data = prepare(train, valid, device)
    classifier = KNNProbe(num_neighbors=KNN_K, device=device)
    with few_threads(data.train.numel() * len(data.valid)):
        classifier.fit(*data.pairs)
    return (data.finish(classifier, {"k": classifier.k_}, seed, start),)


# Probes by their name on the command line: (train, valid, *, seed, device) -> fitted probes.
PROBES: dict[str, Callable[..., tuple[FittedProbe, ...]]] = {
    "logistic": fit_logistic,
    "adam": fit_adam,
    "knn": fit_knn,
}
