"""Online and target networks, heads, loss, target update; takes an encoder, builds none."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from byola_rq.model.encoder import Encoder
from byola_rq.model.linear import Linear
from byola_rq.runtime.stages import stage


class BYOL(nn.Module):
    """Learn by predicting, from one view, the target network's projection of the other.

    The target network is a copy of encoder and projector that gets no gradient. It stays in train
    mode: it normalizes each batch by its own batch statistics, and its batch norms keep running
    statistics of their own, which the EMA does not touch.

    Each view runs through the networks on its own, so batch statistics are per view.

    Args:
        encoder: The network to learn, `(B, 1, F, T)` -> `(B, D)`; used as it is, not copied.
        projection_dim: Output size of projector and predictor.
        hidden_dim: Their hidden size.

    Source: Grill et al., Bootstrap Your Own Latent (arXiv:2006.07733), sections 3.1 and 3.2.
    """

    def __init__(self, encoder: Encoder, *, projection_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = _head(encoder.embedding_dim, hidden_dim, projection_dim)
        self.predictor = _head(projection_dim, hidden_dim, projection_dim)
        self.target_encoder = copy.deepcopy(encoder).requires_grad_(False)
        self.target_projector = copy.deepcopy(self.projector).requires_grad_(False)

    def forward(self, view_1: Tensor, view_2: Tensor) -> tuple[Tensor, Tensor]:
        """Loss of a batch of view pairs.

        Args:
            view_1: Log-mel spectrograms, `(B, 1, F, T)`, B at least 2 (batch norm).
            view_2: The other view of each, of the same shape.

        Returns:
            The loss, a scalar between 0 and 8, and the online embeddings of the first view,
            detached, `(B, D)`, to watch for collapse.
        """
        embedding_1, embedding_2 = self.encoder(view_1), self.encoder(view_2)
        prediction_1 = self.predictor(self.projector(embedding_1))
        prediction_2 = self.predictor(self.projector(embedding_2))
        with stage("target"), torch.no_grad():
            target_1 = self.target_projector(self.target_encoder(view_1))
            target_2 = self.target_projector(self.target_encoder(view_2))
        loss = regression_loss(prediction_1, target_2) + regression_loss(prediction_2, target_1)
        return loss.mean(), embedding_1.detach()

    def update_target(self, ema_decay: float) -> None:
        """Move the target's parameters towards the online ones: `t + (1 - ema_decay) (o - t)`.

        Args:
            ema_decay: Between 0 and 1; 1 changes nothing.

        Source: Grill et al. (arXiv:2006.07733), eq. 1, as an interpolation.
        """
        device = next(self.parameters()).device
        self.interpolate_target(torch.full((), 1 - ema_decay, device=device))

    @torch.no_grad()
    def interpolate_target(self, weight: Tensor) -> None:
        """Move the target's parameters `weight`, a scalar on their device, of the way.

        The host need not know it; where it is 0, nothing changes.
        """
        online: list[Tensor] = [*self.encoder.parameters(), *self.projector.parameters()]
        target: list[Tensor] = [
            *self.target_encoder.parameters(),
            *self.target_projector.parameters(),
        ]
        if weight.is_cuda:
            _interpolate(target, online, weight)
            return
        for parameter, towards in zip(target, online, strict=True):
            parameter.lerp_(towards, weight)


def _interpolate(start: list[Tensor], end: list[Tensor], weight: Tensor) -> None:
    """`start + weight (end - start)` in place, for a `weight` of `()`.

    Three kernels for all tensors instead of one for each: `_foreach_lerp_` takes no such
    weight. On a CPU, where starting one costs nothing, the passes over memory would.
    """
    way = torch._foreach_sub(end, start)
    torch._foreach_mul_(way, weight)
    torch._foreach_add_(start, way)


def regression_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Squared distance of the normalized vectors, `2 - 2 cos`: two `(B, P)` -> `(B,)`.

    In float32, or float64 where that is given.

    Source: Grill et al. (arXiv:2006.07733), eq. 2.
    """
    dtype = torch.promote_types(prediction.dtype, torch.float32)
    return 2 - 2 * F.cosine_similarity(prediction.to(dtype), target.to(dtype), dim=-1)


def _head(in_dim: int, hidden_dim: int, out_dim: int) -> nn.Sequential:
    return nn.Sequential(
        Linear(in_dim, hidden_dim),
        nn.BatchNorm1d(hidden_dim),
        nn.ReLU(),
        Linear(hidden_dim, out_dim),
    )
