import numpy as np
import pytest

from byola_rq.synthesis.languages import LANGUAGES, PHONES, WORDS, spell_sentences, spell_word
from byola_rq.synthesis.primitives import make_generator


def spell(language, seconds=200.0):
    return spell_sentences(language, seconds=seconds, rng=make_generator("test", language))


def vowels(segments):
    return [s for s in segments if s.symbol and PHONES[s.symbol].kind == "vowel"]


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


def test_a_word_keeps_its_sounds_and_changes_its_timing():
    first = spell_word("seven", rng=make_generator(1))
    second = spell_word("seven", rng=make_generator(2))
    assert [s.symbol for s in first] == [s.symbol for s in second] == ["s", "E", "v", "@", "n"]
    assert [s.seconds for s in first] != [s.seconds for s in second]
    assert first[1].seconds > 1.2 * first[3].seconds  # the stressed vowel and the other


@pytest.mark.parametrize("language", LANGUAGES)
def test_sentences_are_long_enough_and_speak_their_language(language):
    segments = spell(language, 30.0)
    known = LANGUAGES[language]
    sounds = " ".join((known.vowels, known.onsets, known.codas, "@")).replace("+", " ").split()
    assert sum(s.seconds for s in segments) >= 30.0
    assert {s.symbol for s in segments} <= {*sounds, ""}


def test_stress_timed_languages_have_the_more_uneven_vowels():
    # The normalized pairwise variability index: about 57-60 for English and German, 30 for
    # Spanish, 44 for French (Grabe & Low, 2002).
    def unevenness(language):
        seconds = np.array([s.seconds for s in vowels(spell(language))])
        return 200 * np.mean(np.abs(np.diff(seconds)) / (seconds[1:] + seconds[:-1]))

    for timed_by_stress in ("de", "en"):
        for timed_by_syllable in ("es", "fr"):
            assert unevenness(timed_by_stress) > 1.15 * unevenness(timed_by_syllable)


def test_french_phrases_rise_and_german_ones_fall():
    def last_rise(language):
        segments = spell(language)
        pauses = [place for place, s in enumerate(segments) if not s.symbol]
        phrases = [segments[a + 1 : b] for a, b in zip([-1, *pauses], pauses, strict=False)]
        return np.mean([p[-1].semitones - p[0].semitones for p in phrases])

    assert last_rise("fr") > 1
    assert last_rise("de") < -1


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="word.*'maybe'"):
        spell_word("maybe", rng=make_generator(1))
    with pytest.raises(ValueError, match="language.*'tlh'"):
        spell_sentences("tlh", seconds=1, rng=make_generator(1))
