"""General-purpose audio embeddings learned with BYOL-A and randomized quantization."""

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

from byola_rq.errors import AudioError, ByolaRQError, CheckpointError, ConfigError

if TYPE_CHECKING:
    from byola_rq.audio.frontend import LogMelSpectrogram
    from byola_rq.audio.inversion import mel_to_audio
    from byola_rq.augment.crop import RandomResizedCrop
    from byola_rq.augment.dacl import DACL
    from byola_rq.augment.fader import RandomLinearFader
    from byola_rq.augment.mixup import Mixup
    from byola_rq.augment.quantize import RandomizedQuantization
    from byola_rq.augment.quantize_along import QuantizeAlong
    from byola_rq.augment.spec_augment import SpecAugment
    from byola_rq.embed.embedder import Embedder, load
    from byola_rq.model.byol import BYOL
    from byola_rq.model.imix import IMix
    from byola_rq.model.infonce import InfoNCE
    from byola_rq.model.ssql import SSQL

__all__ = [
    "BYOL",
    "DACL",
    "SSQL",
    "AudioError",
    "ByolaRQError",
    "CheckpointError",
    "ConfigError",
    "Embedder",
    "IMix",
    "InfoNCE",
    "LogMelSpectrogram",
    "Mixup",
    "QuantizeAlong",
    "RandomLinearFader",
    "RandomResizedCrop",
    "RandomizedQuantization",
    "SpecAugment",
    "load",
    "mel_to_audio",
]

__version__ = importlib.metadata.version("byola_rq")

# Loaded on first use, so that `byola-rq --help` does not import torch.
_MODULES = {
    "BYOL": "model.byol",
    "DACL": "augment.dacl",
    "Embedder": "embed.embedder",
    "IMix": "model.imix",
    "InfoNCE": "model.infonce",
    "LogMelSpectrogram": "audio.frontend",
    "Mixup": "augment.mixup",
    "QuantizeAlong": "augment.quantize_along",
    "RandomLinearFader": "augment.fader",
    "RandomResizedCrop": "augment.crop",
    "RandomizedQuantization": "augment.quantize",
    "SSQL": "model.ssql",
    "SpecAugment": "augment.spec_augment",
    "load": "embed.embedder",
    "mel_to_audio": "audio.inversion",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'byola_rq' has no attribute {name!r}")
    return getattr(importlib.import_module(f"byola_rq.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
