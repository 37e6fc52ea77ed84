"""Mel power spectrograms computed by other libraries, all with one definition."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from byola_rq.audio._torchaudio import import_torchaudio
from byola_rq.errors import package_needed


def build_torchaudio(**options: Any) -> nn.Module:
    """Build torchaudio's mel spectrogram, `(B, S)` -> `(B, F, T)`."""
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
    """Build nnAudio's mel spectrogram, `(B, S)` -> `(B, F, T)`.

    Raises:
        MissingPackageError: If nnAudio is not installed.
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
    """Mel spectrogram of librosa, `(B, S)` -> `(B, F, T)`, on the CPU and without gradient.

    Raises:
        MissingPackageError: If librosa is not installed.
    """

    def __init__(self, *, sample_rate: int, f_min: float, f_max: float, **counts: int) -> None:
        super().__init__()
        _import_librosa()
        self._options = {"sr": sample_rate, "fmin": f_min, "fmax": f_max, **counts}

    def forward(self, waveform: Tensor) -> Tensor:
        """Compute the mel power spectrogram."""
        mel = _import_librosa().feature.melspectrogram(
            y=waveform.detach().cpu().numpy(), pad_mode="reflect", **self._options
        )
        return torch.from_numpy(np.ascontiguousarray(mel)).to(waveform.device)


# Keys are the names in config.yaml; each takes the options of `LogMelSpectrogram`.
MEL_BACKENDS: Mapping[str, Callable[..., nn.Module]] = {
    "torchaudio": build_torchaudio,
    "nnaudio": build_nnaudio,
    "librosa": LibrosaMel,
}


def _without_state(module: nn.Module) -> nn.Module:
    """Exclude the module's buffers from state dicts: they follow from the arguments."""
    for part in module.modules():
        for name, buffer in list(part.named_buffers(recurse=False)):
            part.register_buffer(name, buffer, persistent=False)
    return module


def _import_librosa() -> Any:
    with package_needed("frontend.backend=librosa", "librosa", extra="frontends"):
        import librosa
    return librosa
