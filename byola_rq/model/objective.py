"""Base class of the objectives: online and target network, heads, target update."""

import copy
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from byola_rq.model.imix import IMix, Mix
from byola_rq.model.linear import Linear
from byola_rq.model.ssql import SSQL
from byola_rq.runtime.device import uncompiled
from byola_rq.runtime.rng import draw_keys, fold_in
from byola_rq.runtime.stages import stage


class Objective(nn.Module, ABC):
    """Compare predictions from one view with the target's projections of the other.

    The target network is a copy of encoder and projector that gets no gradient. It stays in train
    mode: it normalizes each batch by its own batch statistics, and its batch norms keep separate
    running statistics, which the EMA does not touch.

    Each view passes through the networks separately, so batch statistics are per view. `BYOL`
    describes the arguments.

    Source: Grill et al., Bootstrap Your Own Latent (arXiv:2006.07733), sections 3.1 and 3.2.
    """

    def __init__(
        self,
        encoder: nn.Module,
        *,
        projection_dim: int = 256,
        hidden_dim: int = 4096,
        embedding_dim: int | None = None,
        imix: IMix | None = None,
        ssql: SSQL | None = None,
    ) -> None:
        super().__init__()
        dim = getattr(encoder, "embedding_dim", None) if embedding_dim is None else embedding_dim
        if not isinstance(dim, int):
            raise ValueError(
                "embedding_dim must be given if the encoder has no such attribute; "
                f"got {type(encoder).__name__}"
            )
        self.encoder = encoder
        self.projector = _head(dim, hidden_dim, projection_dim)
        self.predictor = _head(projection_dim, hidden_dim, projection_dim)
        self.target_encoder = copy.deepcopy(encoder).requires_grad_(False)
        self.target_projector = copy.deepcopy(self.projector).requires_grad_(False)
        self.imix = imix
        self.ssql = ssql

    @abstractmethod
    def losses(self, prediction: Tensor, target: Tensor, index: Tensor | None = None) -> Tensor:
        """Return the loss of each prediction against a row of the targets.

        Args:
            prediction: Predictions of this rank, `(B, P)`.
            target: Target projections of this rank, without gradient, `(B, P)`.
            index: Row of each prediction's target among those of all ranks, int64 `(B,)`; its own
                by default.

        Returns:
            Losses `(B,)`, float32, or float64 for float64 inputs.
        """

    def forward(
        self, view_1: Tensor, view_2: Tensor, key: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Compute the loss of a batch of view pairs.

        Args:
            view_1: First views, inputs of the encoder, `(B, ...)`, B at least 2 (batch norm).
            view_2: Second views, of the same shape.
            key: Randomness key of each sample, int64 `(B,)`, for i-Mix and SSQL; drawn from torch's
                generator if None.

        Returns:
            The loss, a scalar, and the online embeddings of the first view (mixed with i-Mix),
            detached, `(B, D)`, to watch for collapse.

        Raises:
            ValueError: If the views differ in shape, or contain fewer than two samples.
        """
        if view_1.shape != view_2.shape or len(view_1) < 2:
            shapes = f"{tuple(view_1.shape)} and {tuple(view_2.shape)}"
            raise ValueError(f"views must be of one shape and at least 2 samples; got {shapes}")
        if key is None and (self.imix or self.ssql):
            key = draw_keys(len(view_1), view_1.device)
        seen_1, seen_2, mix_1, mix_2 = view_1, view_2, None, None
        if self.imix and key is not None:
            seen_1, seen_2, mix_1, mix_2 = self._mixed(view_1, view_2, key)
        embedding_1, embedding_2 = self.encoder(seen_1), self.encoder(seen_2)
        predictions = [(self._predict(embedding_1), self._predict(embedding_2))]
        if self.ssql and key is not None:
            quantized = [self.ssql(self.encoder, each, key) for each in (seen_1, seen_2)]
            predictions.append((self._predict(quantized[0]), self._predict(quantized[1])))
        with stage("target"), torch.no_grad():
            target_1 = self.target_projector(self.target_encoder(view_1))
            target_2 = self.target_projector(self.target_encoder(view_2))
        losses = [
            self._mixed_losses(prediction_1, target_2, mix_1)
            + self._mixed_losses(prediction_2, target_1, mix_2)
            for prediction_1, prediction_2 in predictions
        ]
        return torch.stack(losses).mean(), embedding_1.detach()

    def update_target(self, ema_decay: float) -> None:
        """Move the target's parameters toward the online ones: `t + (1 - ema_decay) (o - t)`.

        Args:
            ema_decay: Decay of the moving average, 0 to 1; 1 changes nothing.

        Source: Grill et al. (arXiv:2006.07733), eq. 1, as an interpolation.
        """
        device = next(self.parameters()).device
        self.interpolate_target(torch.full((), 1 - ema_decay, device=device))

    @torch.no_grad()
    def interpolate_target(self, weight: Tensor) -> None:
        """Move the target's parameters by the fraction `weight`, a scalar on their device.

        The host need not know its value; a weight of 0 changes nothing.
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

    def _predict(self, embedding: Tensor) -> Tensor:
        prediction: Tensor = self.predictor(self.projector(embedding))
        return prediction

    # torch's compiler fails on 64-bit random integers.
    @uncompiled
    def _mixed(
        self, view_1: Tensor, view_2: Tensor, key: Tensor
    ) -> tuple[Tensor, Tensor, Mix, Mix]:
        """Mix both views for the online network; return them and their mixing parameters."""
        assert self.imix is not None
        seen_1, mix_1 = self.imix(view_1, fold_in(key, 1))
        seen_2, mix_2 = self.imix(view_2, fold_in(key, 2))
        return seen_1, seen_2, mix_1, mix_2

    def _mixed_losses(self, prediction: Tensor, target: Tensor, mix: Mix | None) -> Tensor:
        own = self.losses(prediction, target)
        if mix is None:
            return own
        share = mix.share.to(own.dtype)
        return share * own + (1 - share) * self.losses(prediction, target, mix.index)


def _interpolate(start: list[Tensor], end: list[Tensor], weight: Tensor) -> None:
    """Compute `start + weight (end - start)` in place, for a scalar tensor `weight`.

    Three kernels for all tensors instead of one each: `_foreach_lerp_` takes no tensor weight. On a
    CPU, launches are free and the extra passes over memory would cost more.
    """
    way = torch._foreach_sub(end, start)
    torch._foreach_mul_(way, weight)
    torch._foreach_add_(start, way)


def _head(in_dim: int, hidden_dim: int, out_dim: int) -> nn.Sequential:
    return nn.Sequential(
        Linear(in_dim, hidden_dim),
        nn.BatchNorm1d(hidden_dim),
        nn.ReLU(),
        Linear(hidden_dim, out_dim),
    )
