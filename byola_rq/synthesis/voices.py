"""Voices: speakers of words and sentences, synthesized by moving formants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from byola_rq.synthesis.languages import LANGUAGES, PHONES, Spoken, spell_sentences, spell_word
from byola_rq.synthesis.primitives import (
    FRAME_BINS,
    FRAME_HOP,
    SAMPLE_RATE,
    Array,
    Waveform,
    add_partials,
    count_frames,
    count_samples,
    filter_frames,
    finish,
    make_generator,
    make_wander,
    resonate,
)

_LEVEL_DB = -22.0
_NOSE_HZ = 270.0
_FORMANT_WIDTHS = (70.0, 100.0, 140.0)  # Hz, F1-F3
_UPPER_FORMANTS = (  # Hz and width
    (3500.0, 200.0), (4500.0, 250.0), (5500.0, 350.0), (6500.0, 450.0), (7500.0, 550.0),
)  # fmt: skip


@dataclass(frozen=True)
class Speaker:
    """Voice and habits of a speaker."""

    pitch_hz: float
    tract_scale: float  # formants relative to an adult man's: 1.17 for women, 1.35 for children
    formant_habits: tuple[float, float, float]  # relative to the table's formants
    tilt: float  # the harmonics' level falls as 1 / number**tilt
    breathiness: float
    jitter: float  # semitones of slow unsteadiness
    tempo: float
    melody: float  # range of the pitch
    crispness: float  # level of bursts and friction


def draw_speaker(seed: int) -> Speaker:
    """Draw a speaker: a man, a woman or a child, with individual habits."""
    rng = make_generator("speaker", seed)
    middle_hz, scale = ((112, 1.0), (112, 1.0), (200, 1.15), (200, 1.15), (265, 1.32))[
        int(rng.integers(5))
    ]
    habits = 1 + 0.045 * np.clip(rng.standard_normal(3), -2, 2)
    return Speaker(
        pitch_hz=float(middle_hz * 2 ** (np.clip(rng.normal(0, 0.22), -0.5, 0.5))),
        tract_scale=float(scale * np.exp(np.clip(rng.normal(0, 0.05), -0.1, 0.1))),
        formant_habits=(float(habits[0]), float(habits[1]), float(habits[2])),
        tilt=float(rng.uniform(0.8, 1.7)),
        breathiness=float(np.exp(rng.uniform(np.log(0.01), np.log(0.25)))),
        jitter=float(rng.uniform(0.1, 0.5)),
        tempo=float(rng.uniform(0.82, 1.2)),
        melody=float(rng.uniform(0.4, 1.7)),
        crispness=float(rng.uniform(0.5, 1.5)),
    )


def speak(
    segments: Sequence[Spoken], speaker: Speaker, *, seed: int, aspiration: float = 0.03
) -> Array:
    """Synthesize the segments one after another, `(S,)`; their level is not yet set.

    Args:
        segments: Segments to speak, timed for a speaker of tempo 1.
        speaker: Speaker of the segments.
        seed: Seed of breath, friction and unsteadiness.
        aspiration: Duration of breath after p, t and k, in seconds.
    """
    rng = make_generator("speak", seed)
    rows = _expand(segments, aspiration)
    seconds = rows[:, 0] / speaker.tempo
    num_samples = count_samples(float(seconds.sum()))
    frame_seconds = np.arange(count_frames(num_samples)) * FRAME_HOP / SAMPLE_RATE
    tracks = rows[np.minimum(np.searchsorted(np.cumsum(seconds), frame_seconds), len(rows) - 1)]
    formants = _smooth(tracks[:, 1:4], 13) * speaker.tract_scale * speaker.formant_habits
    zero_hz = _smooth(tracks[:, 4], 7)
    voicing, breath, friction = _smooth(tracks[:, 5:8], 5).T
    semitones = _smooth(tracks[:, 10], 25) * speaker.melody
    semitones -= 1.5 * frame_seconds / frame_seconds[-1]  # pitch falls over an utterance
    samples = np.arange(num_samples)
    places = np.arange(len(frame_seconds)) * FRAME_HOP
    semitones = np.interp(samples, places, semitones)
    semitones += speaker.jitter * (
        make_wander(num_samples, 6, rng) + 0.4 * make_wander(num_samples, 60, rng)
    )
    frequency = speaker.pitch_hz * 2 ** (semitones / 12)
    source = _phonate(frequency, np.interp(samples, places, voicing), speaker, rng)
    source += 0.12 * np.interp(samples, places, breath) * rng.standard_normal(num_samples)
    hiss = np.interp(samples, places, friction) * rng.standard_normal(num_samples)
    hiss *= 0.35 * speaker.crispness
    return filter_frames(
        (source, _resonate_tract(formants, zero_hz, speaker.tract_scale)),
        (hiss, _shape_friction(tracks[:, 8], tracks[:, 9])),
    )


def _expand(segments: Sequence[Spoken], aspiration: float) -> Array:
    """Return rows of seconds, F1-F3, zero, voicing, breath, friction, its Hz, width, semitones."""
    rows: list[list[float]] = []
    unknown = [float("nan")] * 3  # articulation anticipates the next phone
    for symbol, seconds, semitones, level in segments:
        if not symbol:
            rows.append([seconds, *unknown, _NOSE_HZ, 0, 0, 0, 4000, 1500, semitones])
            continue
        phone = PHONES[symbol]
        zero_hz = phone.zero_hz or _NOSE_HZ
        friction = [phone.noise_hz, phone.noise_width, semitones]
        voicing, noise = level * phone.voicing, level * phone.noise
        if phone.kind == "stop":
            rows.append([0.8 * seconds, *phone.formants, zero_hz, voicing, 0, 0, *friction])
            rows.append([0.013, *phone.formants, zero_hz, voicing, 0, 1.6 * noise, *friction])
            if aspiration > 0 and not voicing:
                rows.append([aspiration, *unknown, zero_hz, 0, 0.5 * level, 0, *friction])
        elif phone.kind == "breath":
            rows.append([seconds, *unknown, zero_hz, 0.1, 2 * noise, 0, *friction])
        elif phone.kind == "trill":
            for part in range(4):
                weight = voicing * (1.0, 0.15)[part % 2]
                rows.append([seconds / 4, *phone.formants, zero_hz, weight, 0, 0, *friction])
        else:
            rows.append([seconds, *phone.formants, zero_hz, voicing, 0, noise, *friction])
    table = np.array(rows)
    neutral: Sequence[float] = (500, 1500, 2500)
    for row in table[::-1]:
        row[1:4] = np.where(np.isnan(row[1:4]), neutral, row[1:4])
        neutral = row[1:4]
    return table


def _smooth(tracks: Array, num_frames: int) -> Array:
    """Hann-weighted running mean along the first axis: coarticulation of successive sounds."""
    kernel = np.hanning(num_frames + 2)[1:-1]
    half = num_frames // 2
    padding = [(half, half)] + [(0, 0)] * (tracks.ndim - 1)
    windows = np.lib.stride_tricks.sliding_window_view(
        np.pad(tracks, padding, mode="edge"), num_frames, axis=0
    )
    smoothed: Array = (windows * (kernel / kernel.sum())).sum(axis=-1)
    return smoothed


def _phonate(frequency: Array, voicing: Array, speaker: Speaker, rng: np.random.Generator) -> Array:
    """Synthesize the glottal source: harmonics, and breath pulsing with them."""
    num_harmonics = int(7800 / frequency.min())
    numbers = range(1, num_harmonics + 1)
    levels = [number**-speaker.tilt for number in numbers]
    pulses = add_partials(frequency, numbers, levels)
    puffs = 0.6 + 0.4 * np.cos(2 * np.pi * np.cumsum(frequency) / SAMPLE_RATE)
    breath = speaker.breathiness * puffs * rng.standard_normal(frequency.shape[0])
    return voicing * (pulses + breath)


def _resonate_tract(formants: Array, zero_hz: Array, scale: float) -> Array:
    """Return the response of throat, mouth and nose in every frame, `(T, len(FRAME_BINS))`."""
    response: Array = np.ones(FRAME_BINS.shape, dtype=complex)
    for center, width in _UPPER_FORMANTS:  # these hardly move
        response = response * resonate(FRAME_BINS, center * scale, width)
    for formant, width in zip(formants.T, _FORMANT_WIDTHS, strict=True):
        response = response * resonate(FRAME_BINS, formant[:, None], width)
    nasal = resonate(FRAME_BINS, _NOSE_HZ, 120.0) / resonate(FRAME_BINS, zero_hz[:, None], 120.0)
    return response * nasal


def _shape_friction(center: Array, width: Array) -> Array:
    """Return a bell around `center` in every frame, of equal power for any width."""
    bell = np.exp(-0.5 * ((FRAME_BINS - center[:, None]) / width[:, None]) ** 2)
    shaped: Array = (bell + 0.02) * np.sqrt(1500 / width[:, None])
    return shaped


def say_word(
    word: str, speaker: Speaker, *, seed: int, seconds: float = 1.0, aspiration: float = 0.045
) -> Waveform:
    """Synthesize one of WORDS, at a random place in `seconds` of silence.

    Raises:
        ValueError: If `word` is unknown or `seconds` not positive.
    """
    rng = make_generator("word", word, seed)
    num_samples = count_samples(seconds)
    segments = spell_word(word, rng=rng)
    segments = [Spoken("", 0.03), *segments, Spoken("", 0.06)]
    spoken = sum(segment.seconds for segment in segments) / speaker.tempo + 0.1
    squeeze = min(1.0, 0.95 * seconds / spoken)  # even "marvin" by a slow speaker must fit
    segments = [segment._replace(seconds=segment.seconds * squeeze) for segment in segments]
    waveform = speak(segments, speaker, seed=int(rng.integers(2**31)), aspiration=aspiration)
    waveform = waveform[:num_samples]
    before = int(rng.integers(num_samples - waveform.shape[0] + 1))
    after = num_samples - before - waveform.shape[0]
    return finish(np.pad(waveform, (before, after)), _LEVEL_DB)


def say_sentences(language: str, speaker: Speaker, *, seed: int, seconds: float) -> Waveform:
    """Synthesize `seconds` of invented sentences with the sounds and rhythm of `language`.

    Raises:
        ValueError: If `language` is unknown or `seconds` not positive.
    """
    rng = make_generator("sentences", language, seed)
    num_samples = count_samples(seconds)
    segments = spell_sentences(language, seconds=seconds * speaker.tempo, rng=rng)
    segments = segments[: _count_needed(segments, seconds * speaker.tempo)]
    aspiration = LANGUAGES[language].aspiration
    waveform = speak(segments, speaker, seed=int(rng.integers(2**31)), aspiration=aspiration)
    return finish(waveform[:num_samples], _LEVEL_DB)


def _count_needed(segments: Sequence[Spoken], seconds: float) -> int:
    """Return the number of segments needed to fill `seconds`; the rest would be cut off."""
    ends = np.cumsum([segment.seconds for segment in segments])
    return int(np.searchsorted(ends, seconds)) + 2
