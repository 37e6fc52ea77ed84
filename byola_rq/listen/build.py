"""Sounds of a segment: the original, its inversion and its augmentations."""

import shlex
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from byola_rq.audio.frontend import LogMelSpectrogram
from byola_rq.augment.base import Augmentation
from byola_rq.augment.views import AUGMENTATIONS
from byola_rq.config import Config, default_config_path, load_config
from byola_rq.embed.embedder import Embedder, load
from byola_rq.errors import ConfigError
from byola_rq.listen.augmented import (
    Sound,
    Step,
    augment,
    invert,
    mean_distance,
    own_statistics,
    widest_band,
)
from byola_rq.listen.clip_demo import Listening, write_sounds
from byola_rq.listen.page import write_page
from byola_rq.listen.segments import Segment, read_beside, read_segment, synthesize_segments
from byola_rq.listen.similarity import Similarity, measure_similarity, untrained_twin
from byola_rq.runtime.rng import fold_in, sample_keys
from byola_rq.text.shown import shown

MAX_BINS = 4096  # far more than a band of a segment has values
_MAX_BESIDE = 6  # files to compare the views with

Augmentations = dict[str, Augmentation[Any]]


def listen_to_clip(
    config: Config,
    clip: Path,
    *,
    start: float | None = None,
    bins: Sequence[int] = (2, 5, 8, 15, 30),
    model: Embedder | None = None,
    model_name: str = "",
) -> Listening:
    """Apply the training's augmentations to a segment, and make each of them audible.

    The views are those of clip 0 in epoch 0. They are not standardized together as the views of a
    batch are, since that would remove their loudness. Single augmentations use the keys of view 1.

    Args:
        config: Options of segment, views and seed, and of the frontend if there is no model.
        clip: Audio file.
        start: Start of the segment in seconds; the loudest place by default.
        bins: Numbers of bins `K` to show.
        model: Model that provides frontend and statistics, and measures similarity; None for none.
        model_name: Name of the model on the page.

    Raises:
        AudioError: If the clip cannot be read, or `start` is not within it.
        ConfigError: If a number of bins is not within 1 to 4096.
    """
    if wrong := [each for each in bins if not 1 <= each <= MAX_BINS]:
        message = f"bins: must be within 1 to {MAX_BINS}; got {wrong[0]}"
        raise ConfigError(message, code="value", key="bins", value=wrong[0])
    frontend, seed = _frontend(config, model), config.run.seed
    rate = frontend.sample_rate
    num_samples = max(round(config.data.segment_seconds * rate), frontend.min_samples)
    key = sample_keys(seed, 0, torch.tensor([0]))
    segment = read_segment(clip, rate, num_samples, start)
    beside = read_beside(clip, rate, num_samples, most=_MAX_BESIDE, seed=seed)
    others = [*beside, *synthesize_segments(rate, num_samples, seed=seed)]
    maker = _Maker(config, segment, others, model)
    listening = maker.make(key, bins)
    if model is None:
        return listening
    return replace(
        listening,
        similarities=maker.compare(listening, key, model, model_name),
        beside=tuple(other.name for other in beside),
    )


def make_page(
    clip: Path,
    page: Path,
    *,
    start: float | None,
    seed: int,
    bins: Sequence[int],
    model: str,
    sounds: Path | None,
) -> Iterator[str]:
    """Write the page of `byola-rq listen`; yield a line for each output written.

    Raises:
        AudioError, CheckpointError, ConfigError: If clip, model, a number or a path is wrong.
        MissingPackageError: If matplotlib is not installed.
    """
    began = time.monotonic()
    config = load_config(default_config_path(), [f"run.seed={seed}"])
    embedder = load(model)
    name = model
    if release := embedder.release:
        name = f"{model} ({release['version']}, SHA-256 {release['sha256']:.12})"
    listening = listen_to_clip(
        config, clip, start=start, bins=bins, model=embedder, model_name=name
    )
    words = ["byola-rq", "listen", str(clip), "-o", str(page)]
    words += ["--start", f"{listening.segment.start_seconds:.10g}", "--seed", str(seed)]
    words += ["--bins", ",".join(map(str, bins)), "--model", model]
    size = write_page(listening, page, command=shown(shlex.join(words)))
    yield f"{page} ({size / 1e6:.2f} MB, {time.monotonic() - began:.1f} s)"
    if sounds:
        written = write_sounds(listening, sounds)
        about = f"{len(written)} wav files, gain {listening.gain:.4g}; sounds.csv"
        yield f"{sounds} ({about})"


def _frontend(config: Config, model: Embedder | None) -> LogMelSpectrogram:
    return model.frontend if model else LogMelSpectrogram(**config.frontend.model_dump())


