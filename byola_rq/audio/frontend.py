"""Waveform -> log-mel spectrogram, batched, on the waveform's device; standardization."""

import math
import operator
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from byola_rq.audio.io import SAMPLE_RATE
from byola_rq.audio.log_mel import group_bands, log_mel_in_pieces
from byola_rq.audio.mel import mel_filterbank
from byola_rq.audio.mel_backends import MEL_BACKENDS
from byola_rq.config import FRONTEND_LIMITS

Backend = Literal["torch", "nnaudio", "torchaudio", "librosa"]

EPSILON = torch.finfo(torch.float32).eps  # added to the mel power before the logarithm


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation over all elements of a corpus's log-mel spectrograms."""

    mean: float
    std: float

    def standardize(self, log_mel: Tensor) -> Tensor:
        """Shift and scale to zero mean and unit variance over the corpus."""
        return (log_mel - self.mean) / self.std


def measure_statistics(log_mels: Iterable[Tensor]) -> Statistics:
    """Compute the mean and standard deviation over all elements of the batches.

    Raises:
        ValueError: If there is no element, or all are equal (there is no scale to divide by).
    """
    count, total, total_of_squares = 0, 0.0, 0.0
    for log_mel in log_mels:
        # Apple's GPUs have no float64.
        values = (log_mel.cpu() if log_mel.device.type == "mps" else log_mel).double()
        count += values.numel()
        total += values.sum().item()
        total_of_squares += values.square().sum().item()
    if count == 0:
        raise ValueError("statistics need at least one log-mel spectrogram; got none")
    mean = total / count
    variance = total_of_squares / count - mean**2
    # Below this the difference of the two sums is rounding error.
    if not variance > 1e-9 * max(mean**2, 1.0):
        raise ValueError(f"log-mel spectrograms must not be constant; all are {mean:.4g}")
    return Statistics(mean=mean, std=math.sqrt(variance))


