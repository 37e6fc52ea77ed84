"""How sure a score is: the bootstrap over test clips.

Each function draws whole sets of test clips with replacement and scores every one of them. Several
models are scored on the same draws, so that the differences of their samples are paired.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import sparse

NUM_RESAMPLES = 2000
COVERAGE = 0.95
# Draws beyond either end of the interval, and the 50th is the end itself. Then zero lies outside
# of it exactly where `two_sided_p` is below 0.05.
_NUM_BEYOND = round((1 - COVERAGE) / 2 * NUM_RESAMPLES) - 1
_CHUNK_VALUES = 2**19  # clips x draws weighed together: 2 MiB, which a processor's cache holds

Values = npt.NDArray[np.float64]
Targets = npt.NDArray[np.bool_]
Scores = npt.NDArray[np.float32]


def percentile_interval(samples: Values) -> tuple[float, float]:
    """The 95 % percentile interval of `NUM_RESAMPLES` draws."""
    ordered = np.sort(samples)
    return float(ordered[_NUM_BEYOND]), float(ordered[-1 - _NUM_BEYOND])


def two_sided_p(differences: Values) -> float:
    """How often the sign of a difference turns over among its draws, of both sides.

    Twice the smaller share of draws at or beyond zero, the difference itself counting as one more
    draw: below 0.05 exactly where `percentile_interval` leaves out zero, and never 0.
    """
    at_or_below, at_or_above = np.sum(differences <= 0), np.sum(differences >= 0)
    return min(1.0, 2 * (1 + float(min(at_or_below, at_or_above))) / (1 + len(differences)))


def resample_accuracy(correct: Values, weights: Values, generator: np.random.Generator) -> Values:
    """Draws of weighted accuracies.

    The clips of all folds are drawn as one pool. That leaves folds of a few clips their full
    variance, and gives a little too much of it where folds differ in how hard they are.

    Args:
        correct: Of `M` models, the share of the seeds in which each clip was predicted right,
            `(M, N)`.
        weights: What each clip counts for, `(N,)`: one over its fold's size makes the accuracy
            the mean over folds.
        generator: Source of the draws.

    Returns:
        Percent, `(M, NUM_RESAMPLES)`. Where every clip is right, or none is, all are the same.
    """
    # A draw's accuracy depends only on how often each kind of clip (its correctness and its
    # weight) is in it. With N draws those counts are multinomial, so we draw them directly: few
    # kinds instead of N clips, the same distribution.
    kinds, sizes = np.unique(np.vstack([correct, weights]), axis=1, return_counts=True)
    kind_correct, kind_weight = kinds[:-1], kinds[-1]
    num_clips = len(weights)
    counts = generator.multinomial(num_clips, sizes / num_clips, size=NUM_RESAMPLES)
    shares: Values = (kind_weight * kind_correct) @ counts.T / (counts @ kind_weight)
    return 100 * shares


def resample_mean_average_precision(
    targets: Targets, scores: Scores, generator: np.random.Generator
) -> Values:
    """Draws of the mean average precision; a class that a draw has no clip of is left out of it.

    A clip drawn twice ranks beside itself, which raises the average precision of its classes, the
    more the fewer clips they have; with many such classes the mean is raised by as much as its
    interval is wide. So the draws are moved to have the score itself as their mean. In 400
    simulated sets of 60 classes with 20 clips each, the interval of the plain draws held the
    expected score in 87 %, of the moved draws in 95 %. In 8,000 sets of three classes, the moved
    held it in 93.3 % with 15 clips a class, in 94.4 % with 60.

    Args:
        targets: Which classes each clip has, `(N, C)`.
        scores: Of `M` models, higher where a class is more likely, `(M, N, C)`.
        generator: Source of the draws.

    Returns:
        Percent, `(M, NUM_RESAMPLES)`.
    """
    num_clips = len(targets)
    rankings = [_rank_classes(targets, of_model) for of_model in scores]
    samples = np.empty((len(scores), NUM_RESAMPLES))
    chunk = max(1, _CHUNK_VALUES // num_clips)
    for start in range(0, NUM_RESAMPLES, chunk):
        stop = min(start + chunk, NUM_RESAMPLES)
        weights = _draw_counts(num_clips, stop - start, generator)
        for model, ranking in enumerate(rankings):
            samples[model, start:stop] = _weigh(ranking, weights)
    once = np.ones((num_clips, 1), dtype=np.float32)
    for model, ranking in enumerate(rankings):
        samples[model] += _weigh(ranking, once)[0] - samples[model].mean()
    return np.clip(100 * samples, 0, 100)


def _draw_counts(
    num_clips: int, num_draws: int, generator: np.random.Generator
) -> npt.NDArray[np.float32]:
    """How often each clip is in each draw, `(N, draws)`."""
    drawn = generator.integers(num_clips, size=(num_draws, num_clips))
    drawn += num_clips * np.arange(num_draws)[:, None]  # counts all draws in one call
    counts = np.bincount(drawn.ravel(), minlength=num_draws * num_clips)
    return np.ascontiguousarray(counts.reshape(num_draws, num_clips).T, dtype=np.float32)


# Of one class: which clips rank from one group of positives down to the next (G, N), and which
# positives are in each group (G, N). Clips of equal score share a group, as they share a rank.
Ranking = tuple[sparse.csr_array, sparse.csr_array]


def _rank_classes(targets: Targets, scores: Scores) -> list[Ranking]:
    return [
        _rank(of_class, scores[:, number])
        for number, of_class in enumerate(targets.T)
        if of_class.any()
    ]


def _rank(is_positive: npt.NDArray[np.bool_], scores: npt.NDArray[np.float32]) -> Ranking:
    order = np.argsort(-scores, kind="stable")
    ranked_positive, ranked_scores = is_positive[order], scores[order]
    ends_tie = np.append(ranked_scores[1:] != ranked_scores[:-1], True)
    group = np.cumsum(ends_tie) - ends_tie  # of each rank
    tie_ends = np.flatnonzero(ends_tie) + 1
    groups, num_positives = np.unique(group[ranked_positive], return_counts=True)
    shape = (len(groups), len(scores))
    return (
        _sum_of(order, tie_ends[groups], shape),
        _sum_of(order[ranked_positive], np.cumsum(num_positives), shape),
    )


def _sum_of(
    clips: npt.NDArray[np.int64], ends: npt.NDArray[np.int64], shape: tuple[int, int]
) -> sparse.csr_array:
    """Times the weights it sums those of clips[0:ends[0]], clips[ends[0]:ends[1]] and so on."""
    bounds = np.concatenate([[0], ends])
    ones = np.ones(ends[-1], dtype=np.float32)
    return sparse.csr_array((ones, clips[: ends[-1]], bounds), shape=shape)


def _weigh(rankings: Sequence[Ranking], weights: npt.NDArray[np.float32]) -> Values:
    """Mean average precision under each column of weights `(N, R)`, as a fraction `(R,)`."""
    total = np.zeros(weights.shape[1])
    num_classes = np.zeros(weights.shape[1])
    for ranks, positives in rankings:
        found = positives @ weights  # (G, R)
        recall = np.cumsum(found, axis=0)
        retrieved = np.cumsum(ranks @ weights, axis=0)
        precision = recall / np.maximum(retrieved, 1)
        num_positives = recall[-1]
        total += np.sum(found * precision, axis=0) / np.maximum(num_positives, 1)
        num_classes += num_positives > 0
    return total / np.maximum(num_classes, 1)
