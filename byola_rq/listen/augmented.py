"""Augmentations of one log-mel spectrogram with their drawn parameters, to show and to play."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from byola_rq.audio.frontend import LogMelSpectrogram, Statistics, measure_statistics
from byola_rq.audio.inversion import mel_to_audio
from byola_rq.augment.base import Augmentation
from byola_rq.augment.crop import CropBoxes
from byola_rq.augment.dacl import DaclNoise
from byola_rq.augment.fader import FaderGains
from byola_rq.augment.mixup import MixupParameters
from byola_rq.augment.quantize import QuantizationBins
from byola_rq.augment.spec_augment import Masks
from byola_rq.runtime.rng import fold_in


@dataclass(frozen=True)
class CropDrawn:
    """Drawn crop: the canvas, `(bands, frames)` in nat, and the box on it in bands and frames."""

    canvas: Tensor
    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class BandDrawn:
    """Drawn quantizer of one band and its effect, all in nat.

    `edges`: inner edges, `(K - 1,)`. `values`: reproduction values, `(K,)`. `before`, `after`: the
    band over time, `(T,)`.
    """

    band: int
    edges: Tensor
    values: Tensor
    before: Tensor
    after: Tensor


@dataclass(frozen=True)
class Step:
    """Augmentation of a chain: the key that reproduces it, and its drawn parameters.

    `share`: weight of the other sound in mixup or DACL. `ends`: first and last gain of a fader in
    nat. `masks`: SpecAugment's masked bands and frames, as half-open ranges.
    """

    name: str
    key: int
    is_applied: bool = True
    crop: CropDrawn | None = None
    band: BandDrawn | None = None
    share: float | None = None
    ends: tuple[float, float] | None = None
    masks: dict[str, list[tuple[int, int]]] | None = None


@dataclass(frozen=True)
class Sound:
    """Spectrogram and waveform of one sound on the page.

    `log_mel` is `(F, T)` in nat, `waveform` `(S,)` at the frontend's rate. `distance` is the mean
    absolute difference from the original in nat; None if the frames do not correspond.
    """

    name: str
    title: str
    log_mel: Tensor
    waveform: Tensor
    steps: tuple[Step, ...] = ()
    distance: float | None = None


def augment(
    augmentations: Mapping[str, Augmentation[Any]],
    log_mel: Tensor,
    statistics: Statistics,
    key: Tensor,
    *,
    band: int,
    other: Tensor | None = None,
) -> tuple[Tensor, tuple[Step, ...]]:
    """Apply augmentations as for a view, and return their drawn parameters.

    Args:
        augmentations: Augmentations by name, in the order of use.
        log_mel: Log-mel spectrogram `(F, T)`, in nat.
        statistics: Statistics to standardize by before, and to undo after.
        key: Key of the view, int64 `(1,)`; each augmentation's key is derived by name, as in
            `Views`.
        band: Index of the band whose quantizer is returned.
        other: Second spectrogram of the batch, `(F, T)` in nat, for augmentations that mix samples.

    Returns:
        The augmented spectrogram, `(F, T)` in nat, and a step for each augmentation.
    """
    batch = log_mel[None] if other is None else torch.stack((log_mel, other))
    x = statistics.standardize(batch)[:, None]
    key = torch.cat([key, *[fold_in(key, "other")] * (len(x) - 1)])
    steps = []
    for name, augmentation in augmentations.items():
        step_key = fold_in(key, name)
        parameters = augmentation.draw(x, step_key)
        before, x = x, augmentation.apply(x, parameters)
        step = Step(name, int(step_key[0]))
        steps.append(_with_drawn(step, parameters, before, x, statistics=statistics, band=band))
    return _in_nat(x[0, 0], statistics), tuple(steps)


def invert(
    log_mels: Sequence[Tensor], frontend: LogMelSpectrogram, num_samples: int, seed: int
) -> Tensor:
    """Invert spectrograms, `(F, T)` each in nat, in one batch: waveforms `(B, S)`."""
    return mel_to_audio(torch.stack(tuple(log_mels)), frontend, seed=seed, num_samples=num_samples)


def own_statistics(log_mel: Tensor) -> Statistics:
    """Statistics of a single spectrogram; std 1 for silence, which has no spread."""
    if log_mel.std() < 1e-3:
        return Statistics(mean=float(log_mel.mean()), std=1.0)
    return measure_statistics([log_mel])


def mean_distance(log_mel: Tensor, original: Tensor) -> float:
    """Mean absolute difference, in nat."""
    return float((log_mel - original).abs().mean())


def widest_band(log_mel: Tensor) -> int:
    """Return the index of the band of `(F, T)` with the widest range, best to show a quantizer."""
    return int((log_mel.amax(dim=1) - log_mel.amin(dim=1)).argmax())


def _with_drawn(
    step: Step,
    parameters: Any,
    before: Tensor,
    after: Tensor,
    *,
    statistics: Statistics,
    band: int,
) -> Step:
    if isinstance(parameters, CropBoxes):
        return replace(step, crop=_crop_drawn(parameters, before[0, 0], statistics))
    if isinstance(parameters, QuantizationBins):
        is_applied = bool(parameters.is_applied[0])
        place = min(band, parameters.edges.shape[1] - 1)  # 0 if all bands share a quantizer
        drawn = BandDrawn(
            band=band,
            edges=_in_nat(parameters.edges[0, place], statistics),
            values=_in_nat(parameters.values[0, place], statistics),
            before=_in_nat(before[0, 0, band], statistics),
            after=_in_nat(after[0, 0, band], statistics),
        )
        return replace(step, is_applied=is_applied, band=drawn if is_applied else None)
    if isinstance(parameters, MixupParameters):
        return replace(step, share=float(parameters.share[0]))
    if isinstance(parameters, DaclNoise):
        return replace(step, share=1 - float(parameters.share[0]))
    if isinstance(parameters, Masks):
        return replace(step, masks=_masks_drawn(parameters))
    assert isinstance(parameters, FaderGains)
    first, last = (float(each[0]) * statistics.std for each in (parameters.first, parameters.last))
    return replace(step, ends=(first, last))


def _crop_drawn(boxes: CropBoxes, x: Tensor, statistics: Statistics) -> CropDrawn:
    canvas = torch.zeros(boxes.canvas)
    top, left = ((size - length) // 2 for size, length in zip(canvas.shape, x.shape, strict=True))
    canvas[top : top + x.shape[0], left : left + x.shape[1]] = x
    return CropDrawn(
        canvas=_in_nat(canvas, statistics),
        top=int(boxes.top[0]),
        left=int(boxes.left[0]),
        height=int(boxes.height[0]),
        width=int(boxes.width[0]),
    )


def _masks_drawn(masks: Masks) -> dict[str, list[tuple[int, int]]]:
    drawn = {"bands": (masks.band, masks.num_bands), "frames": (masks.frame, masks.num_frames)}
    return {
        name: [
            (begin, begin + num)
            for begin, num in zip(first[0].tolist(), length[0].tolist(), strict=True)
            if num
        ]
        for name, (first, length) in drawn.items()
    }


def _in_nat(x: Tensor, statistics: Statistics) -> Tensor:
    return x * statistics.std + statistics.mean
