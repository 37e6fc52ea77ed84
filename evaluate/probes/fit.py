"""The probes of the protocol, and its constants."""

import time
from collections.abc import Callable

from evaluate.probes.adam import AdamProbe
from evaluate.probes.knn import KNNProbe
from evaluate.probes.logistic import LogisticProbe, choose_device
from evaluate.probes.prepared import FittedProbe, Part, prepare
from evaluate.probes.threads import few_threads

# The protocol. Not options: a score stands for the same thing in every results.csv.
LOGISTIC_C = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
LOGISTIC_MAX_ITERATIONS = (200, 1_000, 5_000)  # further steps only where one has not converged
ADAM_NUM_SEEDS = 3
KNN_K = (1, 3, 5, 10, 20, 50, 100)


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

    Held beside the parts: one scaled copy of their features, on the device, for all seeds.

    Args:
        train: What the scaler and the layer are fitted on.
        valid: What decides when to stop and which epoch's weights are kept.
        seed: The first of the three, which follow each other.
        device: A torch device.

    Returns:
        Three probes.
    """
    data = prepare(train, valid, device)
    seeds = range(seed, seed + ADAM_NUM_SEEDS)
    return tuple(data.fit_layer(AdamProbe(seed=each, device=device)) for each in seeds)


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
    data = prepare(train, valid, device)
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
