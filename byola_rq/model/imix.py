"""i-Mix: mix inputs within the batch, and their targets likewise."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from byola_rq.runtime.distributed import all_gather_rows, rank, world_size
from byola_rq.runtime.rng import draw_keys, fold_in, other_rows, uniform

_POINTS = 4097  # points of the inverse distribution function


@dataclass(frozen=True)
class Mix:
    """Mixing parameters of a batch.

    `share`: weight of the sample itself, float32 `(B,)`, 1/2 to 1. `index`: row of the other sample
    in the batch of all ranks, int64 `(B,)`.
    """

    share: Tensor
    index: Tensor

    def apply(self, x: Tensor) -> Tensor:
        """Mix `share x_i + (1 - share) x_j` for any `(B, ...)`; `x_j` gets no gradient."""
        share = self.share.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))
        return share * x + (1 - share) * all_gather_rows(x.detach())[self.index]


class IMix(nn.Module):
    """Mix each input with another one of its batch: `l x_i + (1 - l) x_j`.

    An objective with i-Mix (`BYOL(encoder, imix=IMix())`) mixes both views of the online network
    independently, and weighs the losses against both targets alike:
    `l loss(q_i, z_i) + (1 - l) loss(q_i, z_j)`. The target network sees unmixed views.

    `l` is `max(b, 1 - b)`, b from Beta(`alpha`, `alpha`). The other sample is never the sample
    itself, and comes from the batch of all ranks (with gradient accumulation: from a part of the
    batch); the released code permutes the batch instead. Inputs may be anything that can be added:
    spectrograms, images, or token embeddings, for which i-Mix becomes the e-Mix of DABS.

    Args:
        alpha: Parameter of the Beta distribution, above 0; 1 is uniform.

    Raises:
        ValueError: If `alpha` is not finite and above 0.

    Source: Lee et al., i-Mix (ICLR 2021, arXiv:2010.08887), section 3; e-Mix: Tamkin et al., DABS
    (NeurIPS 2021, arXiv:2111.12062).
    """

    quantiles: Tensor

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        if not 0 < alpha < math.inf:
            raise ValueError(f"alpha must be finite and above 0; got {alpha}")
        self.alpha = alpha
        # Not in the state dict, since it is a function of alpha.
        self.register_buffer("quantiles", _smaller_shares(alpha), persistent=False)

    def forward(
        self, x: Tensor, key: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Mix]:
        """Mix a batch.

        Args:
            x: Batch `(B, ...)`.
            key: Randomness key of each sample, int64 `(B,)`; drawn from `generator` if None.
            generator: Torch generator; the global one by default.

        Returns:
            The mixed batch `(B, ...)`, and its mixing parameters.

        Raises:
            ValueError: If `key` does not fit the batch.
        """
        if key is None:
            key = draw_keys(len(x), x.device, generator)
        if key.shape != (len(x),):
            raise ValueError(f"key must have shape ({len(x)},); got {tuple(key.shape)}")
        mix = self.draw(key)
        return mix.apply(x), mix

    def draw(self, key: Tensor) -> Mix:
        """Draw weight and other sample for each key, int64 `(B,)`."""
        num = len(key)
        place = uniform(fold_in(key, "share")) * (_POINTS - 1)
        below = place.long()
        quantiles = self.quantiles.to(key.device, torch.float32)
        share = torch.lerp(quantiles[below], quantiles[below + 1], place - below)
        index = other_rows(fold_in(key, "index"), world_size() * num, first=rank() * num)
        return Mix(share=1 - share, index=index)


def _smaller_shares(alpha: float) -> Tensor:
    """Quantiles of `min(b, 1 - b)`, b from Beta(alpha, alpha), at equally spaced probabilities.

    Integrates the density `r^(alpha - 1) (1 - r)^(alpha - 1)` by the trapezoidal rule over
    `s = r^c`, c = min(alpha, 1), which has no pole at 0.
    """
    c = min(alpha, 1.0)
    s = torch.linspace(0, 0.5**c, 16 * (_POINTS - 1) + 1, dtype=torch.float64)
    r = s ** (1 / c)
    # Relative to the largest: for a large alpha all powers would be 0.
    logarithm = torch.xlogy(alpha - c, r) + (alpha - 1) * torch.log1p(-r)
    density = (logarithm - logarithm.max()).exp()
    total = torch.cat((s.new_zeros(1), ((density[1:] + density[:-1]) / 2).cumsum(0)))
    wanted = torch.linspace(0, 1, _POINTS, dtype=torch.float64) * total[-1]
    above = torch.searchsorted(total, wanted, right=True).clamp(1, len(s) - 1)
    part = (wanted - total[above - 1]) / (total[above] - total[above - 1])
    return torch.lerp(s[above - 1], s[above], part).pow(1 / c).float()
