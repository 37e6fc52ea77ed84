"""Inversion: log-mel spectrogram to waveform."""

import math
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from byola_rq.audio.frontend import EPSILON, LogMelSpectrogram, Statistics
from byola_rq.audio.mel import mel_filterbank

MAX_LOG_MEL = 30.0  # nat; a full-scale sine reaches 7
START_ITERATIONS = 5  # of the linear fit; the phase loop refines it
MOMENTUM = 0.9  # with the mel fitted in the loop, the usual 0.99 leaves 1.5 times the error


@torch.no_grad()
def mel_to_linear(
    log_mel: Tensor,
    frontend: LogMelSpectrogram,
    *,
    statistics: Statistics | None = None,
    iterations: int = 50,
) -> Tensor:
    """Find a non-negative linear power spectrogram with the given log-mel spectrogram.

    Among the many solutions it returns one close to the bands spread smoothly over their filters.
    Frequencies outside every filter stay 0. Each frame is fitted independently.

    Args:
        log_mel: `(B, 1, F, T)`, `(B, F, T)` or `(F, T)`, in nat; values below the frontend's
            floor are raised to it.
        frontend: Frontend that made the spectrogram.
        statistics: Statistics it was standardized with; `None` if it was not.
        iterations: Number of multiplicative updates, at least 1.

    Returns:
        Power, float32 `(B, n_fft // 2 + 1, T)`, on the device of the input.

    Raises:
        ValueError: If an argument breaks a rule above, or a value is not finite or above 30 nat.

    Source: Févotte, Bertin and Durrieu (Neural Computation 2009), the multiplicative update for
    the Itakura-Saito divergence. It weighs relative errors, as a log-mel does; least squares would
    fit mainly the loud bands.
    """
    mel = _read_mel(log_mel, frontend, statistics, iterations)
    with torch.autocast(mel.device.type, enabled=False):
        power = _fit_power(mel, _filters(frontend, mel.device), iterations)
    return power.transpose(1, 2).contiguous()


@torch.no_grad()
def mel_to_audio(
    log_mel: Tensor,
    frontend: LogMelSpectrogram,
    *,
    statistics: Statistics | None = None,
    iterations: int = 24,
    seed: int = 0,
    num_samples: int | None = None,
) -> Tensor:
    """Synthesize a waveform with the given log-mel spectrogram, to a few hundredths of a nat.

    Fast Griffin-Lim with one difference: an iteration does not restore fixed linear magnitudes, it
    scales the current ones until their mel fits. Magnitudes that the mel leaves undetermined can
    then agree with the phases; fixed ones leave three times the error. It starts from white noise
    shaped by the linear fit, the same noise for all clips of a batch.

    Loudness is that of the log-mel: nothing is normalized or clipped, so samples can exceed 1.
    (A mel does not determine the level of a tone below the center of the first band or above that
    of the last.) On the CPU clips are processed one by one: a clip's result does not depend on the
    batch.

    Args:
        log_mel: Spectrogram of the shapes that `mel_to_linear` accepts, in nat.
        frontend: Frontend that made the spectrogram, with any backend.
        statistics: Statistics it was standardized with; `None` if it was not.
        iterations: Number of iterations, at least 1; doubling it leaves half to two thirds of the
            error.
        seed: Seed of the noise.
        num_samples: Length that the frontend turns into `T` frames; the shortest by default.

    Returns:
        Waveform, float32 `(B, S)`, on the device of the input.

    Raises:
        ValueError: If an argument breaks a rule above, or a value is not finite or above 30 nat.

    Source: Griffin and Lim (1984); Perraudin et al., A fast Griffin-Lim algorithm (WASPAA 2013).
    """
    mel = _read_mel(log_mel, frontend, statistics, iterations)
    num_samples = _check_length(num_samples, mel.shape[1], frontend)
    mel = _lengthen(mel, frontend)
    length = max(num_samples, _shortest(mel.shape[1], frontend))
    framing, filters = _Framing.of(frontend, mel.device), _filters(frontend, mel.device)
    # Drawn on the CPU: the same start on every device.
    noise = torch.randn(1, length, generator=torch.Generator().manual_seed(seed)).to(mel.device)
    # On the CPU one clip's spectra stay in the cache, where a batch's do not.
    parts = torch.split(mel, 1 if mel.device.type == "cpu" else len(mel))
    with torch.autocast(mel.device.type, enabled=False):
        waveforms = [_fit_waveform(part, filters, framing, noise, iterations) for part in parts]
    return torch.cat(waveforms)[:, :num_samples].contiguous()


