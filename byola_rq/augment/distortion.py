"""How far randomized quantization moves a spectrogram, measured and as theory expects it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from byola_rq.augment.quantize import RandomizedQuantization, Rule, ValueRule
from byola_rq.runtime.rng import sample_keys


@dataclass(frozen=True)
class DistortionCurve:
    """Mean absolute error against the number of bins, in the unit of the spectrograms.

    `measured` is the mean over all elements and draws, `expected` what it would be if the values
    of every band were spread evenly over its range.
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
    """Quantize spectrograms with each number of bins, and measure how far their elements move.

    Args:
        log_mel: `(B, F, T)`, in nat.
        num_bins: The numbers of bins `K`, each at least 1.
        bins: How edges are placed, as for `RandomizedQuantization`.
        values: How reproduction values are chosen.
        draws: Quantizers drawn for each spectrogram.
        seed: Of the draws.
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
    """Expected absolute error of values spread evenly over their range, in units of the range.

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
