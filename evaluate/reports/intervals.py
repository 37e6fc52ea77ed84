"""Confidence intervals of scores: the bootstrap over test clips.

Each function draws sets of test clips with replacement and scores every set. Several models are
scored on the same draws, so that the differences of their samples are paired.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import sparse

NUM_RESAMPLES = 2000
COVERAGE = 0.95
# 49 draws lie beyond either end of the interval, the 50th is the end itself. Then zero lies outside
# of it exactly if `two_sided_p` is below 0.05.
_NUM_BEYOND = round((1 - COVERAGE) / 2 * NUM_RESAMPLES) - 1
_CHUNK_VALUES = 2**19  # clips x draws weighed together: 2 MiB, which fit a processor's cache

Values = npt.NDArray[np.float64]
Targets = npt.NDArray[np.bool_]
Scores = npt.NDArray[np.float32]


def percentile_interval(samples: Values) -> tuple[float, float]:
    """Return the 95 % percentile interval of `NUM_RESAMPLES` draws."""
    ordered = np.sort(samples)
    return float(ordered[_NUM_BEYOND]), float(ordered[-1 - _NUM_BEYOND])


def two_sided_p(differences: Values) -> float:
    """Return the two-sided bootstrap p-value of a difference from its draws.

    Twice the smaller share of draws at or beyond zero, with the difference itself as one more
    draw: below 0.05 exactly if `percentile_interval` excludes zero, and never 0.
    """
    at_or_below, at_or_above = np.sum(differences <= 0), np.sum(differences >= 0)
    return min(1.0, 2 * (1 + float(min(at_or_below, at_or_above))) / (1 + len(differences)))


def resample_accuracy(correct: Values, weights: Values, generator: np.random.Generator) -> Values:
    """Draw bootstrap samples of weighted accuracies.

    The clips of all folds are drawn as one pool. This keeps the full variance of small folds, and
    overestimates it slightly if folds differ in difficulty.

    Args:
        correct: Share of the seeds in which each clip was predicted correctly, for each of `M`
            models, `(M, N)`.
        weights: Weight of each clip, `(N,)`: with one over its fold's size, the accuracy is the
            mean over folds.
        generator: Random generator of the draws.

    Returns:
        Percent, `(M, NUM_RESAMPLES)`. If all clips are correct, or none, all are equal.
    """
    # The accuracy of a draw depends only on its count of each kind of clip (equal correctness and
    # weight). These counts are multinomial and are drawn directly: few kinds instead of N clips.
    kinds, sizes = np.unique(np.vstack([correct, weights]), axis=1, return_counts=True)
    kind_correct, kind_weight = kinds[:-1], kinds[-1]
    num_clips = len(weights)
    counts = generator.multinomial(num_clips, sizes / num_clips, size=NUM_RESAMPLES)
    shares: Values = (kind_weight * kind_correct) @ counts.T / (counts @ kind_weight)
    return 100 * shares


def resample_mean_average_precision(
    targets: Targets, scores: Scores, generator: np.random.Generator
) -> Values:
    """Draw bootstrap samples of the mean average precision, over the classes that a draw has.

    A clip drawn twice ranks beside itself, which raises the average precision of its classes, more
    for smaller classes; over many such classes this bias equals the width of the interval. The
    draws are therefore shifted to have the score itself as their mean. In 400 simulated sets of
    60 classes with 20 clips each, the interval of unshifted draws contained the expected score in
    87 %, that of shifted draws in 95 %. In 8,000 sets of three classes, the latter contained it in
    93.3 % with 15 clips a class and in 94.4 % with 60.

    Args:
        targets: Classes of each clip, bool `(N, C)`.
        scores: Scores of `M` models, higher is more likely, `(M, N, C)`.
        generator: Random generator of the draws.

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
    """Draw sets of clips with replacement; return the count of each clip, `(N, num_draws)`."""
    drawn = generator.integers(num_clips, size=(num_draws, num_clips))
    drawn += num_clips * np.arange(num_draws)[:, None]  # counts all draws in one call
    counts = np.bincount(drawn.ravel(), minlength=num_draws * num_clips)
    return np.ascontiguousarray(counts.reshape(num_draws, num_clips).T, dtype=np.float32)


# For one class: the clips that rank from one group of positives down to the next (G, N), and the
# positives of each group (G, N). Clips of equal score share a rank and so a group.
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
    group = np.cumsum(ends_tie) - ends_tie  # group of each rank
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
    """Make a matrix that sums the weights of clips[0:ends[0]], clips[ends[0]:ends[1]] and so on."""
    bounds = np.concatenate([[0], ends])
    ones = np.ones(ends[-1], dtype=np.float32)
    return sparse.csr_array((ones, clips[: ends[-1]], bounds), shape=shape)


def _weigh(rankings: Sequence[Ranking], weights: npt.NDArray[np.float32]) -> Values:
    """Compute mean average precision under each column of `weights (N, R)`, a fraction `(R,)`."""
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
