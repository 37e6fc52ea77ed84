from dataclasses import replace

import numpy as np
import pytest

from byola_rq.synthesis.languages import PHONES, VOWELS, Spoken
from byola_rq.synthesis.primitives import SAMPLE_RATE
from byola_rq.synthesis.voices import Speaker, draw_speaker, say_sentences, say_word, speak

PLAIN = Speaker(
    pitch_hz=100.0,
    tract_scale=1.0,
    formant_habits=(1.0, 1.0, 1.0),
    tilt=1.0,
    breathiness=0.02,
    jitter=0.05,
    tempo=1.0,
    melody=1.0,
    crispness=1.0,
)


def find_formants(waveform):
    """Resonances by linear prediction: roots of an all-pole model, narrow ones, ascending in Hz."""
    order = 20
    emphasized = waveform[1:] - 0.5 * waveform[:-1]
    framed = emphasized * np.hamming(emphasized.shape[0])
    correlation = np.correlate(framed, framed, "full")[framed.shape[0] - 1 :][: order + 1]
    matrix = correlation[np.abs(np.subtract.outer(np.arange(order), np.arange(order)))]
    matrix += 1e-6 * correlation[0] * np.eye(order)
    roots = np.roots([1.0, *-np.linalg.solve(matrix, correlation[1:])])
    roots = roots[roots.imag > 0]
    frequency = np.angle(roots) * SAMPLE_RATE / (2 * np.pi)
    width = -np.log(np.abs(roots)) * SAMPLE_RATE / np.pi
    return np.sort(frequency[(width < 400) & (frequency > 150)])


@pytest.mark.parametrize("vowel", ["i", "e", "E", "{", "a", "V", "3", "@", "y", "9"])
@pytest.mark.parametrize("tract_scale", [1.0, 1.2])
def test_a_vowels_formants_are_those_of_the_table_times_the_tract(vowel, tract_scale):
    speaker = replace(PLAIN, tract_scale=tract_scale)
    waveform = speak([Spoken(vowel, 0.5)], speaker, seed=1)[1600:6400]
    expected = np.array(VOWELS[vowel][:2]) * tract_scale
    # Linear prediction is drawn to the nearest harmonic: at most half their distance away.
    np.testing.assert_allclose(find_formants(waveform)[:2], expected, atol=50)


def find_pitch(waveform):
    spectrum = np.abs(np.fft.rfft(waveform, 2 * waveform.shape[0])) ** 2
    correlation = np.fft.irfft(spectrum)[: waveform.shape[0] // 2]
    shortest = SAMPLE_RATE // 500
    return SAMPLE_RATE / (shortest + np.argmax(correlation[shortest : SAMPLE_RATE // 70]))


@pytest.mark.parametrize("semitones", [0.0, 6.0, 12.0])
def test_pitch_follows_speaker_and_melody(semitones):
    waveform = speak([Spoken("a", 0.6, semitones)], PLAIN, seed=1)[3200:6400]
    # The voice sinks by 1.5 semitones over the phrase, half of it by the middle.
    expected = 100 * 2 ** ((semitones - 0.75) / 12)
    assert find_pitch(waveform) == pytest.approx(expected, rel=0.03)


def band_power(waveform, low, high):
    power = np.abs(np.fft.rfft(waveform)) ** 2
    bins = np.fft.rfftfreq(waveform.shape[0], 1 / SAMPLE_RATE)
    return power[(bins >= low) & (bins < high)].sum() / power.sum()


def test_fricatives_hiss_in_their_bands():
    spoken = {s: speak([Spoken(s, 0.4)], PLAIN, seed=1)[1600:4800] for s in ("s", "S", "x", "a")}
    assert band_power(spoken["s"], 4500, 8000) > 0.8
    assert band_power(spoken["S"], 2000, 4800) > 0.8
    assert band_power(spoken["x"], 500, 2500) > 0.7
    assert band_power(spoken["a"], 0, 2000) > 0.8


def test_stops_are_a_silence_then_a_burst():
    spoken = speak([Spoken("a", 0.2), Spoken("t", 0.15), Spoken("a", 0.2)], PLAIN, seed=1)
    loudness = np.sqrt(np.convolve(spoken**2, np.ones(80) / 80, "same"))
    vowel, closure = loudness[1600:2800].mean(), loudness[int(0.23 * 16000) : int(0.28 * 16000)]
    burst = loudness[int(0.31 * 16000) : int(0.35 * 16000)]
    assert closure.max() < 0.03 * vowel
    assert burst.max() > 5 * closure.max()


def test_speakers_differ_and_stay_themselves():
    speakers = [draw_speaker(seed) for seed in range(200)]
    assert len(set(speakers)) == 200
    assert draw_speaker(7) == speakers[7]
    pitches = np.array([speaker.pitch_hz for speaker in speakers])
    assert pitches.min() > 75
    assert pitches.max() < 400
    assert np.log2(pitches).std() > 0.3


@pytest.mark.parametrize("seconds", [0.3, 1.0])
def test_a_word_fits_and_is_not_cut(seconds):
    slow = replace(PLAIN, tempo=0.6)
    waveform = say_word("marvin", slow, seed=3, seconds=seconds)
    assert waveform.shape == (round(seconds * SAMPLE_RATE),)
    last = np.abs(waveform[-160:]).max()
    assert last < 0.05 * np.abs(waveform).max()


def test_seeds_change_what_is_said_and_how():
    speaker = draw_speaker(1)
    first = say_sentences("fr", speaker, seed=1, seconds=1.5)
    assert first.shape == (24000,)
    np.testing.assert_array_equal(first, say_sentences("fr", speaker, seed=1, seconds=1.5))
    assert not np.array_equal(first, say_sentences("fr", speaker, seed=2, seconds=1.5))
    assert not np.array_equal(first, say_sentences("fr", draw_speaker(2), seed=1, seconds=1.5))
    assert not np.array_equal(say_word("no", speaker, seed=1), say_word("no", speaker, seed=2))


def test_every_phone_sounds():
    for symbol in PHONES:
        spoken = speak([Spoken("a", 0.1), Spoken(symbol, 0.1), Spoken("a", 0.1)], PLAIN, seed=1)
        assert np.isfinite(spoken).all(), symbol
