"""Instruments of eleven families, drawn by seed, that play notes and phrases."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from byola_rq.synthesis.primitives import (
    SAMPLE_RATE,
    Array,
    Waveform,
    add_partials,
    color,
    count_samples,
    finish,
    make_generator,
    make_noise,
    make_wander,
)

_MAX_PARTIALS = 40
_SCALES = ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10), (0, 3, 5, 6, 7, 10), (0, 2, 4, 7, 9))
_CHORDS = ((0,), (0, 7), (0, 4, 7), (0, 3, 7))
_BARS = ((1.0, 3.9, 10.2), (1.0, 4.0, 9.9), (1.0, 2.76, 5.4, 8.93), (1.0, 2.0, 3.01, 4.1, 5.43))
_SUNG = ((740, 1300, 2500), (420, 780, 2450), (300, 870, 2240), (530, 1840, 2480))  # a o u e

# Default ranges from which members of a family are drawn. Families override some; all values
# overlap with those of other families, so that no single one identifies a family.
_USUAL: dict[str, tuple[float, float]] = {
    "lowest": (45, 52), "highest": (76, 88),  # MIDI pitch
    "tilt": (0.9, 1.7),  # partial k has the level k**-tilt
    "evens": (0.8, 1.0),  # level of the even partials
    "pluck": (0.0, 0.0),  # place along the string; partials with a node there are missing
    "stretch": (0.0, 0.0),  # inharmonicity B of f_k = k f sqrt(1 + B k**2)
    "attack": (0.01, 0.04), "release": (0.05, 0.25),  # s
    "decay": (0.0, 0.0),  # 1/s; 0 for sustained sounds
    "damping": (0.0, 0.0),  # additional decay in 1/s per kHz
    "bloom": (0.0, 0.1),  # how much soft moments lose brightness
    "vibrato": (0.0, 4.0),  # cents
    "tremolo": (0.0, 0.05),
    "noise": (0.0, 0.01), "noise_hz": (800, 4000),
    "detune": (0.0, 4.0),  # cents between its two strings, pipes or oscillators
    "ripple": (1.0, 3.0),  # deviation of each partial in dB
    "body": (0.03, 0.2),  # gain of the body's resonances
}  # fmt: skip
FAMILIES: dict[str, dict[str, tuple[float, float]]] = {
    "bass": {"lowest": (28, 33), "highest": (50, 60), "tilt": (1.1, 2.4), "pluck": (0.08, 0.35),
             "attack": (0.003, 0.02), "decay": (0.5, 3), "damping": (1, 8), "noise": (0, 0.02)},
    "brass": {"lowest": (38, 52), "highest": (70, 80), "tilt": (0.5, 1.2), "attack": (0.03, 0.1),
              "bloom": (0.12, 0.4), "vibrato": (0, 18), "noise": (0.002, 0.01)},
    "flute": {"lowest": (55, 62), "highest": (84, 96), "tilt": (1.7, 2.8), "attack": (0.04, 0.14),
              "vibrato": (3, 30), "tremolo": (0.02, 0.2), "noise": (0.02, 0.1)},
    "guitar": {"lowest": (40, 46), "highest": (72, 84), "pluck": (0.08, 0.45),
               "attack": (0.002, 0.006), "decay": (0.8, 3.5), "damping": (0.8, 5),
               "stretch": (2e-5, 2e-4), "noise": (0.005, 0.04), "body": (0.1, 0.5)},
    "keyboard": {"lowest": (30, 40), "highest": (84, 96), "tilt": (1, 2.2),
                 "stretch": (5e-5, 8e-4), "attack": (0.002, 0.012), "decay": (0.5, 2.5),
                 "damping": (0.5, 4), "noise": (0.002, 0.03), "pluck": (0.1, 0.15)},
    "mallet": {"lowest": (48, 60), "highest": (84, 96), "tilt": (0.9, 2), "decay": (1.5, 9),
               "attack": (0.001, 0.004), "damping": (0.5, 6), "noise": (0.005, 0.05),
               "tremolo": (0, 0.2)},
    "organ": {"lowest": (36, 45), "highest": (80, 96), "tilt": (0.2, 1.4), "ripple": (5, 10),
              "attack": (0.005, 0.05), "release": (0.03, 0.12), "detune": (0, 9)},
    "reed": {"lowest": (44, 56), "highest": (76, 88), "tilt": (0.6, 1.4), "evens": (0.05, 0.4),
             "attack": (0.02, 0.08), "bloom": (0.02, 0.2), "vibrato": (0, 22),
             "noise": (0.003, 0.02), "body": (0.15, 0.6)},
    "string": {"lowest": (40, 56), "highest": (76, 92), "tilt": (0.7, 1.3), "attack": (0.05, 0.25),
               "bloom": (0.02, 0.15), "vibrato": (8, 36), "noise": (0.005, 0.04),
               "noise_hz": (2000, 5000), "body": (0.15, 0.6)},
    "synth_lead": {"tilt": (0.4, 1.3), "evens": (0, 1), "attack": (0.002, 0.08),
                   "bloom": (0, 0.4), "vibrato": (0, 45), "detune": (0, 28), "ripple": (0, 1)},
    "vocal": {"lowest": (44, 58), "highest": (68, 80), "tilt": (0.9, 1.5), "attack": (0.04, 0.15),
              "vibrato": (10, 60), "noise": (0.003, 0.03), "body": (1.5, 3), "bloom": (0, 0.1)},
}  # fmt: skip


@dataclass(frozen=True)
class Instrument:
    """Instrument: its family and drawn properties."""

    family: str
    seed: int
    values: dict[str, float]  # drawn value for each range of the family
    ratios: tuple[float, ...]  # of partials to the fundamental
    levels: tuple[float, ...]
    resonances: tuple[tuple[float, float, float], ...]  # Hz, width, gain

    @property
    def pitches(self) -> range:
        """MIDI pitches it can play."""
        return range(round(self.values["lowest"]), round(self.values["highest"]) + 1)


def draw_instrument(family: str, seed: int) -> Instrument:
    """Draw a member of one of FAMILIES.

    Raises:
        ValueError: If `family` is unknown.
    """
    if family not in FAMILIES:
        raise ValueError(f"family must be one of {', '.join(FAMILIES)}; got {family!r}")
    rng = make_generator("instrument", family, seed)
    ranges = {**_USUAL, **FAMILIES[family]}
    values = {name: float(rng.uniform(*ends)) for name, ends in ranges.items()}
    number = np.arange(1, _MAX_PARTIALS + 1)
    ratios = number * np.sqrt(1 + values["stretch"] * number**2)
    if family == "mallet":
        ratios = np.array(_BARS[int(rng.integers(len(_BARS)))])
        number = number[: len(ratios)]
    levels = number ** -values["tilt"] * np.where(number % 2 == 0, values["evens"], 1.0)
    if values["pluck"] > 0:
        levels *= np.abs(np.sin(np.pi * number * values["pluck"])) + 0.03
    levels *= 10 ** (rng.normal(0, values["ripple"], len(number)) / 20)
    places = np.exp(rng.uniform(np.log(150), np.log(4500), 4))
    if family == "vocal":
        places = rng.uniform(0.95, 1.25) * np.array(_SUNG[int(rng.integers(len(_SUNG)))])
    resonances = tuple(
        (float(place), float(place * rng.uniform(0.08, 0.3)), float(values["body"]))
        for place in places
    )
    return Instrument(
        family, seed, values, tuple(ratios.tolist()), tuple(levels.tolist()), resonances
    )


def play_note(
    instrument: Instrument,
    *,
    pitch: float,
    seed: int,
    velocity: int = 80,
    seconds: float = 1.0,
    hold_seconds: float | None = None,
) -> Waveform:
    """Play one note.

    Args:
        instrument: Instrument that plays.
        pitch: MIDI number; 69 is 440 Hz.
        seed: Seed of this note's breath and unsteadiness.
        velocity: MIDI velocity, 1 to 127: louder and brighter.
        seconds: Length of the sound in seconds.
        hold_seconds: Time of release in seconds; by default three quarters of the length.

    Raises:
        ValueError: If `velocity` is out of range or `seconds` not positive.
    """
    if not 1 <= velocity <= 127:
        raise ValueError(f"velocity must be from 1 to 127; got {velocity}")
    num_samples = count_samples(seconds)
    hold = 0.75 * seconds if hold_seconds is None else hold_seconds
    waveform = _sound(
        instrument, pitch=pitch, velocity=velocity, num_samples=num_samples, hold=hold, seed=seed
    )
    return finish(waveform, _level(velocity))


def _level(velocity: int) -> float:
    return -32.0 + 14.0 * velocity / 127


def _sound(
    instrument: Instrument,
    *,
    pitch: float,
    velocity: int,
    num_samples: int,
    hold: float,
    seed: int,
) -> Array:
    """Synthesize a note before its level is set."""
    values = instrument.values
    rng = make_generator("note", instrument.family, instrument.seed, _pitch_key(pitch), seed)
    seconds = np.arange(num_samples) / SAMPLE_RATE
    envelope = _shape_note(values, seconds, hold)
    envelope *= 1 + 0.03 * make_wander(num_samples, 8, rng)
    wobble = np.sin(2 * np.pi * (rng.uniform(4.5, 6.5) * seconds + rng.random()))
    envelope *= 1 + values["tremolo"] * wobble
    cents = values["vibrato"] * wobble * np.clip((seconds - 0.1) / 0.25, 0, 1)
    cents += rng.normal(0, 2) + 1.5 * make_wander(num_samples, 10, rng)
    frequency = 440 * 2 ** ((pitch - 69) / 12 + cents / 1200)
    kilohertz = float(frequency[0]) / 1000
    fade = np.exp(-values["damping"] * kilohertz * seconds) * (envelope + 1e-3) ** values["bloom"]
    softness = np.arange(1, len(instrument.levels) + 1) ** (0.5 * (80 - velocity) / 80)
    levels = (np.array(instrument.levels) / softness).tolist()
    waveform = np.zeros(num_samples)
    for sign in (-0.5, 0.5) if values["detune"] > 1 else (0.0,):
        bent = frequency * 2 ** (sign * values["detune"] / 1200)
        waveform += add_partials(bent, instrument.ratios, levels, fade)
    waveform *= envelope
    waveform += _blow(values, envelope, seconds, rng) * float(np.abs(waveform).max())
    return color(waveform, instrument.resonances)


def _pitch_key(pitch: float) -> int:
    """Round a pitch to cents, precise enough to seed with."""
    return round(100 * pitch)


def _shape_note(values: dict[str, float], seconds: Array, hold: float) -> Array:
    """Return the envelope: attack, then decay or sustain, then release."""
    attack = 1 - np.exp(-3 * seconds / values["attack"])
    body = np.exp(-values["decay"] * seconds)
    if values["decay"] == 0:
        body = 0.8 + 0.2 * np.exp(-seconds / 0.15)
    release = np.exp(-3 * np.maximum(seconds - hold, 0) / values["release"])
    shape: Array = attack * body * release
    return shape


def _blow(
    values: dict[str, float], envelope: Array, seconds: Array, rng: np.random.Generator
) -> Array:
    """Synthesize breath or bow noise while the note sounds, or a knock at its start if struck."""
    noise = color(make_noise(seconds.shape[0], rng), [(values["noise_hz"], values["noise_hz"], 1)])
    shape = envelope if values["decay"] == 0 else np.exp(-seconds / 0.015)
    return values["noise"] * noise * shape


def play_phrase(instrument: Instrument, *, seed: int, seconds: float) -> Waveform:
    """Play a short melody, with chords on some notes.

    Raises:
        ValueError: If `seconds` is not positive.
    """
    rng = make_generator("phrase", instrument.family, instrument.seed, seed)
    total = np.zeros(count_samples(seconds))
    scale = _SCALES[int(rng.integers(len(_SCALES)))]
    lowest, highest = instrument.pitches[0], instrument.pitches[-1]
    # A voice may span less than an octave.
    tonic = int(rng.integers(lowest, max(highest - 12, lowest + 1)))
    beat, start = float(rng.uniform(0.2, 0.5)), 0.0
    degree = int(rng.integers(len(scale)))
    while start < seconds - 0.05:
        degree = int(np.clip(degree + rng.integers(-2, 3), 0, len(scale) - 1))
        length = beat * float(rng.choice([0.5, 1, 1, 2]))
        chord = _CHORDS[int(rng.integers(len(_CHORDS)))] if rng.random() < 0.2 else (0,)
        first = int(start * SAMPLE_RATE)
        room = min(int((length + 0.15) * SAMPLE_RATE), total.shape[0] - first)
        for step in chord:
            sound = _sound(
                instrument,
                pitch=tonic + scale[degree] + step,
                velocity=int(rng.integers(50, 115)),
                num_samples=room,
                hold=0.9 * length,
                seed=int(rng.integers(2**31)),
            )
            total[first : first + room] += sound * np.linspace(1, 0, room) ** 0.2
        start += length
    return finish(total, _level(80))
