"""Standardize features, a chunk of clips at a time."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from sklearn.preprocessing import StandardScaler
from torch import Tensor

_CHUNK_CLIPS = 4096  # at D = 2048 the float64 temporaries of a chunk take 64 MiB each

Features = npt.NDArray[np.float32]


def fit_scaler(features: Features) -> StandardScaler:
    """Fit mean and standard deviation of every dimension of `features (N, D)`.

    In chunks: scikit-learn would make float64 copies of the whole array.

    Raises:
        ValueError: If a feature is not finite.
    """
    scaler = StandardScaler()
    for _, chunk in _chunks(features):
        scaler.partial_fit(chunk)
    return scaler


def scale(scaler: StandardScaler, features: Features, device: str) -> Tensor:
    """Standardize `features (N, D)`: a float32 copy on the device.

    Raises:
        ValueError: If a feature is not finite.
    """
    scaled = torch.empty(features.shape, dtype=torch.float32, device=device)
    for start, chunk in _chunks(features):
        scaled[start : start + len(chunk)] = torch.from_numpy(scaler.transform(chunk))
    return scaled


def _chunks(features: Features) -> Iterator[tuple[int, Features]]:
    for start in range(0, len(features), _CHUNK_CLIPS):
        chunk = np.asarray(features[start : start + _CHUNK_CLIPS], dtype=np.float32)
        is_finite = np.isfinite(chunk).all(axis=1)
        if not is_finite.all():
            row = start + int(is_finite.argmin())
            raise ValueError(
                f"features must be finite; got nan or infinity in row {row} of {len(features)}"
            )
        yield start, chunk
