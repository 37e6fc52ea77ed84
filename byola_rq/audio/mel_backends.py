"""Mel power spectrograms by the libraries that have them, all to one definition."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from byola_rq.audio._torchaudio import import_torchaudio
from byola_rq.errors import package_needed


def build_torchaudio(**options: Any) -> nn.Module:
    """torchaudio's, `(B, S)` -> `(B, F, T)`."""
    transform: nn.Module = import_torchaudio().transforms.MelSpectrogram(
        power=2.0,
        center=True,
        pad_mode="reflect",
        norm="slaney",
        mel_scale="slaney",
        **options,
    )
    return _without_state(transform)


def build_nnaudio(*, sample_rate: int, f_min: float, f_max: float, **counts: int) -> nn.Module:
    """nnAudio's, `(B, S)` -> `(B, F, T)`.

    Raises:
        MissingPackageError: If it is not installed.
    """
    with package_needed("frontend.backend=nnaudio", "nnAudio", extra="frontends"):
        from nnAudio.features.mel import MelSpectrogram
    transform: nn.Module = MelSpectrogram(
        sr=sample_rate,
        fmin=f_min,
        fmax=f_max,
        power=2.0,
        center=True,
        pad_mode="reflect",
        verbose=False,
        **counts,
    )
    return _without_state(transform)


class LibrosaMel(nn.Module):
    """librosa's, `(B, S)` -> `(B, F, T)`, on the CPU, clip by clip, without gradient.

    Raises:
        MissingPackageError: If it is not installed.
    """

    def __init__(self, *, sample_rate: int, f_min: float, f_max: float, **counts: int) -> None:
        super().__init__()
        _import_librosa()
        self._options = {"sr": sample_rate, "fmin": f_min, "fmax": f_max, **counts}

    def forward(self, waveform: Tensor) -> Tensor:
        """Compute it."""
        mel = _import_librosa().feature.melspectrogram(
            y=waveform.detach().cpu().numpy(), pad_mode="reflect", **self._options
        )
        return torch.from_numpy(np.ascontiguousarray(mel)).to(waveform.device)


# By the name in config.yaml; each takes the options of `LogMelSpectrogram`.
MEL_BACKENDS: Mapping[str, Callable[..., nn.Module]] = {
    "torchaudio": build_torchaudio,
    "nnaudio": build_nnaudio,
    "librosa": LibrosaMel,
}


def _without_state(module: nn.Module) -> nn.Module:
    """The module with its buffers kept out of state dicts: they follow from the arguments."""
    for part in module.modules():
        for name, buffer in list(part.named_buffers(recurse=False)):
            part.register_buffer(name, buffer, persistent=False)
    return module


def _import_librosa() -> Any:
    with package_needed("frontend.backend=librosa", "librosa", extra="frontends"):
        import librosa
    return librosa
