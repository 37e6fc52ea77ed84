"""Speech content as timed segments: phones, English words and six invented languages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Phone(NamedTuple):
    """Speech sound of an adult man."""

    kind: str  # vowel, sonorant, stop, fricative, breath, trill
    formants: tuple[float, float, float]  # Hz
    seconds: float
    voicing: float = 0.0  # level of the vocal folds
    noise: float = 0.0  # level of the burst or the friction, around noise_hz
    noise_hz: float = 4000.0
    noise_width: float = 1500.0
    zero_hz: float = 0.0  # antiresonance of the nose; 0 if the nose is closed


# Vowels after Peterson & Barney (1952), men; vowels missing in English from textbook averages.
VOWELS: dict[str, tuple[float, float, float]] = {
    "i": (270, 2290, 3010), "I": (390, 1990, 2550), "e": (400, 2130, 2600), "E": (530, 1840, 2480),
    "{": (660, 1720, 2410), "a": (740, 1300, 2500), "A": (730, 1090, 2440), "O": (570, 840, 2410),
    "o": (420, 780, 2450), "U": (440, 1020, 2240), "u": (300, 870, 2240), "V": (640, 1190, 2390),
    "3": (490, 1350, 1690), "@": (500, 1450, 2450), "y": (270, 1850, 2150), "2": (400, 1550, 2250),
    "9": (540, 1480, 2350), "1": (310, 1500, 2350),
}  # fmt: skip
_NASAL_VOWELS = {"a~": (650, 1050, 2500), "o~": (480, 750, 2450), "e~": (600, 1500, 2450)}

PHONES: dict[str, Phone] = {
    **{symbol: Phone("vowel", f, 0.11, 1.0) for symbol, f in VOWELS.items()},
    "@": Phone("vowel", VOWELS["@"], 0.065, 0.9),
    **{symbol: Phone("vowel", f, 0.13, 0.9, zero_hz=600) for symbol, f in _NASAL_VOWELS.items()},
    "p": Phone("stop", (300, 800, 2250), 0.08, 0.0, 0.5, 900, 1400),
    "b": Phone("stop", (280, 800, 2250), 0.065, 0.25, 0.3, 800, 1200),
    "t": Phone("stop", (300, 1750, 2650), 0.075, 0.0, 0.7, 4300, 1900),
    "d": Phone("stop", (280, 1750, 2650), 0.055, 0.25, 0.45, 3900, 1900),
    "k": Phone("stop", (300, 2000, 2400), 0.08, 0.0, 0.65, 1900, 800),
    "g": Phone("stop", (280, 2000, 2400), 0.06, 0.25, 0.4, 1800, 800),
    "f": Phone("fricative", (340, 1000, 2300), 0.1, 0.0, 0.14, 5500, 3500),
    "v": Phone("fricative", (320, 1000, 2300), 0.065, 0.4, 0.07, 5000, 3500),
    "T": Phone("fricative", (340, 1400, 2550), 0.1, 0.0, 0.12, 6300, 2600),
    "D": Phone("fricative", (320, 1400, 2550), 0.055, 0.45, 0.05, 6000, 2600),
    "s": Phone("fricative", (340, 1700, 2600), 0.11, 0.0, 0.5, 6000, 1300),
    "z": Phone("fricative", (300, 1700, 2600), 0.075, 0.35, 0.25, 5900, 1300),
    "S": Phone("fricative", (340, 1850, 2500), 0.115, 0.0, 0.5, 3400, 1000),
    "Z": Phone("fricative", (300, 1850, 2500), 0.08, 0.35, 0.25, 3200, 1000),
    "C": Phone("fricative", (300, 2200, 2900), 0.09, 0.0, 0.3, 4000, 900),
    "x": Phone("fricative", (420, 1300, 2350), 0.09, 0.0, 0.35, 1500, 700),
    "R": Phone("fricative", (480, 1100, 2350), 0.07, 0.4, 0.15, 1400, 700),
    "h": Phone("breath", (500, 1500, 2500), 0.065, 0.0, 0.35),
    "m": Phone("sonorant", (280, 950, 2200), 0.07, 0.5, zero_hz=1000),
    "n": Phone("sonorant", (280, 1600, 2500), 0.065, 0.5, zero_hz=1600),
    "N": Phone("sonorant", (280, 2100, 2500), 0.075, 0.45, zero_hz=2800),
    "J": Phone("sonorant", (270, 2250, 2900), 0.08, 0.5, zero_hz=2200),
    "l": Phone("sonorant", (350, 1100, 2750), 0.065, 0.6),
    "L": Phone("sonorant", (300, 2000, 2900), 0.075, 0.6),
    "r": Phone("sonorant", (330, 1100, 1550), 0.07, 0.65),
    "j": Phone("sonorant", (270, 2250, 3000), 0.06, 0.7),
    "w": Phone("sonorant", (300, 650, 2200), 0.065, 0.65),
    "4": Phone("sonorant", (350, 1500, 2450), 0.028, 0.25),  # the tap of Spanish pero
    "rr": Phone("trill", (400, 1400, 2350), 0.1, 0.7),
}

# The 35 words of Speech Commands in the symbols above; ' precedes the stressed vowel.
WORDS: dict[str, str] = {
    "backward": "b '{ k w 3 d", "bed": "b 'E d", "bird": "b '3 d", "cat": "k '{ t",
    "dog": "d 'O g", "down": "d 'a U n", "eight": "'e I t", "five": "f 'a I v",
    "follow": "f 'A l o U", "forward": "f 'O r w 3 d", "four": "f 'O r", "go": "g 'o U",
    "happy": "h '{ p i", "house": "h 'a U s", "learn": "l '3 n", "left": "l 'E f t",
    "marvin": "m 'A r v I n", "nine": "n 'a I n", "no": "n 'o U", "off": "'O f", "on": "'A n",
    "one": "w 'V n", "right": "r 'a I t", "seven": "s 'E v @ n", "sheila": "S 'i l @",
    "six": "s 'I k s", "stop": "s t 'A p", "three": "T r 'i", "tree": "t r 'i", "two": "t 'u",
    "up": "'V p", "visual": "v 'I Z u @ l", "wow": "w 'a U w", "yes": "j 'E s",
    "zero": "z 'I r o U",
}  # fmt: skip


@dataclass(frozen=True)
class Language:
    """Sound of a language without its words: phones, syllables, rhythm and melody.

    Phones are separated by spaces, clusters joined by `+`; repeated phones are more likely.
    """

    vowels: str
    onsets: str
    codas: str
    onset_share: float  # of syllables that begin with a consonant
    coda_share: float  # of syllables that end with a consonant
    stress: str  # stressed syllable of a word: first, penultimate, last, any
    stretch: float  # a stressed syllable's length over an unstressed one's
    reduction: float  # share of unstressed vowels that become a schwa
    tempo: float  # relative to the speaker's own
    aspiration: float  # seconds of breath after p, t, k
    accent: float  # semitones a stressed syllable rises
    ending: float  # semitones a phrase ends above (or below) its middle


LANGUAGES: dict[str, Language] = {
    "de": Language(
        "i I e E a a O o u U y 2 a+I a+U O+I", "b d f g h j k l m n z S v t+s S+t S+p k+R f+R g+l",
        "n n s x C R l m n+t s+t k s+t p t R+t", 0.9, 0.6, "first", 1.7, 0.6, 0.95, 0.04, 3, -5),
    "en": Language(
        "I I E { A V U u i 3 e+I a+I o+U a+U", "b d D f g h j k l m n p r s t T w s+t p+r S t+r",
        "n t d s z l m k v N n+d s+t z", 0.88, 0.52, "first", 1.8, 0.65, 1.0, 0.05, 4, -4),
    "es": Language(
        "a a e e o o i u", "b d g p t k m n l 4 4 rr f s s x t+S p+4 b+l J",
        "s s n 4 l", 0.9, 0.25, "penultimate", 1.15, 0.0, 1.25, 0.0, 2.5, -3),
    "fr": Language(
        "i e E a a o u y y 2 9 a~ o~ e~", "b d f Z g k l m n p R R s t v z S p+R t+R w J",
        "R l t s m Z", 0.92, 0.2, "last", 1.3, 0.0, 1.12, 0.0, 1, 4),
    "it": Language(
        "a a e E i i o O u", "b d f g k l m n p rr s t v t+S d+Z t+s s+p s+t k+w L J t+t l+l",
        "n l 4 s", 0.94, 0.12, "penultimate", 1.75, 0.0, 1.1, 0.0, 4.5, -3),
    "ru": Language(
        "a a e o u i 1 j+a", "b d g k l m n p rr s t v z S Z x t+S t+s v+s s+t p+rr n+j t+j l+j",
        "j n t s m k x S s+t", 0.93, 0.4, "any", 1.5, 0.7, 1.02, 0.01, 3.5, -4),
}  # fmt: skip


class Spoken(NamedTuple):
    """Phone of an utterance: symbol, duration, pitch offset and level."""

    symbol: str  # of PHONES, or "" for silence
    seconds: float
    semitones: float = 0.0
    level: float = 1.0


def spell_word(word: str, *, rng: np.random.Generator) -> list[Spoken]:
    """Return the segments of one of WORDS, varied at random.

    Raises:
        ValueError: If `word` is not one of WORDS.
    """
    if word not in WORDS:
        raise ValueError(f"word must be one of {', '.join(WORDS)}; got {word!r}")
    pace, start, stop = rng.uniform(0.85, 1.3), rng.normal(1, 1.5), rng.normal(-3, 2.5)
    symbols = WORDS[word].split()
    segments = []
    for place, marked in enumerate(symbols):
        symbol = marked.removeprefix("'")
        # The second half of a diphthong shares the stress of the first.
        is_stressed = marked != symbol or (place > 0 and "'" in symbols[place - 1])
        is_vowel = PHONES[symbol].kind == "vowel"
        stretch = (1.45 if is_stressed else 0.8) if is_vowel else 1.0
        semitones = start + (stop - start) * place / len(symbols) + 2 * (is_vowel and is_stressed)
        seconds = PHONES[symbol].seconds * stretch * pace * rng.uniform(0.85, 1.2)
        segments.append(Spoken(symbol, float(seconds), float(semitones)))
    return segments


def spell_sentences(language: str, *, seconds: float, rng: np.random.Generator) -> list[Spoken]:
    """Return segments of invented words of `language`, in phrases, for at least `seconds`.

    Raises:
        ValueError: If `language` is not one of LANGUAGES.
    """
    if language not in LANGUAGES:
        raise ValueError(f"language must be one of {', '.join(LANGUAGES)}; got {language!r}")
    segments: list[Spoken] = []
    while sum(segment.seconds for segment in segments) < seconds:
        num_words = int(rng.integers(2, 5))
        for place in range(num_words):
            height = 1.5 + LANGUAGES[language].ending * (place + 1) / num_words
            segments += _invent_word(LANGUAGES[language], height, rng)
        segments.append(Spoken("", float(rng.uniform(0.12, 0.35))))
    return segments


def _invent_word(language: Language, height: float, rng: np.random.Generator) -> list[Spoken]:
    num_syllables = int(rng.choice([1, 2, 2, 3, 3, 4]))
    stressed = {"first": 0, "penultimate": max(0, num_syllables - 2), "last": num_syllables - 1}
    accented = stressed.get(language.stress, int(rng.integers(num_syllables)))
    segments = []
    for syllable in range(num_syllables):
        is_accented = syllable == accented
        level = 1.0 if is_accented else 0.75
        semitones = height + is_accented * language.accent + rng.normal(0, 0.5)
        for part, stretch in _invent_syllable(language, is_accented, rng):
            sounds = part.split("+")
            # Clusters are spoken faster.
            length = stretch / (language.tempo * (1 + 0.5 * (len(sounds) > 1)))
            for symbol in sounds:
                seconds = PHONES[symbol].seconds * length * rng.uniform(0.85, 1.2)
                segments.append(Spoken(symbol, float(seconds), float(semitones), level))
    return segments


def _invent_syllable(
    language: Language, is_accented: bool, rng: np.random.Generator
) -> list[tuple[str, float]]:
    """Return the parts of a syllable, each with its relative length."""
    parts = []
    if rng.random() < language.onset_share:
        parts.append((str(rng.choice(language.onsets.split())), 0.95))
    nucleus = str(rng.choice(language.vowels.split()))
    if not is_accented and rng.random() < language.reduction:
        nucleus = "@"
    parts.append((nucleus, language.stretch if is_accented else 0.85))
    if rng.random() < language.coda_share:
        parts.append((str(rng.choice(language.codas.split())), 0.85))
    return parts
