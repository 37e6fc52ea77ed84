"""InfoNCE with a momentum encoder: tell the other view from all others of the batch."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from byola_rq.model.objective import Objective
from byola_rq.runtime.distributed import all_gather_rows, rank


class InfoNCE(Objective):
    """Learn by telling the target's projection of the other view from those of other samples.

    The loss of a pair of views is `2 t (c(q_1, z_2) + c(q_2, z_1))` with temperature t, unit
    predictions q, unit target projections z and
    `c(q_i, z) = -log(exp(q_i z_i / t) / sum_j exp(q_i z_j / t))`. The sum goes over the batch of
    all ranks (with gradient accumulation: of a part of it); targets get no gradient.

    The heads are BYOL's, so that objectives differ in nothing but the loss; the paper's end in a
    batch norm and have a layer more for vision transformers.

    Args:
        encoder: The network to learn, `(B, ...)` -> `(B, D)`; used as it is, not copied.
        temperature: Of the softmax, above 0.
        options: As for `BYOL`: `projection_dim`, `hidden_dim`, `embedding_dim`, `imix`, `ssql`.

    Raises:
        ValueError: If `temperature` is not above 0, or as `BYOL`.

    Source: Chen, Xie, He, An Empirical Study of Training Self-Supervised Vision Transformers
    (MoCo v3, arXiv:2104.02057), eq. 1 and algorithm 1.
    """

    def __init__(self, encoder: nn.Module, *, temperature: float = 0.2, **options: Any) -> None:
        super().__init__(encoder, **options)
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0; got {temperature}")
        self.temperature = temperature

    def losses(self, prediction: Tensor, target: Tensor, index: Tensor | None = None) -> Tensor:
        """Scaled cross-entropy of each prediction among all targets; see `Objective.losses`."""
        return contrastive_loss(
            prediction, all_gather_rows(target), index, temperature=self.temperature
        )


def contrastive_loss(
    prediction: Tensor, targets: Tensor, index: Tensor | None = None, *, temperature: float
) -> Tensor:
    """Cross-entropy of finding a target by cosine, times twice the temperature.

    In float32, or float64 where that is given.

    Args:
        prediction: `(B, P)`.
        targets: `(N, P)`, of all ranks.
        index: The row of `targets` that each should find, int64 `(B,)`; this rank's by default.
        temperature: Of the softmax.

    Returns:
        `(B,)`.

    Source: Chen, Xie, He (arXiv:2104.02057), algorithm 1, `ctr`.
    """
    dtype = torch.promote_types(prediction.dtype, torch.float32)
    if index is None:
        index = torch.arange(len(prediction), device=prediction.device) + rank() * len(prediction)
    # bfloat16 has not the digits to tell cosines apart.
    with torch.autocast(prediction.device.type, enabled=False):
        query, keys = (F.normalize(each.to(dtype), dim=-1) for each in (prediction, targets))
        logits = query @ keys.T / temperature  # (B, N)
        return 2 * temperature * F.cross_entropy(logits, index, reduction="none")
