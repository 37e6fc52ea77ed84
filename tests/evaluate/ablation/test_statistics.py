import numpy as np
import pytest

from evaluate.ablation.statistics import SeedScores, estimate
from evaluate.reports.intervals import NUM_RESAMPLES, resample_accuracy


def draw_correct(
    generator: np.random.Generator, num_seeds: int, num_clips: int, seed_spread: float
) -> np.ndarray:
    """Two variants that are equal but for chance, `(2, S, N)`.

    Clips differ in how hard they are, more so for a variant; seeds differ in how good they are.
    """
    clips = generator.uniform(0.35, 0.85, num_clips)
    of_variant = clips + generator.uniform(-0.1, 0.1, (2, num_clips))
    seeds = generator.normal(0, seed_spread, (2, num_seeds, 1)).clip(-0.05, 0.05)
    shares = of_variant[:, None] + seeds
    return (generator.uniform(size=shares.shape) < shares).astype(float)


def score(correct: np.ndarray, generator: np.random.Generator) -> list[SeedScores]:
    """Return the seed scores of each variant, with their draws."""
    _, num_seeds, num_clips = correct.shape
    weights = np.full(num_clips, 1 / num_clips)
    draws = resample_accuracy(correct.reshape(-1, num_clips), weights, generator)
    return [
        SeedScores(100 * each.mean(axis=1), of_each)
        for each, of_each in zip(correct, draws.reshape(2, num_seeds, -1), strict=True)
    ]


@pytest.mark.parametrize(
    ("num_seeds", "num_clips", "seed_spread"),
    [(3, 200, 0.0), (3, 800, 0.03), (5, 200, 0.02)],
)
def test_intervals_hold_the_truth(num_seeds: int, num_clips: int, seed_spread: float) -> None:
    generator = np.random.default_rng(num_seeds * num_clips)
    num_sets, held = 50, 0
    for _ in range(num_sets):
        correct = draw_correct(generator, num_seeds, num_clips, seed_spread)
        difference = estimate(*score(correct, generator))
        held += difference.low <= 0 <= difference.high
        assert difference.is_significant == (not difference.low <= 0 <= difference.high)
    # Of 95 in 100, four standard deviations below; nothing is said against more.
    assert held >= 0.95 * num_sets - 4 * (0.95 * 0.05 * num_sets) ** 0.5


def test_the_parts_are_those_of_two_crossed_factors() -> None:
    generator = np.random.default_rng(3)
    num_seeds, num_clips = 4, 250
    correct = 100 * draw_correct(generator, num_seeds, num_clips, 0.03)
    first, second = score(correct / 100, generator)
    # Mean squares of the analysis of variance without replication, variants apart (Cornfield and
    # Tukey): var = MS_seeds / NS + MS_clips / NS - MS_rest / NS.
    rest = [each - each.mean(0) - each.mean(1, keepdims=True) + each.mean() for each in correct]
    mean_squares = [(r**2).sum() / (num_seeds - 1) / num_clips for r in rest]
    clips = (correct[0] - correct[1]).mean(axis=0).var() / num_clips
    # The variance of 2,000 draws is off by sqrt(2 / 2000) = 3.2 % of itself.
    near = {"rel": 4 * (2 / NUM_RESAMPLES) ** 0.5}
    drawn = (first.draws.mean(axis=0) - second.draws.mean(axis=0)).var()
    assert drawn == pytest.approx(clips, **near)
    assert first.seeds == pytest.approx(correct[0].mean(axis=1).var(ddof=1) / num_seeds)
    # `both` is the difference of two such variances, each of about S times its size.
    for scores, mean_square in zip((first, second), mean_squares, strict=True):
        exact = mean_square / num_clips / num_seeds
        assert scores.both == pytest.approx(exact, rel=num_seeds * near["rel"])


def test_a_bootstrap_of_clips_alone_would_be_too_sure() -> None:
    generator = np.random.default_rng(4)
    correct = draw_correct(generator, 3, 2000, 0.05)
    both = estimate(*score(correct, generator))
    one_seed = estimate(*score(correct[:, :1], generator))
    assert one_seed.p is None
    assert not one_seed.is_significant
    assert both.high - both.low > one_seed.high - one_seed.low


def test_variants_that_say_the_same_do_not_differ() -> None:
    generator = np.random.default_rng(5)
    correct = draw_correct(generator, 1, 50, 0.0)[:1].repeat(3, axis=1).repeat(2, axis=0)
    difference = estimate(*score(correct, generator))
    assert (difference.value, difference.low, difference.high, difference.p) == (0, 0, 0, 1)


def test_a_difference_without_any_doubt() -> None:
    scores = [
        SeedScores(np.full(3, each), np.full((3, NUM_RESAMPLES), each)) for each in (90.0, 80.0)
    ]
    difference = estimate(*scores)
    assert (difference.value, difference.low, difference.high, difference.p) == (10, 10, 10, 0)
    assert difference.is_significant
