"""How sure a score is: the bootstrap over test clips."""

import numpy as np
import numpy.typing as npt

NUM_RESAMPLES = 2000
COVERAGE = 0.95
_SEED = 0  # so that a summary rebuilt from the same predictions is the same file


def bootstrap_interval(
    correct: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]
) -> tuple[float, float]:
    """The 95 % percentile interval of a weighted accuracy over resampled test clips.

    Where every clip is right, or none is, no resample differs and the interval has no width.

    Args:
        correct: Share of the seeds in which each clip was predicted right, `(N,)`.
        weights: What each clip counts for, `(N,)`: one over its fold's size makes the accuracy
            the mean over folds, and the clips of all folds are still resampled as one pool.

    Returns:
        Lower and upper end in percent.
    """
    # A resample's accuracy depends only on how often each kind of clip (its correctness and its
    # weight) is in it. With N draws those counts are multinomial, so we draw them directly: few
    # kinds instead of N clips, the same distribution.
    kinds, sizes = np.unique(np.stack([correct, weights]), axis=1, return_counts=True)
    kind_correct, kind_weight = kinds
    num_clips = len(correct)
    generator = np.random.default_rng(_SEED)
    counts = generator.multinomial(num_clips, sizes / num_clips, size=NUM_RESAMPLES)
    accuracy = counts @ (kind_weight * kind_correct) / (counts @ kind_weight)
    tail = 50 * (1 - COVERAGE)
    low, high = np.percentile(accuracy, [tail, 100 - tail])
    return 100 * float(low), 100 * float(high)
