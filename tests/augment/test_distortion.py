"""Distortion: the theory against drawn numbers, and measuring against a loop."""

import itertools

import pytest
import torch

from byola_rq.augment.distortion import expected_error, measure_distortion
from byola_rq.augment.quantize import RandomizedQuantization, Rule, ValueRule
from byola_rq.runtime.rng import sample_keys

RULES: list[tuple[Rule, ValueRule]] = list(
    itertools.product(("random", "uniform"), ("random", "midpoint"))  # type: ignore[arg-type]
)


def even_values(num_samples: int = 64, num_bands: int = 16, num_frames: int = 400) -> torch.Tensor:
    """Bands whose values are spread evenly over a range of 3."""
    ramp = torch.linspace(-1, 2, num_frames)
    return ramp.expand(num_samples, num_bands, num_frames)


@pytest.mark.parametrize("num_bins", [1, 2, 5, 30])
@pytest.mark.parametrize(("bins", "values"), RULES)
def test_theory_is_what_even_values_give(num_bins: int, bins: Rule, values: ValueRule) -> None:
    curve = measure_distortion(even_values(), [num_bins], bins=bins, values=values, draws=2)
    assert curve.expected[0] == pytest.approx(
        3 * expected_error(num_bins, bins=bins, values=values), rel=1e-5
    )
    # 2,048 quantizers; the ramp's steps of 3 / 400 are small beside the narrowest bins of 3 / 30.
    assert curve.measured[0] == pytest.approx(curve.expected[0], rel=0.04)


def test_the_formulas() -> None:
    assert expected_error(5, bins="uniform", values="random") == pytest.approx(1 / 15)
    assert expected_error(5, bins="uniform", values="midpoint") == pytest.approx(1 / 20)
    assert expected_error(5) == pytest.approx(1 / 9)
    # One bin has no inner edge: how edges are placed is the same.
    assert expected_error(1) == pytest.approx(expected_error(1, bins="uniform"))


def test_measured_is_a_mean_over_draws() -> None:
    log_mel = torch.randn(2, 4, 50)
    curve = measure_distortion(log_mel, [3, 7], draws=5, seed=9)
    rows = log_mel.repeat_interleave(5, dim=0)
    keys = sample_keys(9, 0, torch.arange(10))
    for num_bins, measured in zip(curve.num_bins, curve.measured, strict=True):
        quantize = RandomizedQuantization(num_bins)
        errors = [
            float((quantize(row[None], key=keys[place : place + 1]) - row).abs().mean())
            for place, row in enumerate(rows)
        ]
        assert measured == pytest.approx(sum(errors) / len(errors), rel=1e-5)
