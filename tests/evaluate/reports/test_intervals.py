import numpy as np
import pytest
from scipy.stats import binom
from sklearn.metrics import average_precision_score

from evaluate.probes.metrics import mean_average_precision
from evaluate.reports import intervals
from evaluate.reports.intervals import (
    NUM_RESAMPLES,
    percentile_interval,
    resample_accuracy,
    resample_mean_average_precision,
    two_sided_p,
)


def draw(correct, weights=None, seed=0):
    correct = np.atleast_2d(correct)
    weights = np.ones(correct.shape[1]) if weights is None else weights
    return resample_accuracy(correct, weights, np.random.default_rng(seed))


def interval_of(correct, weights=None, seed=0):
    return percentile_interval(draw(correct, weights, seed)[0])


def binary(num_right: int, num_clips: int) -> np.ndarray:
    return (np.arange(num_clips) < num_right).astype(float)


@pytest.mark.parametrize(("num_right", "num_clips"), [(280, 400), (30, 40), (9_500, 10_000)])
def test_is_binomial_for_clips_of_one_weight(num_right, num_clips):
    share = num_right / num_clips
    expected = 100 * binom.ppf([0.025, 0.975], num_clips, share) / num_clips
    # The 50th of 2,000 draws: its share below is 0.025 give or take sqrt(0.025 x 0.975 / 2000)
    # = 0.0035; 3 of those move the quantile by 0.0105 / 0.058 = 0.18 standard deviations.
    tolerance = 0.18 * 100 * np.sqrt(share * (1 - share) / num_clips) + 100 / num_clips
    np.testing.assert_allclose(interval_of(binary(num_right, num_clips)), expected, atol=tolerance)


def test_equals_resampling_clip_by_clip():
    generator = np.random.default_rng(0)
    correct = generator.integers(0, 4, size=300) / 3  # three seeds
    weights = np.repeat([1 / 50, 1 / 100, 1 / 150], [50, 100, 150])  # three folds
    index = generator.integers(0, 300, size=(4000, 300))
    accuracy = (weights[index] * correct[index]).sum(axis=1) / weights[index].sum(axis=1)
    expected = 100 * np.percentile(accuracy, [2.5, 97.5])
    np.testing.assert_allclose(interval_of(correct, weights), expected, atol=0.4)


@pytest.mark.parametrize(("num_clips", "truth"), [(200, 0.8), (400, 0.6), (400, 0.95), (1000, 0.9)])
def test_covers_a_true_accuracy(num_clips, truth):
    """Exactly: the interval of every outcome times the outcome's probability."""
    outcomes = np.arange(num_clips + 1)
    probabilities = binom.pmf(outcomes, num_clips, truth)
    likely = probabilities > 1e-7
    coverage = 0.0
    for num_right in outcomes[likely]:
        low, high = interval_of(binary(num_right, num_clips), seed=num_right)
        coverage += probabilities[num_right] * (low <= 100 * truth <= high)
    assert probabilities[likely].sum() > 0.9999
    assert 0.93 <= coverage <= 0.97


def test_covers_a_true_mean_over_folds():
    """Folds of unequal size and unequal accuracy. Binomial error of 1,000 sets: 0.7 points."""
    sizes, truths = np.array([40, 80, 80, 120]), np.array([0.75, 0.8, 0.85, 0.8])
    weights, chances = np.repeat(1 / sizes, sizes), np.repeat(truths, sizes)
    generator = np.random.default_rng(1)
    num_covered = 0
    for seed in range(1000):
        correct = (generator.uniform(size=sizes.sum()) < chances).astype(float)
        low, high = interval_of(correct, weights, seed)
        num_covered += low <= 100 * truths.mean() <= high
    assert 0.93 <= num_covered / 1000 <= 0.97


def draw_multilabel(generator, num_clips, prevalence, separation):
    """Classes that are present with `prevalence`; the scores of such clips are higher."""
    targets = generator.random((num_clips, len(separation))) < prevalence
    noise = generator.normal(size=targets.shape) + 0.5 * generator.normal(size=(num_clips, 1))
    return targets, (noise + separation * targets).astype(np.float32)


def test_covers_the_expected_mean_average_precision():
    """Binomial error of 600 sets: 0.9 points."""
    generator = np.random.default_rng(2)
    scores, ends = [], []
    for _ in range(600):
        targets, of_clips = draw_multilabel(generator, 200, 0.3, np.array([1.0, 2.0, 3.0]))
        scores.append(100 * mean_average_precision(targets, of_clips))
        (samples,) = resample_mean_average_precision(targets, of_clips[None], generator)
        ends.append(percentile_interval(samples))
    low, high = np.array(ends).T
    expected = np.mean(scores)  # 24 times surer than one interval
    assert 0.93 <= np.mean((low <= expected) & (expected <= high)) <= 0.97


