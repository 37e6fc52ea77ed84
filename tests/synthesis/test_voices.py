from dataclasses import replace

import numpy as np
import pytest

from byola_rq.synthesis.languages import PHONES, Spoken
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


def test_every_phone_can_be_said():
    for symbol in PHONES:
        spoken = speak([Spoken("a", 0.1), Spoken(symbol, 0.1), Spoken("a", 0.1)], PLAIN, seed=1)
        assert np.isfinite(spoken).all(), symbol
