"""Distortion of spectrograms by randomized quantization, measured and expected."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from byola_rq.augment.quantize import RandomizedQuantization, Rule, ValueRule
from byola_rq.runtime.rng import sample_keys


@dataclass(frozen=True)
class DistortionCurve:
    """Mean absolute error for each number of bins, in the unit of the spectrograms.

    `measured` is the mean over all elements and draws; `expected` assumes values spread evenly over
    the range of every band.
    """

    num_bins: tuple[int, ...]
    measured: tuple[float, ...]
    expected: tuple[float, ...]


def measure_distortion(
    log_mel: Tensor,
    num_bins: Sequence[int],
    *,
    bins: Rule = "random",
    values: ValueRule = "random",
    draws: int = 16,
    seed: int = 0,
) -> DistortionCurve:
    """Measure how far quantization moves the elements of spectrograms, for each number of bins.

    Args:
        log_mel: Log-mel spectrograms `(B, F, T)`, in nat.
        num_bins: Numbers of bins `K` to measure, each at least 1.
        bins: Rule for edges, see `RandomizedQuantization`.
        values: Rule for reproduction values, see `RandomizedQuantization`.
        draws: Number of quantizers drawn for each spectrogram.
        seed: Seed of the draws.
    """
    rows = log_mel.repeat_interleave(draws, dim=0)  # (B * draws, F, T)
    keys = sample_keys(seed, 0, torch.arange(len(rows)))
    ranges = float((log_mel.amax(dim=-1) - log_mel.amin(dim=-1)).mean())
    measured = []
    for each in num_bins:
        quantize = RandomizedQuantization(each, bins=bins, values=values)
        quantized = quantize.apply(rows, quantize.draw(rows, keys))
        measured.append(float((quantized - rows).abs().mean()))
    return DistortionCurve(
        num_bins=tuple(num_bins),
        measured=tuple(measured),
        expected=tuple(
            ranges * expected_error(each, bins=bins, values=values) for each in num_bins
        ),
    )


def expected_error(num_bins: int, *, bins: Rule = "random", values: ValueRule = "random") -> float:
    """Return the expected absolute error of evenly spread values, in units of their range.

    In a bin of width w, a value u and a reproduction value v, both uniform in the bin, are
    E|u - v| = w / 3 apart; u and the midpoint, E|u - w / 2| = w / 4. Uniform edges make every
    bin w = 1 / K wide. Random edges cut the range into K uniform spacings, of which
    E[w^2] = 2 / (K (K + 1)); a value falls into a bin with probability w, so w becomes
    K E[w^2] = 2 / (K + 1), nearly twice as wide.

    Source: Pyke, "Spacings", Journal of the Royal Statistical Society B 27, 1965, for the moments
    of uniform spacings; the rest is an integral each.
    """
    width = 1 / num_bins if bins == "uniform" else 2 / (num_bins + 1)
    return width / 3 if values == "random" else width / 4
