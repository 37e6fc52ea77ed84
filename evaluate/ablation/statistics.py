"""Confidence intervals of means over seeds, if both seeds and test clips are random.

For a variant with `S` seeds let `m[s]` be the score of seed `s` and `D` the variance over the
bootstrap draws of the test clips (`evaluate.reports.intervals`), which are the same draws for all
variants and seeds. The variance of the mean over seeds has three parts:

    seeds  = var(m) / S                      another seed of pretraining
    clips  = D(mean over s of m[s])          other test clips
    both   = (mean over s of D(m[s]) - clips) / (S - 1)

Each of the first two contains `both`, the interaction of seeds and clips (one seed gets a clip
right, another does not), so that

    variance = seeds + clips - both, at least seeds and at least clips

is the estimate for two crossed random factors (Cornfield and Tukey 1956). For a difference of two
variants `clips` is `D` of the difference, so clips are paired, and `seeds` and `both` are sums over
the two: seeds are not paired, since two variants of equal seed share only their initial weights.
The interval is `t(nu) * sqrt(variance)` to either side, with the degrees of freedom of
Satterthwaite (1946), `clips` being known far better than `seeds`:

    nu = variance^2 / sum over variants of seeds^2 / (S - 1)

A bootstrap over seeds can give too narrow intervals: with three seeds, the variance of its draws
is two thirds of the variance of seeds.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit

from evaluate.reports.intervals import COVERAGE, Values

_ALPHA = 1 - COVERAGE
_MANY = 1e6  # degrees of freedom if the variance is practically known


@dataclass(frozen=True, eq=False)
class SeedScores:
    """Scores of the seeds of one variant on one task, in percent.

    Attributes:
        scores: Score of each seed, `(S,)`.
        draws: Scores on the bootstrap draws of the test clips, `(S, NUM_RESAMPLES)`.
    """

    scores: Values
    draws: Values

    @property
    def num_seeds(self) -> int:
        """Number of seeds `S`."""
        return len(self.scores)

    @property
    def seeds(self) -> float:
        """Variance of the mean due to seeds; unknown, and set to 0, for a single seed."""
        return float(self.scores.var(ddof=1)) / self.num_seeds if self.num_seeds > 1 else 0.0

    @property
    def both(self) -> float:
        """Variance of the mean due to the interaction of seeds and clips; 0 for a single seed."""
        if self.num_seeds < 2:
            return 0.0
        of_seeds, of_mean = self.draws.var(axis=1).mean(), self.draws.mean(axis=0).var()
        return max(0.0, float(of_seeds - of_mean)) / (self.num_seeds - 1)


@dataclass(frozen=True)
class Estimate:
    """Mean over seeds, or difference of two means, with its 95 % interval.

    Attributes:
        value: Mean in percent, or difference in points.
        low: Lower end of the interval.
        high: Upper end of the interval.
        p: Two-sided p-value of a difference from zero; None if a variant has one seed, whose
            interval covers only the clips.
    """

    value: float
    low: float
    high: float
    p: float | None

    @property
    def is_significant(self) -> bool:
        """True if equal variants would differ as much in less than 5 % of seeds and clips."""
        return self.p is not None and self.p < _ALPHA


def estimate(first: SeedScores, second: SeedScores | None = None) -> Estimate:
    """Estimate the mean over the seeds of `first`, less that of `second`, with its interval."""
    compared = [first] if second is None else [first, second]
    signs = np.array([1.0, -1.0])[: len(compared)]
    value = float(signs @ [of.scores.mean() for of in compared])
    clips = float((signs @ np.stack([of.draws.mean(axis=0) for of in compared])).var())
    seeds, both = sum(of.seeds for of in compared), sum(of.both for of in compared)
    variance = max(seeds + clips - both, seeds, clips)
    spread = sum(of.seeds**2 / max(of.num_seeds - 1, 1) for of in compared)
    freedom = min(variance**2 / spread, _MANY) if spread else _MANY
    error = variance**0.5
    half = float(stdtrit(freedom, 1 - _ALPHA / 2)) * error
    p = None
    if all(of.num_seeds > 1 for of in compared):
        p = 2 * float(stdtr(freedom, -abs(value) / error)) if error else float(value == 0)
    return Estimate(value, value - half, value + half, p)
