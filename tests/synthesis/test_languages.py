from collections import Counter

import numpy as np
import pytest

from byola_rq.synthesis.languages import LANGUAGES, PHONES, WORDS, spell_sentences, spell_word
from byola_rq.synthesis.primitives import make_generator


def test_every_sound_of_words_and_languages_is_known():
    for sounds in WORDS.values():
        symbols = sounds.split()
        assert all(symbol.removeprefix("'") in PHONES for symbol in symbols)
        assert sum(symbol.startswith("'") for symbol in symbols) == 1
    for language in LANGUAGES.values():
        for parts in (language.vowels, language.onsets, language.codas):
            assert all(symbol in PHONES for part in parts.split() for symbol in part.split("+"))


def test_there_are_the_words_of_speech_commands_and_each_is_its_own():
    assert len(WORDS) == 35
    assert len(set(WORDS.values())) == 35
    assert list(LANGUAGES) == ["de", "en", "es", "fr", "it", "ru"]


def shares(language, seed):
    """Frequency of each phone in half a minute."""
    segments = spell_sentences(language, seconds=30.0, rng=make_generator(language, seed))
    known = LANGUAGES[language]
    sounds = " ".join((known.vowels, known.onsets, known.codas, "@")).replace("+", " ").split()
    assert sum(s.seconds for s in segments) >= 30.0
    assert {s.symbol for s in segments} <= {*sounds, ""}
    count = Counter(s.symbol for s in segments)
    return np.array([count[symbol] for symbol in PHONES]) / len(segments)


def test_a_language_is_told_from_its_sounds():
    first, second = (np.stack([shares(name, seed) for name in LANGUAGES]) for seed in (1, 2))
    distances = np.linalg.norm(first[:, None] - second, axis=2)
    assert distances.argmin(axis=1).tolist() == list(range(len(LANGUAGES)))


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="word.*'maybe'"):
        spell_word("maybe", rng=make_generator(1))
    with pytest.raises(ValueError, match="language.*'tlh'"):
        spell_sentences("tlh", seconds=1, rng=make_generator(1))
