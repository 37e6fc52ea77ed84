"""Audio embeddings as a scikit-learn transformer."""

import math
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from torch import Tensor

from byola_rq.audio.io import SAMPLE_RATE, inspect_audio, pad_both_ends, read_audio
from byola_rq.audio.waveforms import as_rows
from byola_rq.embed.embedder import Embedder, load
from byola_rq.errors import AudioError, ConfigError, package_needed
from byola_rq.model.builtin import NAME

with package_needed("byola_rq.sklearn", "scikit-learn", extra="evaluate"):
    from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
    from sklearn.utils.validation import check_array, check_is_fitted

UNTRAINED = "untrained"


class AudioEmbedder(
    ClassNamePrefixFeaturesOutMixin,  # type: ignore[misc]
    TransformerMixin,  # type: ignore[misc]
    BaseEstimator,  # type: ignore[misc]
):
    """Transformer from sounds to embeddings; `fit` only loads the model.

    `fit` and `transform` take a sequence of n paths of audio files, a sequence of n waveforms
    `(S,)` of any lengths, or an array `(n, S)`. Float waveforms are in [-1, 1]; uint8, int16 and
    int32 use full scale, as in a WAV file.

    Args:
        model: Model file, hub id or `builtin` (see `byola_rq.load`), an `Embedder`, or `untrained`:
            an encoder with random weights, as a baseline.
        sample_rate: Sample rate of waveforms, in Hz; files have their own.
        device: Device to load the model to, such as "cuda"; an `Embedder` stays on its device.
        short: Treatment of sounds under 0.1 s: `error`, or `pad` with zeros at both ends.

    Attributes:
        embedder_: Model loaded by `fit`.
    """

    def __init__(
        self,
        model: Path | str | Embedder = NAME,
        *,
        sample_rate: int = SAMPLE_RATE,
        device: str = "cpu",
        short: Literal["error", "pad"] = "error",
    ) -> None:
        # Arguments are stored unchanged and unchecked: scikit-learn's clone compares them.
        self.model = model
        self.sample_rate = sample_rate
        self.device = device
        self.short = short

    def fit(self, X: Any, y: Any = None) -> Self:  # noqa: ARG002, N803
        """Load the model.

        Args:
            X: Sounds; their form is checked, nothing is embedded.
            y: Ignored.

        Raises:
            ConfigError: If `short` is neither `error` nor `pad`.
            CheckpointError: If the model cannot be loaded.
            ValueError, TypeError: If the sounds have another form.
        """
        if self.short not in ("error", "pad"):
            rule = f"short must be error or pad; got {self.short!r}"
            raise ConfigError(rule, code="value", key="short", value=self.short)
        _as_sounds(X)
        self.embedder_ = self._load()
        self._n_features_out = self.embedder_.embedding_dim
        return self

    def transform(self, X: Any) -> npt.NDArray[np.float32]:  # noqa: N803
        """Embed every sound.

        Args:
            X: Sounds as above; lengths may differ from those in `fit`.

        Returns:
            Embeddings, float32 `(n, D)`.

        Raises:
            NotFittedError: Before `fit`.
            AudioError: If a file cannot be read, or a sound is too short or not finite.
            ValueError, TypeError: If the sounds have another form.
        """
        check_is_fitted(self)
        sounds = _as_sounds(X)
        if isinstance(sounds[0], Path):
            return self._embed_files([Path(path) for path in sounds])
        embeddings = self.embedder_([self._long_enough(each) for each in sounds], self.sample_rate)
        return np.asarray(embeddings.cpu().numpy())

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = True
        tags.input_tags.string = True  # paths
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    def _load(self) -> Embedder:
        if isinstance(self.model, Embedder):
            return self.model
        if self.model == UNTRAINED:
            return Embedder.untrained().to(self.device)
        return load(self.model, self.device)

    def _embed_files(self, paths: list[Path]) -> npt.NDArray[np.float32]:
        model, rate = self.embedder_, self.embedder_.sample_rate
        if self.short == "error":
            return np.asarray(model.embed_files(paths).numpy())
        is_short = np.array(
            [inspect_audio(path).num_samples_at(rate) < model.clips.min_samples for path in paths]
        )
        rows = np.empty((len(paths), model.embedding_dim), np.float32)
        for place in np.flatnonzero(is_short):
            padded = pad_both_ends(read_audio(paths[place], rate), model.clips.min_samples)
            rows[place] = model(padded, rate)[0].cpu().numpy()
        if not is_short.all():
            long = [path for path, short in zip(paths, is_short, strict=True) if not short]
            rows[~is_short] = model.embed_files(long).numpy()
        return rows

    def _long_enough(self, waveform: Tensor) -> Tensor:
        if self.short == "error":
            return waveform  # the model raises an error for short sounds
        model = self.embedder_
        return pad_both_ends(
            waveform, math.ceil(model.clips.min_samples * self.sample_rate / model.sample_rate)
        )


def _as_sounds(sounds: Any) -> list[Path] | list[Tensor]:
    """Convert to paths or checked float32 waveforms `(S,)`; else raise scikit-learn's errors."""
    if isinstance(sounds, (str, Path)):
        raise TypeError(f"sounds must be a sequence of paths or waveforms; got one path, {sounds}")
    items = _as_list(sounds)
    if isinstance(sounds, (list, tuple)) and not items:
        rule = "sounds: must be at least one path or waveform; got none (0 samples)"
        raise AudioError(rule, code="empty", key="sounds")
    if items and all(isinstance(item, (str, Path)) for item in items):
        return [Path(item) for item in items]
    if items and all(np.ndim(item) == 1 for item in items):
        return list(as_rows(items))  # of any lengths
    if isinstance(sounds, Tensor):
        sounds = sounds.detach().cpu().numpy()
    # Row by row: scikit-learn's checks call with many samples of a few features.
    return list(as_rows(list(check_array(sounds, dtype="numeric", force_writeable=True))))


def _as_list(sounds: Any) -> list[Any]:
    """Return items that may be paths or waveforms, of a list, object array or table column."""
    if isinstance(sounds, (list, tuple)):
        return list(sounds)
    values: Any = np.asarray(sounds) if hasattr(sounds, "__array__") else np.empty(0)
    is_column = values.ndim == 1 or (values.ndim == 2 and values.shape[1] == 1)
    return list(values.ravel()) if is_column and values.dtype.kind in "OUT" else []