class LogMelSpectrogram(nn.Module):
    """Natural log of the mel power spectrogram: `(..., S)` -> `(..., F, T)`.

    Hann window, power 2, centered frames with reflected ends (`T = 1 + S // hop_length`), Slaney
    mel scale and area norm, `log(mel + float32 eps)`. The four backends agree within 1e-3.

    Args:
        sample_rate: Sample rate of the waveform in Hz.
        n_fft: FFT length in samples; the waveform must be longer than half of it.
        win_length: Window length in samples, centered in the FFT frame.
        hop_length: Samples from frame to frame.
        n_mels: Mel bands `F`.
        f_min: Lower end of the lowest band, in Hz.
        f_max: Upper end of the highest band, in Hz, at most half the sample rate.
        backend: Library that computes the mel spectrogram: `torch` (this module), `nnaudio`,
            `torchaudio` or `librosa` (on the CPU, clip by clip).

    Raises:
        ValueError: If an argument breaks a rule above.
        MissingPackageError: If the backend's library is not installed.

    Source: Niizumi et al., BYOL for Audio (arXiv:2103.06695).
    """

    def __init__(
        self,
        sample_rate: int = SAMPLE_RATE,
        *,
        n_fft: int = 1024,
        win_length: int = 1024,
        hop_length: int = 160,
        n_mels: int = 64,
        f_min: float = 60,
        f_max: float = 7800,
        backend: Backend = "torch",
    ) -> None:
        super().__init__()
        self.sample_rate = sample_rate
        self.n_fft = n_fft
        self.win_length = win_length
        self.hop_length = hop_length
        self.n_mels = n_mels
        self.f_min = f_min
        self.f_max = f_max
        self.backend: Backend = backend
        _check_options(**self.options)
        if backend == "torch":
            filters = mel_filterbank(sample_rate, n_fft, n_mels, f_min, f_max)
            # Of this type and device whatever torch's defaults are, as the filters.
            window = torch.hann_window(win_length, dtype=torch.float32, device="cpu")
            before = (n_fft - win_length) // 2
            window = F.pad(window, (before, n_fft - win_length - before))
            self._groups = group_bands(filters)
            self.register_buffer("window", window, persistent=False)
            self.register_buffer("filters", filters, persistent=False)
        else:
            options = {name: value for name, value in self.options.items() if name != "backend"}
            self.mel = MEL_BACKENDS[backend](**options)

    @property
    def options(self) -> dict[str, Any]:
        """Constructor arguments that rebuild this frontend."""
        names = ("sample_rate", "n_fft", "win_length", "hop_length", "n_mels", "f_min", "f_max")
        return {name: getattr(self, name) for name in (*names, "backend")}

    @property
    def min_samples(self) -> int:
        """Length of the shortest waveform, in samples, that reflection at both ends allows."""
        return self.n_fft // 2 + 1

    def forward(self, waveform: Tensor) -> Tensor:
        """Compute the log-mel spectrogram, in float32 also under autocast.

        Args:
            waveform: `(..., S)` in [-1, 1] at `sample_rate`, S at least `min_samples`.

        Returns:
            Log-mel spectrogram, float32 `(..., F, T)`, in nat.

        Raises:
            ValueError: If the waveform is too short or not floating point.
        """
        if not waveform.is_floating_point():
            raise ValueError(f"waveform must be floating point in [-1, 1]; got {waveform.dtype}")
        if waveform.shape[-1] < self.min_samples:
            raise ValueError(
                f"waveform must have at least {self.min_samples} samples; got {waveform.shape[-1]}"
            )
        rows = waveform.reshape(-1, waveform.shape[-1]).float()  # (B, S)
        with torch.autocast(rows.device.type, enabled=False):
            log_mel = self._log_mel(rows)  # (B, F, T)
            return log_mel.reshape(*waveform.shape[:-1], *log_mel.shape[-2:])

    def _log_mel(self, waveform: Tensor) -> Tensor:
        is_differentiated = waveform.requires_grad and torch.is_grad_enabled()
        if self.backend != "torch" or is_differentiated:
            return (self._mel_power(waveform) + EPSILON).log()
        return log_mel_in_pieces(
            waveform,
            window=self.get_buffer("window"),
            filters=self.get_buffer("filters"),
            groups=self._groups,
            hop_length=self.hop_length,
            epsilon=EPSILON,
        )

    def _mel_power(self, waveform: Tensor) -> Tensor:
        if self.backend != "torch":
            mel: Tensor = self.mel(waveform)
            return mel
        spectrum = torch.stft(
            waveform,
            self.n_fft,
            hop_length=self.hop_length,
            window=self.get_buffer("window"),
            center=True,
            pad_mode="reflect",
            return_complex=True,
        )  # (B, n_fft / 2 + 1, T)
        power = torch.view_as_real(spectrum).square().sum(dim=-1)
        return self.get_buffer("filters") @ power


def _check_options(*, backend: str, f_min: float, f_max: float, **counts: int) -> None:
    if backend not in get_args(Backend):
        known = ", ".join(get_args(Backend))
        raise ValueError(f"backend must be one of {known}; got {backend!r}")
    for name, value in counts.items():
        if type(value) is bool or operator.index(value) < 1:
            raise ValueError(f"{name} must be at least 1; got {value}")
        if value > FRONTEND_LIMITS[name]:
            raise ValueError(f"{name} must be at most {FRONTEND_LIMITS[name]}; got {value}")
    if counts["win_length"] > counts["n_fft"]:
        raise ValueError(
            f"win_length must be at most n_fft ({counts['n_fft']}); got {counts['win_length']}"
        )
    highest = counts["sample_rate"] / 2
    if not 0 <= f_min < f_max <= highest:
        raise ValueError(
            f"f_min and f_max must be in order within 0 to {highest:g} Hz; "
            f"got {f_min:g} and {f_max:g}"
        )