def test_draws_of_map_are_those_of_scoring_drawn_clips():
    generator = np.random.default_rng(3)
    targets, scores = draw_multilabel(generator, 60, 0.3, np.array([0.5, 1.0, 2.0]))
    targets[:, 2] = np.arange(60) < 2  # rare: some draws have none of it
    both = np.stack([np.round(scores), scores])  # with ties, and without
    both[0, :, 0] = -np.inf  # as of a class that was never trained
    samples = resample_mean_average_precision(targets, both, np.random.default_rng(4))
    drawn = np.random.default_rng(4).integers(60, size=(NUM_RESAMPLES, 60))[:50]
    assert any(not targets[clips, 2].any() for clips in drawn)
    for of_model, of_draws in zip(both, samples, strict=True):
        finite = np.nan_to_num(of_model, neginf=-99)  # scikit-learn takes no other
        expected = [
            np.mean([
                100 * average_precision_score(targets[clips, c], finite[clips, c])
                for c in range(3)
                if targets[clips, c].any()
            ])
            for clips in drawn
        ]  # fmt: skip
        # All draws are moved alike, to the score.
        moves = of_draws[:50] - expected
        np.testing.assert_allclose(moves, moves[0], atol=1e-4)
        assert of_draws.mean() == pytest.approx(100 * mean_average_precision(targets, of_model))


def test_draws_of_map_do_not_depend_on_how_many_are_weighed_together(monkeypatch):
    generator = np.random.default_rng(5)
    targets, scores = draw_multilabel(generator, 50, 0.3, np.array([0.5, 1.0]))
    at_once = resample_mean_average_precision(targets, scores[None], np.random.default_rng(6))
    monkeypatch.setattr(intervals, "_CHUNK_VALUES", 50 * 7)
    by_sevens = resample_mean_average_precision(targets, scores[None], np.random.default_rng(6))
    np.testing.assert_allclose(at_once, by_sevens, atol=1e-4)


def test_models_are_drawn_together():
    """The difference of a model and itself with one clip turned is that clip's in every draw."""
    correct = binary(70, 100)
    other = correct.copy()
    other[0] = 0
    first, second = draw(np.stack([correct, other]))
    assert set(np.round(first - second).astype(int)) <= set(range(8))  # times the clip was drawn
    assert np.mean(first - second) == pytest.approx(1, abs=0.1)
    targets, scores = draw_multilabel(np.random.default_rng(7), 50, 0.3, np.array([1.0, 1.0]))
    first, second = resample_mean_average_precision(
        targets, np.stack([scores, 2 * scores]), np.random.default_rng(8)
    )
    np.testing.assert_array_equal(first, second)


def test_weights_make_it_a_mean_over_folds():
    """A small fold all right and a large one all wrong: 50 %, not 10 %."""
    correct, weights = binary(10, 100), np.repeat([1 / 10, 1 / 90], [10, 90])
    ends = interval_of(correct, weights)
    # A draw holds a binomial number of the small fold's clips, and more of them score more. The
    # ends are sure to a clip: of 2,000 draws a share of 0.025 is known to 0.0105.
    for end, num_drawn in zip(ends, binom.ppf([0.025, 0.975], 100, 0.1), strict=True):
        drawn = num_drawn + np.array([-1, 1])
        right, wrong = drawn / 10, (100 - drawn) / 90
        lowest, highest = 100 * right / (right + wrong)
        assert lowest <= end <= highest


def test_nothing_wrong_has_no_width():
    assert interval_of(np.ones(20)) == (100, 100)


@pytest.mark.parametrize("decimals", [12, 1])
def test_p_is_below_five_percent_where_zero_is_outside_the_interval(decimals):
    noise = np.random.default_rng(9).normal(size=NUM_RESAMPLES)
    outside = []
    for shift in np.concatenate([np.linspace(-3, 3, 121), np.linspace(1.9, 2.02, 60)]):
        differences = np.round(noise + shift, decimals)
        low, high = percentile_interval(differences)
        outside.append(low > 0 or high < 0)
        assert outside[-1] == (two_sided_p(differences) < 0.05)
    assert 0 < sum(outside) < len(outside)


def test_p_without_any_difference_is_one():
    assert two_sided_p(np.zeros(NUM_RESAMPLES)) == 1
    assert two_sided_p(np.ones(NUM_RESAMPLES)) == pytest.approx(2 / 2001)
