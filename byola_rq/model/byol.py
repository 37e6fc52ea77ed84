"""BYOL: predict the target's projection of the other view, without negatives."""

import torch
import torch.nn.functional as F
from torch import Tensor

from byola_rq.model.objective import Objective
from byola_rq.runtime.distributed import all_gather_rows


class BYOL(Objective):
    """Predict, from one view, the target network's projection of the other view.

    The loss of a pair of views is `l(q_1, z_2) + l(q_2, z_1)`, within 0 to 8, with
    `l(q, z) = || q / |q| - z / |z| ||^2 = 2 - 2 cos(q, z)`, predictions q and target projections z.

    Args:
        encoder: Network to train, `(B, ...)` -> `(B, D)`; used as it is, not copied.
        projection_dim: Output size of projector and predictor.
        hidden_dim: Hidden size of projector and predictor.
        embedding_dim: Embedding size `D`; the encoder's attribute `embedding_dim` by default.
        imix: i-Mix, which mixes inputs and targets of the batch; None for none.
        ssql: SSQL, which also predicts from a quantized encoder; None for none.

    Raises:
        ValueError: If `embedding_dim` is neither given nor an attribute of the encoder.

    Source: Grill et al., Bootstrap Your Own Latent (arXiv:2006.07733), eq. 2.
    """

    def losses(self, prediction: Tensor, target: Tensor, index: Tensor | None = None) -> Tensor:
        """Return the squared distance of each prediction from its target, `(B,)`."""
        if index is not None:
            target = all_gather_rows(target)[index]
        return regression_loss(prediction, target)


def regression_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Squared distance of the normalized vectors, `2 - 2 cos`: two `(B, P)` -> `(B,)`.

    Computed in float32, or in float64 for float64 inputs.

    Source: Grill et al. (arXiv:2006.07733), eq. 2.
    """
    dtype = torch.promote_types(prediction.dtype, torch.float32)
    return 2 - 2 * F.cosine_similarity(prediction.to(dtype), target.to(dtype), dim=-1)
