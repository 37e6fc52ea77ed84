"""The mel scale and its triangular filters.

Source: Slaney, Auditory Toolbox (1998): linear below 1 kHz at 200 / 3 Hz per mel, logarithmic
above with 27 mel per factor of 6.4.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

_MEL_HERTZ = 200 / 3  # Hz per mel below the corner
_MEL_CORNER = 15.0  # mel; 1 kHz
_MEL_STEP = math.log(6.4) / 27  # log frequency per mel above the corner


def mel_filterbank(sample_rate: int, n_fft: int, n_mels: int, f_min: float, f_max: float) -> Tensor:
    """Return triangular mel filters of equal area, `(F, n_fft / 2 + 1)`."""
    corners = _mel_corners(n_mels, f_min, f_max)
    lower, center, upper = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    frequencies = np.fft.rfftfreq(n_fft, 1 / sample_rate)
    rising = (frequencies - lower) / (center - lower)
    falling = (upper - frequencies) / (upper - center)
    triangles = np.maximum(np.minimum(rising, falling), 0) * 2 / (upper - lower)
    return torch.from_numpy(triangles.astype(np.float32))


def mel_centers(n_mels: int, f_min: float, f_max: float) -> list[float]:
    """Center frequency of each mel band, in Hz."""
    return [float(corner) for corner in _mel_corners(n_mels, f_min, f_max)[1:-1]]


def _mel_corners(n_mels: int, f_min: float, f_max: float) -> Any:
    """Corner frequencies of all bands, in Hz; each band spans three neighboring corners."""
    return _mel_to_hertz(np.linspace(_hertz_to_mel(f_min), _hertz_to_mel(f_max), n_mels + 2))


def _hertz_to_mel(hertz: Any) -> Any:
    above = _MEL_CORNER + np.log(np.maximum(hertz, 1e-9) / 1000) / _MEL_STEP
    return np.where(hertz < 1000, hertz / _MEL_HERTZ, above)


def _mel_to_hertz(mel: Any) -> Any:
    above = 1000 * np.exp((mel - _MEL_CORNER) * _MEL_STEP)
    return np.where(mel < _MEL_CORNER, mel * _MEL_HERTZ, above)
