import numpy as np
import pytest

from byola_rq.synthesis.instruments import FAMILIES, draw_instrument, play_note, play_phrase
from byola_rq.synthesis.primitives import SAMPLE_RATE


def find_pitch(waveform):
    """The first period at which the normalized autocorrelation is as high as anywhere, in Hz."""
    size = waveform.shape[0]
    power = np.abs(np.fft.rfft(waveform, 2 * size)) ** 2
    correlation = np.fft.irfft(power)[: size // 2] / (size - np.arange(size // 2))
    shortest, longest = SAMPLE_RATE // 1200, SAMPLE_RATE // 40
    window = correlation[shortest:longest]
    is_peak = (window[1:-1] >= window[:-2]) & (window[1:-1] > window[2:])
    peaks = shortest + 1 + np.flatnonzero(is_peak)
    lag = peaks[correlation[peaks] > 0.93 * correlation[peaks].max()][0]
    left, middle, right = correlation[lag - 1 : lag + 2]
    return SAMPLE_RATE / (lag + 0.5 * (left - right) / (left - 2 * middle + right))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "mallet"])
def test_a_note_has_its_pitch(family, seed):
    instrument = draw_instrument(family, seed)
    for pitch in (instrument.pitches[2], instrument.pitches[len(instrument.pitches) // 2]):
        waveform = play_note(instrument, pitch=pitch, seed=seed, seconds=1.0)[1600:11200]
        cents = 1200 * np.log2(find_pitch(waveform) / (440 * 2 ** ((pitch - 69) / 12)))
        # The player's own error is 2 cents (1 sigma) and a wander of 1.5; over 0.6 s a vibrato of
        # up to 60 cents averages to less than 10; stretched partials pull up by a few.
        assert abs(cents) < 25, (pitch, cents)


def test_a_mallets_partials_are_those_of_a_bar():
    instrument = draw_instrument("mallet", 0)
    waveform = play_note(instrument, pitch=60, seed=0, seconds=1.0)[800:]
    power = np.abs(np.fft.rfft(waveform * np.hanning(waveform.shape[0])))
    bins = np.fft.rfftfreq(waveform.shape[0], 1 / SAMPLE_RATE)
    assert bins[power.argmax()] == pytest.approx(261.63, rel=0.01)
    ratio = instrument.ratios[1]
    near = np.abs(bins - ratio * 261.63) < 15
    beside = np.abs(bins - (ratio + 0.4) * 261.63) < 15
    assert power[near].max() > 5 * power[beside].max()


def attack_seconds(family):
    """Time to half of the loudest, the mean of several members."""
    rises = []
    for seed in range(6):
        instrument = draw_instrument(family, seed)
        waveform = play_note(instrument, pitch=62, seed=seed, seconds=0.8)
        loudness = np.sqrt(np.convolve(waveform**2, np.ones(160) / 160, "same"))
        rises.append(np.argmax(loudness > 0.5 * loudness.max()) / SAMPLE_RATE)
    return np.mean(rises)


def test_bowed_notes_swell_and_plucked_notes_start_at_once():
    assert attack_seconds("string") > 0.02
    assert attack_seconds("guitar") < 0.015
    assert attack_seconds("mallet") < 0.015


def test_plucked_notes_die_away_and_held_ones_do_not():
    def kept(family):
        waveform = play_note(draw_instrument(family, 3), pitch=62, seed=0, seconds=1.6)
        return np.sqrt(np.mean(waveform[16000:18000] ** 2) / np.mean(waveform[2000:4000] ** 2))

    assert kept("organ") > 0.7
    assert kept("mallet") < 0.5 * kept("organ")


def test_letting_go_ends_a_note():
    instrument = draw_instrument("organ", 0)
    waveform = play_note(instrument, pitch=60, seed=0, seconds=2.0, hold_seconds=1.0)
    assert np.abs(waveform[-8000:]).max() < 0.01 * np.abs(waveform).max()


def test_a_harder_note_is_louder_and_brighter():
    instrument = draw_instrument("brass", 1)
    soft, hard = (play_note(instrument, pitch=60, seed=0, velocity=v) for v in (20, 120))
    assert np.std(hard) > 2 * np.std(soft)

    def centroid(waveform):
        spectrum = np.abs(np.fft.rfft(waveform))
        return (spectrum * np.arange(spectrum.shape[0])).sum() / spectrum.sum()

    assert centroid(hard) > 1.1 * centroid(soft)


def test_instruments_and_notes_differ_by_seed_alone():
    first, second = draw_instrument("reed", 1), draw_instrument("reed", 2)
    assert first == draw_instrument("reed", 1) != second
    notes = [play_note(one, pitch=60, seed=seed) for one in (first, second) for seed in (0, 1)]
    assert len({note.tobytes() for note in notes}) == 4
    np.testing.assert_array_equal(notes[0], play_note(first, pitch=60, seed=0))


def test_a_phrase_has_several_notes():
    phrase = play_phrase(draw_instrument("guitar", 1), seed=1, seconds=3.0)
    assert phrase.shape == (48000,)
    frames = phrase.reshape(-1, 800).astype(float)
    loudness = np.log(np.square(frames).mean(axis=1) + 1e-9)
    assert np.sum(np.diff(loudness) > 0.7) >= 3  # attacks


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="family.*'kazoo'"):
        draw_instrument("kazoo", 0)
    with pytest.raises(ValueError, match="velocity"):
        play_note(draw_instrument("bass", 0), pitch=40, velocity=0, seed=0)
    with pytest.raises(ValueError, match="seconds"):
        play_note(draw_instrument("bass", 0), pitch=40, seed=0, seconds=0)
