"""Batch norm and dropout over the batch of all ranks, equal to those of a single process."""

from typing import Any

import torch
from torch import Tensor, nn

from byola_rq.runtime.distributed import all_reduce_sum, local_rows, world_size


class SyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm by the statistics of all ranks' batches, which must be of equal size.

    Computes the mean first, then squared distances to it: unlike a difference of two moments, this
    is accurate for large means. torch's own class does not support CPU tensors.

    Source: Ioffe and Szegedy, Batch Normalization (arXiv:1502.03167), algorithm 1.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Normalize `(B, C)` or `(B, C, ...)`."""
        if not self.training:
            return super().forward(features)
        # Also in autocast: bfloat16 has too few digits for a variance.
        x = features.to(torch.promote_types(features.dtype, torch.float32))
        over = [0, *range(2, x.ndim)]
        shape = (1, -1) + (1,) * (x.ndim - 2)
        count = x.numel() // x.shape[1] * world_size()
        mean = all_reduce_sum(x.sum(over)) / count  # (C,)
        centered = x - mean.view(shape)
        variance = all_reduce_sum(centered.square().sum(over)) / count
        track(self, mean.detach(), variance.detach(), count)
        scale = self.weight * (variance + self.eps).rsqrt()
        return torch.addcmul(self.bias.view(shape), centered, scale.view(shape)).to(features.dtype)

    def _check_input_dim(self, *features: Tensor) -> None:
        """Accept any number of dimensions."""


def track(
    norm: nn.modules.batchnorm._BatchNorm, mean: Tensor, variance: Tensor, count: int
) -> None:
    """Update the running statistics as batch norm does, by mean and variance of `count` values."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    assert norm.momentum is not None
    # Via .data, like batch norm: an earlier pass may still wait for its backward.
    norm.running_mean.data.lerp_(mean, norm.momentum)
    norm.running_var.data.lerp_(variance * (count / (count - 1)), norm.momentum)
    norm.num_batches_tracked += 1


class RankDropout(nn.Dropout):
    """Dropout that drops, in each rank's rows, what a single process would drop there.

    Every rank draws the mask of the whole batch; their generators are seeded alike.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Apply dropout to this rank's rows of a batch, `(B, ...)`."""
        if not self.training:
            return features
        shape = (len(features) * world_size(), *features.shape[1:])
        kept = torch.empty(shape, dtype=features.dtype, device=features.device).bernoulli_(
            1 - self.p
        )
        return features * (local_rows(kept) / (1 - self.p))


def over_all_ranks(network: nn.Module, *, sync_batch_norm: bool) -> None:
    """Make dropout, and optionally batch norm, treat the ranks' batches as one; in place."""
    if world_size() == 1:
        return
    for name, child in network.named_children():
        setattr(network, name, _replaced(child, sync_batch_norm=sync_batch_norm))
        over_all_ranks(child, sync_batch_norm=sync_batch_norm)


def _replaced(module: nn.Module, *, sync_batch_norm: bool) -> Any:
    if isinstance(module, nn.Dropout):
        return RankDropout(module.p)
    if sync_batch_norm and isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        synced = SyncBatchNorm(module.num_features, module.eps, module.momentum)
        synced.load_state_dict(module.state_dict())
        synced.weight.requires_grad_(module.weight.requires_grad)
        synced.bias.requires_grad_(module.bias.requires_grad)
        return synced
    return module
