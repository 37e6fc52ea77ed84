"""Building blocks of synthetic sounds: partials, noise, gates, fixed and moving filters."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Waveform = NDArray[np.float32]

SAMPLE_RATE = 16_000
FRAME_HOP = 80  # samples between two frames of a moving filter: 5 ms
_FRAME = 4 * FRAME_HOP
_N_FFT = 8 * FRAME_HOP
_LEAD = FRAME_HOP  # space before the frame for the pre-ringing of a zero-phase response
FRAME_BINS = np.fft.rfftfreq(_N_FFT, 1 / SAMPLE_RATE)  # Hz
_ALIAS_FADE_HZ = (7200.0, 7800.0)
_END_FADE_SECONDS = 0.008
_MAX_PEAK = 0.95


def make_generator(*keys: int | str) -> np.random.Generator:
    """Create a generator whose numbers depend on `keys` alone, in any process."""
    # Hashed because SeedSequence pads with zeros: [1] and [1, 0] would give the same seed.
    text = repr([key if isinstance(key, str) else int(key) for key in keys])
    digest = hashlib.sha256(text.encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))


def make_seed(*keys: int | str) -> int:
    """Return a seed that depends on `keys` alone."""
    return int(make_generator(*keys).integers(2**31))


def count_samples(seconds: float) -> int:
    """Return the number of samples of `seconds` of sound, at least one."""
    if not seconds > 0:
        raise ValueError(f"seconds must be positive; got {seconds}")
    return max(1, round(seconds * SAMPLE_RATE))


def count_frames(num_samples: int) -> int:
    """Return the number of frames of a moving filter for `num_samples`."""
    return -(-num_samples // FRAME_HOP) + 1


def add_partials(
    frequency: Array, ratios: Sequence[float], levels: Sequence[float], fade: Array | None = None
) -> Array:
    """Sum sine partials of a gliding fundamental; none exceeds the Nyquist frequency.

    Args:
        frequency: Fundamental frequency in Hz, `(S,)`.
        ratios: Frequency of each partial over the fundamental, ascending.
        levels: Amplitude of each partial.
        fade: Factor in (0, 1], `(S,)`, applied once more for every further partial: an exponential
            in the partial's number, at one product per partial.
    """
    cycles = np.cumsum(frequency) / SAMPLE_RATE
    lowest, highest = float(frequency.min()), float(frequency.max())
    floored = None if fade is None else np.maximum(fade, 1e-6)  # 40 factors stay above denormals
    weight = np.ones_like(cycles)
    total = np.zeros_like(cycles)
    start, stop = _ALIAS_FADE_HZ
    for number, (ratio, level) in enumerate(zip(ratios, levels, strict=True)):
        if lowest * ratio >= stop:
            break
        if floored is not None and number:
            weight *= floored
        turn = cycles * ratio
        turn -= np.rint(turn)  # small angles, so that single precision is enough for the sine
        partial = np.sin((2 * np.pi * turn).astype(np.float32)) * (level * weight)
        if highest * ratio > start:
            partial *= np.clip((stop - frequency * ratio) / (stop - start), 0, 1)
        total += partial
    return total


def make_noise(num_samples: int, rng: np.random.Generator, exponent: float = 0.0) -> Array:
    """Generate noise of unit power with a 1/f**exponent spectrum (0 white, 1 pink, 2 brown)."""
    size = num_samples + num_samples % 2
    spectrum = np.fft.rfft(rng.standard_normal(size))
    bins = np.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    spectrum *= np.maximum(bins, 20.0) ** (-exponent / 2) * (bins > 0)
    noise = np.fft.irfft(spectrum, size)[:num_samples]
    scaled: Array = noise / max(float(noise.std()), 1e-12)
    return scaled


def make_wander(num_samples: int, rate_hz: float, rng: np.random.Generator) -> Array:
    """Generate a slow random curve of about unit variance with about `rate_hz` turns a second."""
    num_knots = int(num_samples / SAMPLE_RATE * rate_hz) + 3
    knots = rng.standard_normal(num_knots) * 1.2
    return np.interp(np.arange(num_samples) * rate_hz / SAMPLE_RATE, np.arange(num_knots), knots)


def make_clicks(starts: Array, strengths: Array, num_samples: int) -> Array:
    """Place single samples `strengths` at `starts`, `(N,)` each; those past the end are dropped."""
    clicks = np.zeros(num_samples)
    inside = starts < num_samples
    np.add.at(clicks, starts[inside], strengths[inside])
    return clicks


def make_gate(
    num_samples: int,
    rng: np.random.Generator,
    on_seconds: tuple[float, float],
    off_seconds: tuple[float, float],
) -> Array:
    """Generate an on-off curve, 0 to 1, with random durations and 20 ms edges."""
    times = [float(rng.uniform(0, 0.3))]
    while times[-1] * SAMPLE_RATE < num_samples:
        times.append(times[-1] + float(rng.uniform(*on_seconds)))
        times.append(times[-1] + float(rng.uniform(*off_seconds)))
    points = np.add.outer(times, [-0.01, 0.01]).reshape(-1) * SAMPLE_RATE
    values = np.tile([0.0, 1.0, 1.0, 0.0], len(times))[: len(points)]
    gate: Array = np.interp(np.arange(num_samples), points, values)
    return gate


def draw_levels(
    rng: np.random.Generator, count: int, *, tilt: float, ripple_db: float = 4.0
) -> list[float]:
    """Draw levels of `count` partials that fall roughly as 1 / number**tilt."""
    levels = np.arange(1, count + 1) ** -tilt * 10 ** (rng.normal(0, ripple_db, count) / 20)
    return [float(level) for level in levels]


def draw_resonances(
    rng: np.random.Generator, low_hz: float, high_hz: float, count: int = 4
) -> list[tuple[float, float, float]]:
    """Draw resonances between two frequencies: (Hz, width in Hz, gain) each."""
    places = np.exp(rng.uniform(np.log(low_hz), np.log(high_hz), count))
    return [(float(f), float(f * rng.uniform(0.05, 0.3)), float(rng.uniform(1, 4))) for f in places]


def resonate(bins: Array, center: Array | float, width: Array | float) -> Array:
    """Return the response of a resonance (gain 1 at 0 Hz) at `bins`; shapes broadcast, in Hz.

    Its inverse is an antiresonance, so that a pole and a zero at one frequency cancel.
    """
    square = np.square(center)
    response: Array = square / (square - bins * bins + 1j * bins * width)
    return response


def filter_frames(*parts: tuple[Array, Array]) -> Array:
    """Sum signals, each filtered by a response that changes from frame to frame.

    Args:
        parts: Pairs of a signal `(S,)` and its response `(T, len(FRAME_BINS))`, where
            `T = count_frames(S)` and frame t is centered on sample `t * FRAME_HOP`.
    """
    num_samples = parts[0][0].shape[0]
    num_frames = count_frames(num_samples) + 2  # one more frame beyond each end
    # Hann windows a quarter apart sum to 2.
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_FRAME) / _FRAME)) / 2
    before = _FRAME // 2 + FRAME_HOP
    padding = (before, num_frames * FRAME_HOP + _FRAME - before - num_samples)
    spectra: Any = 0.0
    for signal, response in parts:
        frames = np.lib.stride_tricks.sliding_window_view(np.pad(signal, padding), _FRAME)
        held = np.zeros((num_frames, _N_FFT))
        held[:, _LEAD : _LEAD + _FRAME] = frames[::FRAME_HOP][:num_frames] * window
        held_response = np.concatenate([response[:1], response, response[-1:]])
        spectra = spectra + np.fft.rfft(held) * held_response
    blocks = np.fft.irfft(spectra, _N_FFT).reshape(num_frames, -1, FRAME_HOP)
    total = np.zeros((num_frames + blocks.shape[1], FRAME_HOP))
    for place in range(blocks.shape[1]):
        total[place : place + num_frames] += blocks[:, place]
    start = _LEAD + before
    return total.reshape(-1)[start : start + num_samples]


def convolve(waveform: Array, impulse_response: Array) -> Array:
    """Convolve `waveform` with `impulse_response`, cut to the length of `waveform`."""
    size = 1 << (waveform.shape[0] + impulse_response.shape[0] - 2).bit_length()
    product = np.fft.rfft(waveform, size) * np.fft.rfft(impulse_response, size)
    return np.fft.irfft(product, size)[: waveform.shape[0]]


def color(waveform: Array, resonances: Sequence[tuple[float, float, float]]) -> Array:
    """Apply body resonances: each `(Hz, width in Hz, gain)` adds a bell to a flat response."""
    num_samples = waveform.shape[0]
    size = 1 << (num_samples + 1024).bit_length()
    bins = np.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    response = np.full(bins.shape, 0.15, dtype=complex)
    for center, width, gain in resonances:
        # Band pass: 1 at its center, 0 at both ends.
        response += gain * 1j * bins * width / (center**2 - bins * bins + 1j * bins * width)
    return np.fft.irfft(np.fft.rfft(waveform, size) * response, size)[:num_samples]


def finish(waveform: Array, level_db: float) -> Waveform:
    """Remove the offset, fade both ends and set the level without clipping.

    Args:
        waveform: Waveform `(S,)`.
        level_db: Root mean square level in dB of full scale; lowered if peaks would exceed 0.95.
    """
    num_samples = waveform.shape[0]
    edge = min(int(_END_FADE_SECONDS * SAMPLE_RATE), num_samples // 2)
    ramp = np.sin(np.linspace(0, np.pi / 2, edge, endpoint=False)) ** 2
    centered = waveform - waveform.mean()
    centered[:edge] *= ramp
    centered[num_samples - edge :] *= ramp[::-1]
    power = float(np.sqrt(np.mean(centered**2)))
    scale = 10 ** (level_db / 20) / max(power, 1e-9)
    peak = float(np.abs(centered).max())
    finished: Waveform = (centered * min(scale, _MAX_PEAK / max(peak, 1e-9))).astype(np.float32)
    return finished
