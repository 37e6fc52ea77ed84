import numpy as np
import pytest

from byola_rq.synthesis.primitives import SAMPLE_RATE, finish, make_generator, make_seed


def test_generators_depend_on_every_key():
    drawn = [
        make_generator(*keys).random() for keys in [(1,), (1, 0), (0, 1), ("1",), ("a", 1), (-1,)]
    ]
    assert len(set(drawn)) == len(drawn)
    assert make_generator("a", 1).random() == make_generator("a", np.int64(1)).random()
    assert make_seed("a", 1) == make_seed("a", 1) != make_seed("a", 2)


def test_finish_sets_the_level_and_never_clips():
    rng = make_generator("finish")
    noise = rng.standard_normal(SAMPLE_RATE) + 3.0
    quiet = finish(noise, -30.0)
    assert quiet.dtype == np.float32
    assert 20 * np.log10(np.sqrt(np.mean(quiet**2))) == pytest.approx(-30, abs=0.01)
    assert abs(quiet[0]) < 1e-6
    assert abs(quiet[-1]) < 1e-6
    assert np.abs(finish(noise, 0.0)).max() == pytest.approx(0.95)
    assert not finish(np.zeros(100), -20.0).any()
