"""Sound events: sirens, drills, dogs, engines and others, as recorded by a microphone."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

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
    draw_resonances,
    finish,
    make_clicks,
    make_gate,
    make_generator,
    make_noise,
    make_wander,
)

_LEVEL_DB = -22.0


class _Take(NamedTuple):
    """Random generators and length of one slice of a recording."""

    source: np.random.Generator  # draws properties shared by all slices of the recording
    moment: np.random.Generator  # draws the events of this slice
    num_samples: int

    @property
    def seconds(self) -> Array:
        return np.arange(self.num_samples) / SAMPLE_RATE


def make_event(name: str, *, seed: int, seconds: float, slice_number: int = 0) -> Waveform:
    """Generate a slice of a recording of a sound event.

    Args:
        name: One of EVENTS.
        seed: Seed of the recording: which dog, which engine, at which distance.
        seconds: Length of the slice in seconds.
        slice_number: Number of the slice; slices share nothing but the recording.

    Raises:
        ValueError: If `name` is unknown or `seconds` not positive.
    """
    if name not in EVENTS:
        raise ValueError(f"event must be one of {', '.join(EVENTS)}; got {name!r}")
    take = _Take(
        make_generator("recording", name, seed),
        make_generator("slice", name, seed, slice_number),
        count_samples(seconds),
    )
    return finish(EVENTS[name](take), _LEVEL_DB)


def _air_conditioner(take: _Take) -> Array:
    source, moment = take.source, take.moment
    count = int(source.integers(6, 25))
    fan_hz, tilt = source.uniform(45, 125), source.uniform(0.6, 1.6)
    levels = draw_levels(source, count, tilt=tilt, ripple_db=6)
    steady = fan_hz * (1 + 0.003 * make_wander(take.num_samples, 1, moment))
    hum = add_partials(steady, range(1, count + 1), levels)
    rush = make_noise(take.num_samples, moment, float(source.uniform(0.5, 1.8)))
    rush = color(rush, draw_resonances(source, 150, 4000))
    rush *= 1 + 0.12 * make_wander(take.num_samples, 3, moment)
    rattle = 1 + source.uniform(0, 0.5) * np.sin(2 * np.pi * fan_hz / 6 * take.seconds)
    mixed: Array = source.uniform(0.1, 0.7) * hum + rush * rattle
    return mixed


def _car_horn(take: _Take) -> Array:
    source, moment = take.source, take.moment
    low_hz, interval = source.uniform(280, 480), source.uniform(1.18, 1.35)
    levels = draw_levels(source, 24, tilt=source.uniform(0.3, 1.0))
    passing = 1 + source.uniform(0, 0.05) * np.tanh(3 * (moment.random() - take.seconds))
    horn = add_partials(low_hz * passing, range(1, 25), levels)
    if source.random() < 0.75:
        horn += add_partials(low_hz * interval * passing, range(1, 25), levels)
    horn *= make_gate(take.num_samples, moment, (0.12, 1.2), (0.1, 0.8))
    horn = color(horn, draw_resonances(source, 500, 4000))
    traffic = make_noise(take.num_samples, moment, 1.6)
    return horn + source.uniform(0.1, 0.6) * traffic


def _children_playing(take: _Take) -> Array:
    source, moment = take.source, take.moment
    total = source.uniform(0.05, 0.3) * make_noise(take.num_samples, moment, 1.0)
    for _ in range(int(source.integers(2, 5))):
        pitch_hz, tilt = source.uniform(280, 520), source.uniform(0.7, 1.5)
        leaps = 2 ** (0.35 * make_wander(take.num_samples, 3.5, moment))
        levels = draw_levels(source, 20, tilt=tilt, ripple_db=2)
        voice = add_partials(pitch_hz * leaps, range(1, 21), levels)
        voice += 0.15 * make_noise(take.num_samples, moment)
        syllables = np.maximum(make_wander(take.num_samples, 9, moment), 0)
        shouting = make_gate(take.num_samples, moment, (0.3, 1.2), (0.2, 1.2)) * syllables
        # Two mouth shapes to alternate between: wide and narrow.
        wide = color(voice, [(1000, 250, 4), (1900, 300, 3), (3700, 500, 2)])
        narrow = color(voice, [(450, 150, 4), (2800, 350, 3), (4200, 500, 2)])
        share = np.clip(0.5 + 0.5 * make_wander(take.num_samples, 5, moment), 0, 1)
        total += shouting * (share * wide + (1 - share) * narrow) * source.uniform(0.3, 1)
    return total


def _dog_bark(take: _Take) -> Array:
    source, moment = take.source, take.moment
    size = source.uniform(0, 1)  # from a terrier to a mastiff
    length = 0.09 + 0.12 * size * source.uniform(0.7, 1.3)
    times, bark = take.seconds, np.zeros(take.num_samples)
    arc = np.zeros(take.num_samples)
    start = moment.uniform(0.05, 0.3) * min(1.0, times[-1])
    while start < times[-1]:
        place = (times - start) / (length * moment.uniform(0.85, 1.2))
        inside = (place > 0) & (place < 1)
        bark += inside * np.sin(np.pi * np.clip(place, 0, 1) ** 0.6) ** 1.5 * moment.uniform(0.5, 1)
        arc += inside * np.sin(np.pi * np.clip(place, 0, 1))
        start += length + (moment.uniform(0.05, 0.25) if moment.random() < 0.6 else 0.7)
    pitch_hz = (750 - 500 * size) * (0.8 + 0.5 * arc) * 2 ** (moment.uniform(-0.1, 0.1))
    throat = add_partials(pitch_hz, range(1, 25), draw_levels(source, 24, tilt=0.9, ripple_db=3))
    throat *= 1 + 0.5 * make_noise(take.num_samples, moment, 0.5)
    rough = source.uniform(0.1, 0.6) * make_noise(take.num_samples, moment)
    barks = color((throat + rough) * bark, draw_resonances(source, 500, 2500, 3))
    return barks + 0.02 * make_noise(take.num_samples, moment, 1.2)


def _drilling(take: _Take) -> Array:
    source, moment = take.source, take.moment
    load = make_gate(take.num_samples, moment, (0.5, 2.5), (0.1, 0.6))
    lag = np.exp(-np.arange(int(0.3 * SAMPLE_RATE)) / (0.06 * SAMPLE_RATE))
    speed = convolve(load, lag / lag.sum())  # a motor speeds up slowly
    motor_hz = source.uniform(90, 260) * (0.25 + 0.75 * speed)
    motor_hz *= 1 + 0.01 * make_wander(take.num_samples, 12, moment)
    levels = draw_levels(source, 36, tilt=source.uniform(0.3, 0.9), ripple_db=6)
    whine = add_partials(motor_hz, range(1, 37), levels)
    teeth = make_noise(take.num_samples, moment, source.uniform(0, 0.8))
    teeth *= 1 + 0.8 * np.sin(2 * np.pi * np.cumsum(motor_hz) / SAMPLE_RATE)
    drill = whine + source.uniform(0.3, 1.5) * teeth * speed
    drill = color(drill * (0.05 + speed), draw_resonances(source, 400, 6000))
    return drill + 0.05 * make_noise(take.num_samples, moment, 1.0)


def _engine_idling(take: _Take) -> Array:
    source, moment = take.source, take.moment
    firing_hz = source.uniform(16, 42) * (1 + 0.02 * make_wander(take.num_samples, 4, moment))
    levels = draw_levels(source, 40, tilt=source.uniform(0.3, 1.1), ripple_db=5)
    engine = add_partials(firing_hz, range(1, 41), levels)
    puffs = 1 + 0.9 * np.sin(2 * np.pi * np.cumsum(firing_hz) / SAMPLE_RATE)
    exhaust = make_noise(take.num_samples, moment, float(source.uniform(0.6, 1.8))) * puffs
    engine += source.uniform(0.3, 1.5) * exhaust
    engine *= 1 + 0.15 * make_wander(take.num_samples, 12, moment)
    return color(engine, draw_resonances(source, 60, 1500, 5))


def _gun_shot(take: _Take) -> Array:
    source, moment = take.source, take.moment
    shots = np.sort(moment.uniform(0.02, 0.7, int(moment.integers(1, 5)))) * take.num_samples
    clicks = make_clicks(shots.astype(int), moment.uniform(0.6, 1, len(shots)), take.num_samples)
    times = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    blast = make_noise(SAMPLE_RATE, source, 0.3) * np.exp(-times / source.uniform(0.004, 0.03))
    boom = np.sin(2 * np.pi * source.uniform(50, 130) * times) * np.exp(-times / 0.06)
    tail = make_noise(SAMPLE_RATE, source, 1.2) * np.exp(-times / source.uniform(0.08, 0.4))
    shot = 2 * blast + source.uniform(0.2, 1.5) * boom + source.uniform(0.05, 0.4) * tail
    echo = int(source.uniform(0.08, 0.4) * SAMPLE_RATE)
    shot[echo:] += source.uniform(0.05, 0.4) * shot[:-echo]
    calm = source.uniform(0.01, 0.08) * make_noise(take.num_samples, moment, 1.3)
    return convolve(clicks, shot) + calm


def _jackhammer(take: _Take) -> Array:
    source, moment = take.source, take.moment
    rate = source.uniform(11, 28)
    count = int(take.num_samples / SAMPLE_RATE * rate) + 2
    beats = (np.arange(count) + 0.04 * moment.standard_normal(count) + 0.3) / rate
    starts = np.maximum(beats * SAMPLE_RATE, 0).astype(int)
    clicks = make_clicks(starts, moment.uniform(0.6, 1, count), take.num_samples)
    clicks *= make_gate(take.num_samples, moment, (0.8, 3.0), (0.1, 0.5))
    times = np.arange(SAMPLE_RATE // 5) / SAMPLE_RATE
    hit = make_noise(times.shape[0], source, 0.4) * np.exp(-times / source.uniform(0.004, 0.02))
    for _ in range(5):
        ring = np.sin(2 * np.pi * np.exp(source.uniform(5.5, 8.5)) * times)
        hit += source.uniform(0.1, 0.8) * ring * np.exp(-times / source.uniform(0.01, 0.04))
    compressor = make_noise(take.num_samples, moment, 1.2) * source.uniform(0.02, 0.2)
    return convolve(clicks, hit) + compressor


def _siren(take: _Take) -> Array:
    source, moment = take.source, take.moment
    low_hz, octaves = source.uniform(420, 750), source.uniform(0.6, 1.4)
    phase = take.seconds * np.exp(source.uniform(np.log(0.2), np.log(4))) + moment.random()
    style = int(source.integers(3))
    if style == 0:  # wails up and down
        sweep = 0.5 - 0.5 * np.cos(2 * np.pi * phase)
    elif style == 1:  # yelps: up again and again
        sweep = phase % 1
    else:  # two tones in turn
        sweep, octaves = (phase % 1 > 0.5).astype(float), 0.4 * octaves
    lag = np.hanning(SAMPLE_RATE // 25)
    sweep = convolve(sweep, lag / lag.sum())
    passing = 1 + source.uniform(0, 0.04) * np.tanh(2 * (moment.random() - take.seconds))
    levels = draw_levels(source, 12, tilt=source.uniform(0.8, 2.0))
    tone = add_partials(low_hz * 2 ** (octaves * sweep) * passing, range(1, 13), levels)
    tone = color(tone, draw_resonances(source, 500, 3500))
    street = source.uniform(0.03, 0.5) * make_noise(take.num_samples, moment, 1.6)
    return tone * (1 + 0.2 * make_wander(take.num_samples, 2, moment)) + street


def _street_music(take: _Take) -> Array:
    source, moment = take.source, take.moment
    beat = source.uniform(0.22, 0.42)
    steps = np.cumsum(moment.choice([0.5, 1, 1], int(take.seconds[-1] / beat * 2) + 3)) * beat
    step = np.searchsorted(steps, take.seconds, side="right")
    since = take.seconds - np.concatenate([[0.0], steps])[step]
    decay, tilt, root_hz = source.uniform(0, 6), source.uniform(0.6, 1.6), source.uniform(110, 260)
    total = 0.03 * make_noise(take.num_samples, moment, 1.2)
    for octave in (0.5, 1.0, 2.0)[: int(source.integers(2, 4))]:
        degrees = moment.choice([0, 0, 3, 5, 7, 7, 10, 12], len(steps) + 1)
        vibrato = 1 + 0.004 * np.sin(2 * np.pi * 5.5 * take.seconds)
        frequency = octave * root_hz * 2 ** (degrees[step] / 12) * vibrato
        player = add_partials(frequency, range(1, 19), draw_levels(source, 18, tilt=tilt))
        total += player * np.exp(-decay * since) * np.minimum(since / 0.01, 1)
    if source.random() < 0.6:
        hits = (np.arange(moment.random() * beat, take.seconds[-1], beat) * SAMPLE_RATE).astype(int)
        clicks = make_clicks(hits, moment.uniform(0.5, 1, len(hits)), take.num_samples)
        drum = make_noise(SAMPLE_RATE // 4, source, float(source.uniform(0, 1.8)))
        fall = np.exp(-np.arange(SAMPLE_RATE // 4) / SAMPLE_RATE / source.uniform(0.01, 0.05))
        total += convolve(clicks, drum * fall)
    return color(total, draw_resonances(source, 150, 4000, 5))


def _rain(take: _Take) -> Array:
    source, moment = take.source, take.moment
    count = int(take.seconds[-1] * source.uniform(60, 900)) + 1
    starts = moment.integers(0, take.num_samples, count)
    clicks = make_clicks(starts, moment.exponential(1.0, count), take.num_samples)
    drops = color(clicks, draw_resonances(source, 900, 7000, 6))
    rush = make_noise(take.num_samples, moment, float(source.uniform(0.2, 1.0)))
    return drops + source.uniform(0.005, 0.05) * rush


def _typing(take: _Take) -> Array:
    source, moment = take.source, take.moment
    gaps = moment.exponential(source.uniform(0.08, 0.25), int(take.seconds[-1] * 12) + 2) + 0.05
    starts = (np.cumsum(gaps) - gaps[0] + 0.05) * SAMPLE_RATE
    clicks = make_clicks(starts.astype(int), moment.uniform(0.3, 1, len(gaps)), take.num_samples)
    times = np.arange(SAMPLE_RATE // 20) / SAMPLE_RATE
    key = make_noise(times.shape[0], source) * np.exp(-times / source.uniform(0.002, 0.008))
    keys = color(convolve(clicks, key), draw_resonances(source, 800, 6000))
    return keys + 0.01 * make_noise(take.num_samples, moment, 1.0)


_MAKERS = (
    _air_conditioner, _car_horn, _children_playing, _dog_bark, _drilling, _engine_idling,
    _gun_shot, _jackhammer, _siren, _street_music, _rain, _typing,
)  # fmt: skip
EVENTS: dict[str, Callable[[_Take], Array]] = {make.__name__[1:]: make for make in _MAKERS}
