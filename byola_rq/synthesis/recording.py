"""Recording conditions: room, background, microphone and level."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from byola_rq.synthesis.primitives import (
    SAMPLE_RATE,
    Array,
    Waveform,
    add_partials,
    color,
    convolve,
    count_samples,
    draw_levels,
    finish,
    make_gate,
    make_generator,
    make_noise,
    make_wander,
)

BACKGROUNDS = ("white", "pink", "brown", "hum", "babble", "street")
_LEVEL_DB = -22.0
_COLORS = {"white": 0.0, "pink": 1.0, "brown": 2.0}


@dataclass(frozen=True)
class Room:
    """Acoustics between two places in a room."""

    seed: int
    decay_seconds: float  # time for a decay of 60 dB
    wetness: float  # amplitude of all but the direct sound
    damping: float  # how much faster the treble decays


def draw_room(seed: int) -> Room:
    """Draw a room, from a padded booth to a stairwell."""
    rng = make_generator("room", seed)
    wetness = float(rng.uniform(0.05, 0.9))
    decay_seconds = float(np.exp(rng.uniform(np.log(0.12), np.log(0.9))))
    return Room(seed, decay_seconds, wetness, float(rng.uniform(0.5, 3.0)))


def apply_room(waveform: Array, room: Room) -> Array:
    """Add the room's early echoes and decaying tail to `waveform`, `(S,)`."""
    rng = make_generator("echoes", room.seed)
    num_samples = count_samples(min(room.decay_seconds, 1.0))
    seconds = np.arange(num_samples) / SAMPLE_RATE
    fall = 6.9 / room.decay_seconds
    dull, bright = make_noise(num_samples, rng, 1.5), make_noise(num_samples, rng)
    tail = dull * np.exp(-fall * seconds) + bright * np.exp(-fall * (1 + room.damping) * seconds)
    tail[: SAMPLE_RATE // 200] = 0.0
    echoes = np.zeros(num_samples)
    delays = (rng.uniform(0.002, 0.04, 8) * SAMPLE_RATE).astype(int)
    echoes[delays] = rng.uniform(-0.7, 0.7, 8)
    response = tail / np.sqrt(np.sum(tail**2)) + 0.5 * echoes
    response *= room.wetness
    response[0] = 1.0
    return convolve(waveform, response)


@dataclass(frozen=True)
class Microphone:
    """Frequency response of a recording channel."""

    low_hz: float
    high_hz: float
    ripple_db: tuple[float, ...]  # at frequencies equally spaced in octaves, 60 Hz to 8 kHz


def draw_microphone(seed: int, *, ripple_db: float = 4.0) -> Microphone:
    """Draw a channel whose response deviates by about `ripple_db`."""
    rng = make_generator("microphone", seed)
    low_hz, high_hz = rng.uniform(40, 200), rng.uniform(3800, 9000)
    return Microphone(float(low_hz), float(high_hz), tuple(rng.normal(0, ripple_db, 7).tolist()))


def apply_microphone(waveform: Array, microphone: Microphone) -> Array:
    """Filter `waveform`, `(S,)`, by the channel's response."""
    size = 1 << (waveform.shape[0] + 512).bit_length()
    bins = np.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    places = np.linspace(np.log(60), np.log(8000), len(microphone.ripple_db))
    gain = 10 ** (np.interp(np.log(np.maximum(bins, 20)), places, microphone.ripple_db) / 20)
    gain *= (bins / microphone.low_hz) ** 2 / (1 + (bins / microphone.low_hz) ** 2)
    gain /= np.sqrt(1 + (bins / microphone.high_hz) ** 8)
    return np.fft.irfft(np.fft.rfft(waveform, size) * gain, size)[: waveform.shape[0]]


def make_background(kind: str, *, seed: int, seconds: float) -> Waveform:
    """Generate a background: one of BACKGROUNDS.

    Raises:
        ValueError: If `kind` is unknown or `seconds` not positive.
    """
    if kind not in BACKGROUNDS:
        raise ValueError(f"background must be one of {', '.join(BACKGROUNDS)}; got {kind!r}")
    rng = make_generator("background", kind, seed)
    num_samples = count_samples(seconds)
    if kind in _COLORS:
        noise = make_noise(num_samples, rng, _COLORS[kind] + float(rng.uniform(-0.2, 0.2)))
    elif kind == "hum":
        mains_hz = float(rng.choice([50.0, 60.0]))
        levels = draw_levels(rng, 30, tilt=float(rng.uniform(0.8, 2.0)), ripple_db=6)
        noise = add_partials(np.full(num_samples, mains_hz), range(1, 31), levels)
        noise += 0.1 * make_noise(num_samples, rng, 1.0)
    elif kind == "babble":
        noise = 0.05 * make_noise(num_samples, rng, 1.0)
        for _ in range(4):
            noise += _murmur(num_samples, rng)
    else:
        passing = np.exp(0.7 * make_wander(num_samples, 0.7, rng))
        noise = make_noise(num_samples, rng, 2.0) * passing
        noise += (
            0.3
            * make_noise(num_samples, rng, 0.8)
            * make_gate(num_samples, rng, (0.3, 2.0), (0.3, 2.0))
        )
    return finish(noise, _LEVEL_DB)


def _murmur(num_samples: int, rng: np.random.Generator) -> Array:
    """Synthesize one unintelligible distant voice."""
    pitch_hz = rng.uniform(90, 260) * 2 ** (0.2 * make_wander(num_samples, 2, rng))
    levels = draw_levels(rng, 20, tilt=1.2, ripple_db=1)
    voice = add_partials(pitch_hz, range(1, 21), levels) + 0.05 * make_noise(num_samples, rng)
    voice *= np.maximum(make_wander(num_samples, 8, rng), 0)
    share = np.clip(0.5 + 0.5 * make_wander(num_samples, 6, rng), 0, 1)
    wide = color(voice, [(700, 150, 4), (1250, 200, 3), (2600, 400, 1)])
    narrow = color(voice, [(380, 120, 4), (2000, 250, 3), (2800, 400, 1)])
    mixed: Array = share * wide + (1 - share) * narrow
    return mixed


@dataclass(frozen=True)
class Scene:
    """Place and equipment of a recording."""

    room: Room
    microphone: Microphone
    background: str  # one of BACKGROUNDS
    snr_db: float  # power of the sound over the background
    level_db: float  # of the finished recording, in dB of full scale


def draw_scene(
    seed: int,
    *,
    snr_db: tuple[float, float] = (5.0, 35.0),
    ripple_db: float = 4.0,
    level_db: tuple[float, float] = (-36.0, -16.0),
) -> Scene:
    """Draw a scene; `snr_db` and `level_db` are uniform ranges."""
    rng = make_generator("scene", seed)
    return Scene(
        draw_room(seed),
        draw_microphone(seed, ripple_db=ripple_db),
        str(rng.choice(BACKGROUNDS)),
        float(rng.uniform(*snr_db)),
        float(rng.uniform(*level_db)),
    )


def record(waveform: Array, scene: Scene, *, seed: int) -> Waveform:
    """Record `waveform`, `(S,)`, in `scene`; `seed` determines the background."""
    wet = apply_room(waveform, scene.room)
    seconds = waveform.shape[0] / SAMPLE_RATE
    noise = make_background(scene.background, seed=seed, seconds=seconds)
    power = float(np.sqrt(np.mean(wet**2))) / max(float(np.sqrt(np.mean(noise**2))), 1e-9)
    mixed = wet + noise * power * 10 ** (-scene.snr_db / 20)
    return finish(apply_microphone(mixed, scene.microphone), scene.level_db)
