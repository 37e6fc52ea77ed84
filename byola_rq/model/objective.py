"""What objectives share: online and target network, heads, target update; takes any encoder."""

import copy
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from byola_rq.model.imix import IMix, Mix
from byola_rq.model.linear import Linear
from byola_rq.model.ssql import SSQL
from byola_rq.runtime.rng import draw_keys, fold_in
from byola_rq.runtime.stages import stage


class Objective(nn.Module, ABC):
    """Learn by comparing predictions from one view with the target's projections of the other.

    The target network is a copy of encoder and projector that gets no gradient. It stays in train
    mode: it normalizes each batch by its own batch statistics, and its batch norms keep running
    statistics of their own, which the EMA does not touch.

    Each view runs through the networks on its own, so batch statistics are per view.

    Args:
        encoder: The network to learn, `(B, ...)` -> `(B, D)`; used as it is, not copied.
        projection_dim: Output size of projector and predictor.
        hidden_dim: Their hidden size.
        embedding_dim: `D`; the encoder's attribute `embedding_dim` by default.
        imix: Mixes inputs and targets of the batch (i-Mix).
        ssql: Predicts from a quantized encoder as well (SSQL).

    Raises:
        ValueError: If `embedding_dim` is neither given nor an attribute of the encoder.

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
                "embedding_dim must be given where the encoder has no such attribute; "
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
        """Loss of each prediction against a row of the targets.

        Args:
            prediction: `(B, P)`.
            target: Projections, without gradient, `(B, P)`, of this rank's rows.
            index: Which of the targets of all ranks each prediction should find, int64 `(B,)`;
                its own by default.

        Returns:
            `(B,)`, float32, or float64 where that is given.
        """

    def forward(
        self, view_1: Tensor, view_2: Tensor, key: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Loss of a batch of view pairs.

        Args:
            view_1: What the encoder takes, `(B, ...)`, B at least 2 (batch norm).
            view_2: The other view of each, of the same shape.
            key: Of each sample, int64 `(B,)`, for what i-Mix and SSQL draw; by default from torch's
                generator.

        Returns:
            The loss, a scalar, and the online embeddings of the first view (mixed with i-Mix),
            detached, `(B, D)`, to watch for collapse.

        Raises:
            ValueError: If the views differ in shape, or hold fewer than two samples.
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

    def _predict(self, embedding: Tensor) -> Tensor:
        prediction: Tensor = self.predictor(self.projector(embedding))
        return prediction

    # torch's compiler fails on random numbers that are integers of 64 bits.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _mixed(
        self, view_1: Tensor, view_2: Tensor, key: Tensor
    ) -> tuple[Tensor, Tensor, Mix, Mix]:
        """What the online network sees of both views, and how each was mixed."""
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
    """`start + weight (end - start)` in place, for a `weight` of `()`.

    Three kernels for all tensors instead of one for each: `_foreach_lerp_` takes no such
    weight. On a CPU, where starting one costs nothing, the passes over memory would.
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
