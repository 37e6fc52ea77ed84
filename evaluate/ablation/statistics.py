"""How sure a mean over seeds is, where both the seeds and the test clips were drawn.

Of a variant `v` with `S` seeds let `m[s]` be the score of seed `s` and `D` stand for the variance
over the bootstrap draws of the test clips (`evaluate.reports.intervals`), which are the same draws
for all variants and seeds. The variance of the mean over seeds has three parts:

    seeds  = var(m) / S                      another seed of pretraining
    clips  = D(mean over s of m[s])          other test clips
    both   = (mean over s of D(m[s]) - clips) / (S - 1)

Each of the first two holds `both`, what a seed and a clip have of their own together (one seed
knows this clip, another does not), so that

    variance = seeds + clips - both, at least seeds and at least clips

is the estimate of two crossed random factors (Cornfield and Tukey 1956). Of a difference of two
variants `clips` is `D` of the difference, which is how their clips are paired, and `seeds` and
`both` are sums over the two: seeds are not paired, for two variants of one seed share no more than
their first weights. The interval is `t(nu) * sqrt(variance)` to either side, with the degrees of
freedom of Satterthwaite (1946), `clips` being known far better than `seeds`:

    nu = variance^2 / sum over variants of seeds^2 / (S - 1)

A bootstrap over seeds can be too sure of itself: of three seeds, its draws vary by two thirds
of what seeds vary.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit

from evaluate.reports.intervals import COVERAGE, Values

_ALPHA = 1 - COVERAGE
_MANY = 1e6  # degrees of freedom of what is as good as known


@dataclass(frozen=True, eq=False)
class SeedScores:
    """What the seeds of one variant scored on one task, in percent.

    Attributes:
        scores: Of each seed, `(S,)`.
        draws: On the bootstrap draws of the test clips, `(S, NUM_RESAMPLES)`.
    """

    scores: Values
    draws: Values

    @property
    def num_seeds(self) -> int:
        """`S`."""
        return len(self.scores)

    @property
    def seeds(self) -> float:
        """Variance of the mean by its seeds; unknown, and taken for 0, of a single one."""
        return float(self.scores.var(ddof=1)) / self.num_seeds if self.num_seeds > 1 else 0.0

    @property
    def both(self) -> float:
        """What of `seeds` is in the variance by clips too."""
        if self.num_seeds < 2:
            return 0.0
        of_seeds, of_mean = self.draws.var(axis=1).mean(), self.draws.mean(axis=0).var()
        return max(0.0, float(of_seeds - of_mean)) / (self.num_seeds - 1)


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, or a difference of two, with its 95 % interval.

    Attributes:
        value: In percent, or in points.
        low: Lower end.
        high: Upper end.
        p: Two-sided, of a difference from zero; None where a variant has one seed, whose
            interval knows of the clips alone.
    """

    value: float
    low: float
    high: float
    p: float | None

    @property
    def is_significant(self) -> bool:
        """Whether equals would differ so much less than one time in 20, in seeds and clips."""
        return self.p is not None and self.p < _ALPHA


def estimate(first: SeedScores, second: SeedScores | None = None) -> Estimate:
    """The mean over the seeds of `first`, less that of `second`, and how sure it is."""
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
