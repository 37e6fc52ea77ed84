"""General-purpose audio embeddings learned with BYOL-A and randomized quantization."""

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

from byola_rq.errors import AudioError, ByolaRQError, CheckpointError, ConfigError

if TYPE_CHECKING:
    from byola_rq.any_quantization import QuantizeAlong
    from byola_rq.crop import RandomResizedCrop
    from byola_rq.embedder import Embedder, load
    from byola_rq.fader import RandomLinearFader
    from byola_rq.frontend import LogMelSpectrogram
    from byola_rq.inversion import mel_to_audio
    from byola_rq.mixup import Mixup
    from byola_rq.quantize import RandomizedQuantization

__all__ = [
    "AudioError",
    "ByolaRQError",
    "CheckpointError",
    "ConfigError",
    "Embedder",
    "LogMelSpectrogram",
    "Mixup",
    "QuantizeAlong",
    "RandomLinearFader",
    "RandomResizedCrop",
    "RandomizedQuantization",
    "load",
    "mel_to_audio",
]

__version__ = importlib.metadata.version("byola_rq")

# Loaded on first use, so that `byola-rq --help` need not wait for torch.
_MODULES = {
    "Embedder": "embedder",
    "LogMelSpectrogram": "frontend",
    "Mixup": "mixup",
    "QuantizeAlong": "any_quantization",
    "RandomLinearFader": "fader",
    "RandomResizedCrop": "crop",
    "RandomizedQuantization": "quantize",
    "load": "embedder",
    "mel_to_audio": "inversion",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'byola_rq' has no attribute {name!r}")
    return getattr(importlib.import_module(f"byola_rq.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
