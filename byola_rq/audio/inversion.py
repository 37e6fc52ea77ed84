"""Log-mel spectrogram -> waveform."""

import math
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from byola_rq.audio.frontend import EPSILON, LogMelSpectrogram, Statistics
from byola_rq.audio.mel import mel_filterbank

MAX_LOG_MEL = 30.0  # nat; a full-scale sine reaches 7
START_ITERATIONS = 5  # of the linear fit; the phase loop goes on fitting
MOMENTUM = 0.9  # measured: with the mel fitted in the loop, the usual 0.99 leaves half more error


@torch.no_grad()
def mel_to_linear(
    log_mel: Tensor,
    frontend: LogMelSpectrogram,
    *,
    statistics: Statistics | None = None,
    iterations: int = 50,
) -> Tensor:
    """Find a non-negative linear power spectrogram with the given log-mel spectrogram.

    Of the many that fit, one near the bands spread smoothly over their filters. Frequencies that
    no filter sees stay 0. Each frame is fitted by itself.

    Args:
        log_mel: `(B, 1, F, T)`, `(B, F, T)` or `(F, T)`, in nat; what is below the frontend's
            floor counts as the floor.
        frontend: That made it.
        statistics: With which it was standardized; `None` if it was not.
        iterations: Multiplicative updates, at least 1.

    Returns:
        Power, float32 `(B, n_fft // 2 + 1, T)`, on the device of the input.

    Raises:
        ValueError: If an argument breaks a rule above, or a value is not finite or above 30 nat.

    Source: Févotte, Bertin and Durrieu (Neural Computation 2009), the multiplicative update for
    the Itakura-Saito divergence. It weighs relative errors, which are the errors of a log-mel;
    least squares would spend its effort on the loud bands.
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
    """Make a sound whose log-mel spectrogram is the given one, up to a few hundredths of a nat.

    Fast Griffin-Lim with one difference: a round does not put fixed linear magnitudes back, it
    scales those it finds so that their mel fits. Magnitudes that the mel leaves open can so agree
    with the phases; with fixed ones three times the error stays. It starts from white noise
    shaped by the linear fit, the same noise for all clips of a batch.

    Loudness is that of the log-mel: nothing is normalized or clipped, so samples can exceed 1.
    (Of a tone below the first band's centre or above the last one's a mel cannot tell the level.)
    On the CPU clips go one by one: a clip gives the same bits whatever is beside it.

    Args:
        log_mel: As `mel_to_linear` takes it.
        frontend: That made it; any backend.
        statistics: With which it was standardized; `None` if it was not.
        iterations: Rounds, at least 1; twice as many leave half to two thirds of the error.
        seed: Of the noise.
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
    """The phase loop: `mel (B, T, F)`, `noise (1, S)` -> waveform `(B, S)`."""
    power = _fit_power(mel, filters, START_ITERATIONS)
    weights = _frame_weights(power)
    envelope = framing.envelope(weights, noise.shape[-1])
    # The frames' weights are in it, squared as all powers.
    share = weights.square() / (mel.reciprocal() @ filters).clamp(min=1e-20)  # (B, T, K)
    start = framing.analyse(noise)
    start = start / start.abs().clamp(min=1e-9) * power.sqrt() * weights
    waveform = framing.synthesize(start, envelope)
    previous = framing.analyse(waveform)
    for _ in range(iterations):
        spectrum = framing.analyse(waveform)
        # In place, on real and imaginary parts: a product of complex and real would copy both.
        ahead = torch.view_as_real(previous).mul_(-MOMENTUM)
        ahead.add_(torch.view_as_real(spectrum), alpha=1 + MOMENTUM)
        found = (ahead[..., 0].square() + ahead[..., 1].square()) @ filters.T + EPSILON
        # A bin's power changes by target / found of its bands, averaged with weights 1 / target
        # so that of two bands the quieter one counts: a bin may not be louder than it allows.
        gain = (found.reciprocal_() @ filters).mul_(share).sqrt_()
        fitted = torch.view_as_complex(ahead.mul_(gain[..., None]))
        waveform = framing.synthesize(fitted, envelope)
        previous = spectrum
    return waveform


def _fit_power(mel: Tensor, filters: Tensor, iterations: int) -> Tensor:
    """Multiplicative updates: `mel (B, T, F)` with the floor in it -> power `(B, T, K)`."""
    sums = filters.sum(dim=1).clamp(min=1e-20)
    peaks = filters.amax(dim=1, keepdim=True).clamp(min=1e-20)
    power = ((mel - EPSILON) / sums) @ (filters / peaks)
    for _ in range(iterations):
        inverse = (power @ filters.T + EPSILON).reciprocal_()
        power *= (mel * inverse * inverse) @ filters
        power /= (inverse @ filters).clamp_(min=1e-20)
    return power


