"""InfoNCE with a momentum encoder: identify the other view among all others of the batch."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from byola_rq.model.objective import Objective
from byola_rq.runtime.distributed import all_gather_rows, rank


class InfoNCE(Objective):
    """Identify the target's projection of the other view among those of other samples.

    The loss of a pair of views is `2 t (c(q_1, z_2) + c(q_2, z_1))` with temperature t, unit
    predictions q, unit target projections z and
    `c(q_i, z) = -log(exp(q_i z_i / t) / sum_j exp(q_i z_j / t))`. The sum runs over the batch of
    all ranks (with gradient accumulation: over a part of it); targets get no gradient.

    The heads are BYOL's, so that objectives differ only in the loss; the paper's heads end in a
    batch norm, and have one more layer for vision transformers.

    Args:
        encoder: Network to train, `(B, ...)` -> `(B, D)`; used as it is, not copied.
        temperature: Softmax temperature, above 0.
        options: Options of `BYOL`: `projection_dim`, `hidden_dim`, `embedding_dim`, `imix`, `ssql`.

    Raises:
        ValueError: If `temperature` is not finite and above 0, or as `BYOL`.

    Source: Chen, Xie, He, An Empirical Study of Training Self-Supervised Vision Transformers
    (MoCo v3, arXiv:2104.02057), eq. 1 and algorithm 1.
    """

    def __init__(self, encoder: nn.Module, *, temperature: float = 0.2, **options: Any) -> None:
        super().__init__(encoder, **options)
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature must be finite and above 0; got {temperature}")
        self.temperature = temperature

    def losses(self, prediction: Tensor, target: Tensor, index: Tensor | None = None) -> Tensor:
        """Return the scaled cross-entropy of each prediction, `(B,)`; see the base class."""
        return contrastive_loss(
            prediction, all_gather_rows(target), index, temperature=self.temperature
        )


def contrastive_loss(
    prediction: Tensor, targets: Tensor, index: Tensor | None = None, *, temperature: float
) -> Tensor:
    """Cross-entropy of identifying a target by cosine, times twice the temperature.

    Computed in float32, or in float64 for float64 inputs.

    Args:
        prediction: Predictions of this rank, `(B, P)`.
        targets: Target projections of all ranks, `(N, P)`.
        index: Row of `targets` for each prediction, int64 `(B,)`; this rank's rows by default.
        temperature: Softmax temperature, above 0.

    Returns:
        Loss of each prediction, `(B,)`.

    Source: Chen, Xie, He (arXiv:2104.02057), algorithm 1, `ctr`.
    """
    dtype = torch.promote_types(prediction.dtype, torch.float32)
    if index is None:
        index = torch.arange(len(prediction), device=prediction.device) + rank() * len(prediction)
    # bfloat16 has too few digits to tell cosines apart.
    with torch.autocast(prediction.device.type, enabled=False):
        query, keys = (F.normalize(each.to(dtype), dim=-1) for each in (prediction, targets))
        logits = query @ keys.T / temperature  # (B, N)
        return 2 * temperature * F.cross_entropy(logits, index, reduction="none")