class _Maker:
    """Makes the sounds of one segment."""

    def __init__(
        self, config: Config, segment: Segment, others: Sequence[Segment], model: Embedder | None
    ) -> None:
        self.config = config
        self.segment = segment
        self.others = others
        self.frontend = _frontend(config, model)
        self.log_mel = self.frontend(segment.waveform)  # (F, T)
        self.other_log_mels = [self.frontend(other.waveform) for other in others]
        self.statistics = model.statistics if model else own_statistics(self.log_mel)
        self.band = widest_band(self.log_mel)

    def make(self, key: Tensor, bins: Sequence[int]) -> Listening:
        """Augment the segment, then invert all results in one batch."""
        keys = fold_in(key, 1), fold_in(key, 2)
        crop, mixup = self._alone("random_resized_crop"), self._alone("mixup")
        made = [
            self._sound("crop", "Random resized crop", crop, keys[0]),
            self._sound("mixup", "Mixup", mixup, keys[0], keeps_frames=True),
            self._sound("view-1", "View 1", self.chain(), keys[0]),
            self._sound("view-2", "View 2", self.chain(), keys[1]),
        ]
        for each in dict.fromkeys(bins):
            quantization = self._alone("randomized_quantization", num_bins=each, p=1.0)
            name, title = f"quantized-{each}", f"K = {each}"
            made.append(self._sound(name, title, quantization, keys[0], keeps_frames=True))
        log_mels = [self.log_mel, *(sound.log_mel for sound in made)]
        waveforms = invert(log_mels, self.frontend, len(self.segment.waveform), self.seed)
        cropped, mixed, view_1, view_2, *quantized = (
            replace(sound, waveform=waveform)
            for sound, waveform in zip(made, waveforms[1:], strict=True)
        )
        other = self.others[0]
        return Listening(
            segment=self.segment,
            frontend=self.frontend,
            statistics=self.statistics,
            seed=self.seed,
            chain=tuple(self.config.views.augmentations),
            band=self.band,
            original=Sound("original", "Original", self.log_mel, self.segment.waveform),
            inversion=self._inversion(waveforms[0]),
            crop=cropped,
            quantized=tuple(quantized),
            mixed_in=Sound("mixed-in", other.name, self.other_log_mels[0], other.waveform),
            mixup=mixed,
            views=(view_1, view_2),
        )

    def compare(
        self, listening: Listening, key: Tensor, model: Embedder, name: str
    ) -> tuple[Similarity, ...]:
        """Measure the similarity of the sounds to the model and to its untrained twin."""
        others = {}
        for number, (other, log_mel) in enumerate(
            zip(self.others, self.other_log_mels, strict=True), start=1
        ):
            view_key = fold_in(fold_in(key, "other"), number)
            others[other.name] = self._augment(self.chain(), view_key, log_mel)[0]
        sounds = {
            sound.name: sound.log_mel for sound in listening.sounds if sound.name != "mixed-in"
        }
        view_1, view_2 = (view.log_mel for view in listening.views)
        return tuple(
            measure_similarity(
                encoder,
                encoder_name,
                views=(view_1, view_2),
                original=self.log_mel,
                sounds=sounds,
                others=others,
            )
            for encoder, encoder_name in ((model, name), (untrained_twin(model), "untrained"))
        )

    @property
    def seed(self) -> int:
        return self.config.run.seed

    def chain(self) -> Augmentations:
        """Augmentations of a view, in their order."""
        names = self.config.views.chain()
        return {name: each for part in names for name, each in self._alone(part).items()}

    def _alone(self, name: str, **changes: Any) -> Augmentations:
        """Build one augmentation from the configuration's options and `changes`."""
        options = getattr(self.config.views, name).model_dump() | changes
        if name == "mixup":
            options["memory"] = 1
        augmentation = AUGMENTATIONS[name](**options)
        augmentation.remember(self.statistics.standardize(self.other_log_mels[0])[None, None])
        return {name: augmentation}

    def _augment(
        self, augmentations: Augmentations, key: Tensor, log_mel: Tensor
    ) -> tuple[Tensor, tuple[Step, ...]]:
        other = None
        if "dacl" in augmentations:  # it mixes with another sample of the batch
            other = self.log_mel if log_mel is not self.log_mel else self.other_log_mels[0]
        return augment(augmentations, log_mel, self.statistics, key, band=self.band, other=other)

    def _sound(
        self,
        name: str,
        title: str,
        augmentations: Augmentations,
        key: Tensor,
        *,
        keeps_frames: bool = False,
    ) -> Sound:
        log_mel, steps = self._augment(augmentations, key, self.log_mel)
        distance = mean_distance(log_mel, self.log_mel) if keeps_frames else None
        return Sound(name, title, log_mel, torch.empty(0), steps, distance)

    def _inversion(self, waveform: Tensor) -> Sound:
        """Return the inverted sound, with the spectrogram of what is heard."""
        log_mel = self.frontend(waveform)
        distance = mean_distance(log_mel, self.log_mel)
        return Sound("inversion", "Clean inversion", log_mel, waveform, (), distance)