def _frame_weights(power: Tensor) -> Tensor:
    """What a frame has to say where it overlaps others, at least 1: `(B, T, 1)`."""
    # Little of a loud neighbour spoils a quiet frame: more weight for it took up to 40 % of the
    # error from spoken words. The square root was the best power.
    energy = power.sum(dim=-1, keepdim=True) + EPSILON * power.shape[-1]
    return (energy.amax(dim=1, keepdim=True) / energy).sqrt()


@dataclass(frozen=True)
class _Framing:
    """The frontend's frames of a waveform, and the waveform nearest to given frames."""

    window: Tensor
    n_fft: int
    hop_length: int

    @classmethod
    def of(cls, frontend: LogMelSpectrogram, device: torch.device) -> Self:
        window = torch.hann_window(frontend.win_length, device=device)
        space = frontend.n_fft - frontend.win_length  # on both sides, as torch.stft pads
        window = F.pad(window, (space // 2, space - space // 2))
        return cls(window, frontend.n_fft, frontend.hop_length)

    def analyse(self, waveform: Tensor) -> Tensor:
        """`(B, S)` -> complex `(B, T, K)`, centred and reflected as the frontend does."""
        return torch.stft(
            waveform, self.n_fft, self.hop_length, window=self.window, return_complex=True
        ).transpose(1, 2)

    def synthesize(self, spectrum: Tensor, envelope: Tensor) -> Tensor:
        """Weighted least squares: complex `(B, T, K)`, times the weights -> `(B, S)`.

        torch.istft knows no weights, refuses windows that leave a sample uncovered, and took at
        least twice as long (1 s of sound, one core, November 2026).
        """
        frames = torch.fft.irfft(spectrum, n=self.n_fft).mul_(self.window)
        return self._overlap_add(frames, envelope.shape[-1]) / envelope

    def envelope(self, weights: Tensor, num_samples: int) -> Tensor:
        """Sum of the weighted squared windows over each sample: `(B, T, 1)` -> `(B, S)`."""
        # Weights are at least 1: what is below this is a sample that no window covers.
        return self._overlap_add(self.window.square() * weights, num_samples).clamp(min=1e-8)

    def _overlap_add(self, frames: Tensor, num_samples: int) -> Tensor:
        """`(B, T, n_fft)` -> `(B, S)`; cut into hops, all frames can be added at once."""
        num_clips, num_frames, _ = frames.shape
        parts = torch.split(frames, self.hop_length, dim=-1)
        hops = frames.new_zeros(num_clips, num_frames + len(parts), self.hop_length)
        for shift, part in enumerate(parts):
            hops[:, shift : shift + num_frames, : part.shape[-1]] += part
        return hops.flatten(start_dim=1)[:, self.n_fft // 2 :][:, :num_samples]


def _filters(frontend: LogMelSpectrogram, device: torch.device) -> Tensor:
    """`(F, K)`; all backends have the same."""
    f = frontend
    return mel_filterbank(f.sample_rate, f.n_fft, f.n_mels, f.f_min, f.f_max).to(device)


def _read_mel(
    log_mel: Tensor, frontend: LogMelSpectrogram, statistics: Statistics | None, iterations: int
) -> Tensor:
    """Check, undo standardization and logarithm: `(B, T, F)`, the floor still in it."""
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
    is_floor = log_mel < math.log(EPSILON) + 1e-5  # rounding, also of standardization
    return log_mel.exp().masked_fill(is_floor, EPSILON).transpose(1, 2)


def _check_length(num_samples: int | None, num_frames: int, frontend: LogMelSpectrogram) -> int:
    """The length asked for, or the shortest that gives as many frames."""
    low = _shortest(num_frames, frontend)
    high = low + frontend.hop_length - 1
    if num_samples is None:
        return low if num_frames > 1 else max(high, 1)  # one frame alone would be no sample
    if not low <= num_samples <= high:
        rule = f"{low} to {high} for {num_frames} frames"
        raise ValueError(f"num_samples must be {rule}; got {num_samples}")
    return num_samples


def _shortest(num_frames: int, frontend: LogMelSpectrogram) -> int:
    """Samples; torch.stft pads `n_fft // 2` at both ends, one less than an odd `n_fft`."""
    return frontend.hop_length * (num_frames - 1) + frontend.n_fft % 2


def _lengthen(mel: Tensor, frontend: LogMelSpectrogram) -> Tensor:
    """Repeat the last frame until the frontend, which reflects the ends, could make as many."""
    missing = frontend.min_samples - _shortest(mel.shape[1], frontend)
    more = max(0, -(-missing // frontend.hop_length))
    return torch.cat([mel, mel[:, -1:].expand(-1, more, -1)], dim=1)
