from itertools import pairwise

import numpy as np
import pytest

from byola_rq.synthesis.primitives import (
    FRAME_BINS,
    SAMPLE_RATE,
    add_partials,
    count_frames,
    filter_frames,
    finish,
    make_gate,
    make_generator,
    make_noise,
    make_seed,
    resonate,
)


def test_generators_depend_on_every_key():
    drawn = [
        make_generator(*keys).random() for keys in [(1,), (1, 0), (0, 1), ("1",), ("a", 1), (-1,)]
    ]
    assert len(set(drawn)) == len(drawn)
    assert make_generator("a", 1).random() == make_generator("a", np.int64(1)).random()
    assert make_seed("a", 1) == make_seed("a", 1) != make_seed("a", 2)


def test_partials_stand_where_they_should_and_none_folds_back():
    waveform = add_partials(np.full(SAMPLE_RATE, 3000.0), [1, 2, 3, 4], [1.0, 0.5, 1.0, 1.0])
    spectrum = np.abs(np.fft.rfft(waveform)) / (SAMPLE_RATE / 2)  # one bin is 1 Hz
    assert spectrum[3000] == pytest.approx(1.0, abs=1e-3)
    assert spectrum[6000] == pytest.approx(0.5, abs=1e-3)
    spectrum[[3000, 6000]] = 0
    assert spectrum.max() < 1e-3  # partials 3 and 4 would fold back to 7000 and 4000 Hz


def test_a_partial_that_glides_past_nyquist_fades_out():
    waveform = add_partials(np.linspace(4000, 12000, SAMPLE_RATE), [1], [1.0])
    assert np.abs(waveform[: SAMPLE_RATE // 3]).max() > 0.99
    assert np.abs(waveform[SAMPLE_RATE // 2 :]).max() == 0


def test_fade_is_a_power_of_the_partials_number():
    count = SAMPLE_RATE
    waveform = add_partials(np.full(count, 500.0), [1, 2, 3], [1.0] * 3, np.full(count, 0.5))
    spectrum = np.abs(np.fft.rfft(waveform)) / (count / 2)
    assert spectrum[[500, 1000, 1500]] == pytest.approx([1, 0.5, 0.25], abs=1e-3)


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
def test_noise_falls_as_its_exponent_says(exponent):
    noise = make_noise(1 << 17, make_generator("noise"), exponent)
    power = np.abs(np.fft.rfft(noise)) ** 2
    bins = np.fft.rfftfreq(noise.shape[0], 1 / SAMPLE_RATE)
    edges = 2.0 ** np.arange(6, 13)  # octaves from 64 Hz
    bands = [power[(bins >= low) & (bins < high)].mean() for low, high in pairwise(edges)]
    slope = np.polyfit(np.log2(edges[:-1]), np.log2(bands), 1)[0]
    # The lowest octave has 500 bins: each mean is within 0.2 octaves of power, the slope closer.
    assert slope == pytest.approx(-exponent, abs=0.1)
    assert noise.std() == pytest.approx(1.0)


@pytest.mark.parametrize("num_samples", [79, 80, 1000, 16001])
def test_a_flat_moving_filter_changes_nothing(num_samples):
    signal = make_generator("signal").standard_normal(num_samples)
    flat = np.ones((count_frames(num_samples), len(FRAME_BINS)))
    np.testing.assert_allclose(filter_frames((signal, flat)), signal, atol=1e-12)
    np.testing.assert_allclose(filter_frames((signal, flat), (signal, -flat)), 0, atol=1e-12)


def test_a_moving_filter_moves():
    signal = make_generator("signal").standard_normal(SAMPLE_RATE)
    num_frames = count_frames(SAMPLE_RATE)
    centres = np.where(np.arange(num_frames) < num_frames // 2, 1000.0, 3000.0)
    filtered = filter_frames((signal, resonate(FRAME_BINS, centres[:, None], 80.0)))
    for part, centre in ((filtered[:7000], 1000), (filtered[9000:], 3000)):
        power = np.abs(np.fft.rfft(part)) ** 2
        loudest = np.argmax(np.convolve(power, np.ones(30), "same")) * SAMPLE_RATE / part.shape[0]
        assert loudest == pytest.approx(centre, abs=80)  # the resonance's own width


def test_a_pole_and_a_zero_at_one_place_cancel():
    pole = resonate(FRAME_BINS, 1000.0, 90.0)
    assert abs(pole[0]) == pytest.approx(1.0)
    assert FRAME_BINS[np.abs(pole).argmax()] == pytest.approx(1000, abs=FRAME_BINS[1])
    np.testing.assert_allclose(pole * (1 / resonate(FRAME_BINS, 1000.0, 90.0)), 1.0)


def test_gate_goes_on_and_off():
    gate = make_gate(10 * SAMPLE_RATE, make_generator("gate"), (0.2, 0.4), (0.2, 0.4))
    assert gate.min() == 0
    assert gate.max() == 1
    assert np.abs(np.diff(gate)).max() <= 1 / (0.02 * SAMPLE_RATE) + 1e-9
    assert 0.3 < gate.mean() < 0.7
    # A full turn takes 0.4 to 0.8 s.
    assert 11 <= np.sum(np.diff(gate > 0.5) & ~(gate[1:] > 0.5)) <= 26


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
