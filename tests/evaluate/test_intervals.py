import numpy as np
import pytest
from scipy.stats import binom

from evaluate.intervals import bootstrap_interval


def binary(num_right: int, num_clips: int) -> np.ndarray:
    return (np.arange(num_clips) < num_right).astype(float)


@pytest.mark.parametrize(("num_right", "num_clips"), [(280, 400), (30, 40), (9_500, 10_000)])
def test_is_binomial_for_clips_of_one_weight(num_right, num_clips):
    low, high = bootstrap_interval(binary(num_right, num_clips), np.ones(num_clips))
    share = num_right / num_clips
    expected = 100 * binom.ppf([0.025, 0.975], num_clips, share) / num_clips
    tolerance = 0.15 * 100 * np.sqrt(share * (1 - share) / num_clips) + 100 / num_clips
    np.testing.assert_allclose([low, high], expected, atol=tolerance)


def test_equals_resampling_clip_by_clip():
    generator = np.random.default_rng(0)
    correct = generator.integers(0, 4, size=300) / 3  # three seeds
    weights = np.repeat([1 / 50, 1 / 100, 1 / 150], [50, 100, 150])  # three folds
    index = generator.integers(0, 300, size=(4000, 300))
    accuracy = (weights[index] * correct[index]).sum(axis=1) / weights[index].sum(axis=1)
    expected = 100 * np.percentile(accuracy, [2.5, 97.5])
    np.testing.assert_allclose(bootstrap_interval(correct, weights), expected, atol=0.4)


def test_covers_the_truth_as_often_as_it_says():
    generator = np.random.default_rng(1)
    num_covered = 0
    for _ in range(400):
        correct = (generator.uniform(size=200) < 0.8).astype(float)
        low, high = bootstrap_interval(correct, np.ones(200))
        num_covered += low <= 80 <= high
    assert 0.91 <= num_covered / 400 <= 0.98


def test_weights_make_it_a_mean_over_folds():
    """A small fold all right and a large one all wrong: 50 %, not 10 %."""
    correct, weights = binary(10, 100), np.repeat([1 / 10, 1 / 90], [10, 90])
    low, high = bootstrap_interval(correct, weights)
    assert low < 50 < high
    assert low > 10


def test_same_input_same_interval():
    correct = binary(70, 100)
    assert bootstrap_interval(correct, np.ones(100)) == bootstrap_interval(correct, np.ones(100))


def test_nothing_wrong_has_no_width():
    assert bootstrap_interval(np.ones(20), np.ones(20)) == (100, 100)