def _fit_waveform(
    mel: Tensor, filters: Tensor, framing: "_Framing", noise: Tensor, iterations: int
) -> Tensor:
    """Run the phase loop: `mel (B, T, F)`, `noise (1, S)` -> waveform `(B, S)`."""
    power = _fit_power(mel, filters, START_ITERATIONS)
    weights = _frame_weights(power)
    envelope = framing.envelope(weights, noise.shape[-1])
    # Includes the frames' weights, squared because these are powers.
    share = weights.square() / (mel.reciprocal() @ filters).clamp(min=1e-20)  # (B, T, K)
    start = framing.analyze(noise)
    start = start / start.abs().clamp(min=1e-9) * power.sqrt() * weights
    waveform = framing.synthesize(start, envelope)
    previous = framing.analyze(waveform)
    for _ in range(iterations):
        spectrum = framing.analyze(waveform)
        # In place, on real and imaginary parts: multiplying complex by real would copy both.
        ahead = torch.view_as_real(previous).mul_(-MOMENTUM)
        ahead.add_(torch.view_as_real(spectrum), alpha=1 + MOMENTUM)
        found = (ahead[..., 0].square() + ahead[..., 1].square()) @ filters.T + EPSILON
        # A bin's power is scaled by target / found of its bands, averaged with weights 1 / target:
        # the quieter of two bands dominates, as the bin may not exceed it.
        gain = (found.reciprocal_() @ filters).mul_(share).sqrt_()
        fitted = torch.view_as_complex(ahead.mul_(gain[..., None]))
        waveform = framing.synthesize(fitted, envelope)
        previous = spectrum
    return waveform


def _fit_power(mel: Tensor, filters: Tensor, iterations: int) -> Tensor:
    """Run multiplicative updates: `mel (B, T, F)` including the floor -> power `(B, T, K)`."""
    sums = filters.sum(dim=1).clamp(min=1e-20)
    peaks = filters.amax(dim=1, keepdim=True).clamp(min=1e-20)
    power = ((mel - EPSILON) / sums) @ (filters / peaks)
    for _ in range(iterations):
        inverse = (power @ filters.T + EPSILON).reciprocal_()
        power *= (mel * inverse * inverse) @ filters
        power /= (inverse @ filters).clamp_(min=1e-20)
    return power


def _frame_weights(power: Tensor) -> Tensor:
    """Weight of each frame in the overlap-add, at least 1: `(B, T, 1)`."""
    # A loud neighbor leaks into a quiet frame: giving quiet frames more weight removed up to 40 %
    # of the error on spoken words. The square root was the best power.
    energy = power.sum(dim=-1, keepdim=True) + EPSILON * power.shape[-1]
    return (energy.amax(dim=1, keepdim=True) / energy).sqrt()


@dataclass(frozen=True)
class _Framing:
    """Short-time Fourier transform with the frontend's frames, and its least-squares inverse."""

    window: Tensor
    n_fft: int
    hop_length: int

    @classmethod
    def of(cls, frontend: LogMelSpectrogram, device: torch.device) -> Self:
        window = torch.hann_window(frontend.win_length, device=device)
        space = frontend.n_fft - frontend.win_length  # on both sides, as torch.stft pads
        window = F.pad(window, (space // 2, space - space // 2))
        return cls(window, frontend.n_fft, frontend.hop_length)

    def analyze(self, waveform: Tensor) -> Tensor:
        """Transform `(B, S)` -> complex `(B, T, K)`, centered and reflected as in the frontend."""
        return torch.stft(
            waveform, self.n_fft, self.hop_length, window=self.window, return_complex=True
        ).transpose(1, 2)

    def synthesize(self, spectrum: Tensor, envelope: Tensor) -> Tensor:
        """Solve weighted least squares: complex `(B, T, K)`, times the weights -> `(B, S)`.

        torch.istft has no weights, rejects windows that leave a sample uncovered, and took at
        least twice as long (1 s of sound, one core, November 2026).
        """
        frames = torch.fft.irfft(spectrum, n=self.n_fft).mul_(self.window)
        return self._overlap_add(frames, envelope.shape[-1]) / envelope

    def envelope(self, weights: Tensor, num_samples: int) -> Tensor:
        """Sum of the weighted squared windows at each sample: `(B, T, 1)` -> `(B, S)`."""
        # Weights are at least 1: only samples that no window covers are below this.
        return self._overlap_add(self.window.square() * weights, num_samples).clamp(min=1e-8)

    def _overlap_add(self, frames: Tensor, num_samples: int) -> Tensor:
        """Add frames `(B, T, n_fft)` -> `(B, S)`, hop by hop for all frames at once."""
        num_clips, num_frames, _ = frames.shape
        parts = torch.split(frames, self.hop_length, dim=-1)
        hops = frames.new_zeros(num_clips, num_frames + len(parts), self.hop_length)
        for shift, part in enumerate(parts):
            hops[:, shift : shift + num_frames, : part.shape[-1]] += part
        return hops.flatten(start_dim=1)[:, self.n_fft // 2 :][:, :num_samples]


def _filters(frontend: LogMelSpectrogram, device: torch.device) -> Tensor:
    """Mel filters `(F, K)`, the same for all backends."""
    f = frontend
    return mel_filterbank(f.sample_rate, f.n_fft, f.n_mels, f.f_min, f.f_max).to(device)


def _read_mel(
    log_mel: Tensor, frontend: LogMelSpectrogram, statistics: Statistics | None, iterations: int
) -> Tensor:
    """Check, undo standardization and logarithm: `(B, T, F)`, including the floor."""
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1; got {iterations}")
    shape, bands = tuple(log_mel.shape), frontend.n_mels
    is_known = len(shape) in (2, 3) or (len(shape) == 4 and shape[1] == 1)
    if not is_known or shape[-2] != bands or 0 in shape:
        rule = f"(B, 1, {bands}, T), (B, {bands}, T) or ({bands}, T), not empty"
        raise ValueError(f"log_mel must be {rule}; got {shape}")
    if not log_mel.is_floating_point():
        raise ValueError(f"log_mel must be floating point, in nat; got {log_mel.dtype}")
    log_mel = log_mel.reshape(-1, bands, shape[-1]).float()
    if statistics is not None:
        log_mel = log_mel * statistics.std + statistics.mean
    highest = log_mel.amax().item()
    if not (log_mel.isfinite().all() and highest <= MAX_LOG_MEL):
        raise ValueError(
            f"log_mel must be finite and at most {MAX_LOG_MEL:g} nat; got a highest value of "
            f"{highest:g}. Give the statistics it was standardized with, and no decibels"
        )
    is_floor = log_mel < math.log(EPSILON) + 1e-5  # tolerance for rounding in standardization
    return log_mel.exp().masked_fill(is_floor, EPSILON).transpose(1, 2)


def _check_length(num_samples: int | None, num_frames: int, frontend: LogMelSpectrogram) -> int:
    """Check the requested length; by default the shortest that gives as many frames."""
    low = _shortest(num_frames, frontend)
    high = low + frontend.hop_length - 1
    if num_samples is None:
        return low if num_frames > 1 else max(high, 1)  # one frame alone would have no sample
    if not low <= num_samples <= high:
        rule = f"{low} to {high} for {num_frames} frames"
        raise ValueError(f"num_samples must be {rule}; got {num_samples}")
    return num_samples


def _shortest(num_frames: int, frontend: LogMelSpectrogram) -> int:
    """Fewest samples for `num_frames`; torch.stft pads `n_fft // 2` at both ends."""
    return frontend.hop_length * (num_frames - 1) + frontend.n_fft % 2


def _lengthen(mel: Tensor, frontend: LogMelSpectrogram) -> Tensor:
    """Repeat the last frame until a waveform of as many frames is long enough to reflect."""
    missing = frontend.min_samples - _shortest(mel.shape[1], frontend)
    more = max(0, -(-missing // frontend.hop_length))
    return torch.cat([mel, mel[:, -1:].expand(-1, more, -1)], dim=1)
