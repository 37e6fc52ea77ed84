"""Randomized quantization of images, point clouds and token embeddings, alone or in batches."""

import torch
from torch import Tensor, nn

from byola_rq.augment.quantize import RandomizedQuantization, Rule, Scope, ValueRule
from byola_rq.runtime.straight_through import straight_through


class QuantizeAlong(nn.Module):
    """Randomized quantization as a step of any pipeline, on single samples or batches.

    Images `(C, H, W)`: `QuantizeAlong(8, channel_dim=-3, sample_ndim=3)`; points `(N, 3)`:
    `QuantizeAlong(30, channel_dim=-1, sample_ndim=2)`; tokens `(T, D)` likewise. A batch has one
    more dimension in front. Every sample and channel has its own quantizer, drawn from the sample's
    key, so a sample gets the same result alone and in a batch. The identity in `eval()`.

    Args:
        num_bins: Bins `K`, at least 1; the paper uses 8 for images, 30 for points, 5 for audio.
        channel_dim: Dimension of the channels, counted from the end: -1 to -`sample_ndim`.
        sample_ndim: Number of dimensions of one sample, at least 2.
        bins: Inner edges drawn uniformly from the range (`random`), or equally spaced (`uniform`).
        values: Reproduction value drawn uniformly from its bin (`random`), or its `midpoint`.
        per: One quantizer for each `channel`, or one for all channels of a sample (`instance`).
        p: Probability that a sample is quantized.
        straight_through: Pass the gradient on as if nothing was quantized, for learned inputs such
            as embeddings. Otherwise the true gradient is used, which reaches only each channel's
            smallest and largest element, on which the bins depend.

    Raises:
        ValueError: If an argument breaks a rule above.

    Source: Wu et al., Randomized Quantization, ICCV 2023 (arXiv:2212.08663), eq. 1-4; the
    straight-through gradient: Bengio et al., 2013 (arXiv:1308.3432), not part of the paper.
    """

    def __init__(
        self,
        num_bins: int,
        *,
        channel_dim: int,
        sample_ndim: int,
        bins: Rule = "random",
        values: ValueRule = "random",
        per: Scope = "channel",
        p: float = 1.0,
        straight_through: bool = False,
    ) -> None:
        super().__init__()
        if sample_ndim < 2:
            raise ValueError(f"sample_ndim must be at least 2; got {sample_ndim}")
        if not -sample_ndim <= channel_dim <= -1:
            raise ValueError(
                f"channel_dim must be counted from the end, -1 to {-sample_ndim}, so that it means "
                f"the same with a batch dimension; got {channel_dim}"
            )
        self.quantization = RandomizedQuantization(
            num_bins, bins=bins, values=values, per=per, p=p, channel_dim=channel_dim
        )
        self.sample_ndim = sample_ndim
        self.straight_through = straight_through

    def forward(
        self,
        x: Tensor,
        key: Tensor | int | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Quantize one sample, or each of a batch.

        Args:
            x: Floating-point input of `sample_ndim` dimensions or one more; dtype and device are
                kept.
            key: One int64 for a sample, int64 `(B,)` for a batch; the same key gives the same
                result on every device and in every batch. Drawn from `generator` if None.
            generator: Torch generator; the global one by default, which torch's DataLoader seeds
                differently in each worker.

        Returns:
            The quantized input, of the shape of `x`.

        Raises:
            ValueError: If `x` has another number of dimensions, is empty or not finite, or if `key`
                does not fit.
            TypeError: If `x` is not a floating-point tensor, or `key` not int64.
        """
        if not isinstance(x, Tensor):
            raise TypeError(f"input must be a torch.Tensor; got {type(x).__name__}")
        if x.ndim not in (self.sample_ndim, self.sample_ndim + 1):
            raise ValueError(
                f"input must have {self.sample_ndim} dimensions, or {self.sample_ndim + 1} with a "
                f"batch in front; got shape {tuple(x.shape)}"
            )
        batch = x if x.ndim > self.sample_ndim else x[None]
        if key is not None:
            key = torch.as_tensor(key, device=x.device)
            key = key.reshape(1) if key.ndim == 0 else key
        if self.straight_through:
            with torch.no_grad():
                quantized = self.quantization(batch, key, generator=generator)
            quantized = straight_through(batch, quantized)
        else:
            quantized = self.quantization(batch, key, generator=generator)
        result: Tensor = quantized.reshape(x.shape)
        return result

    def extra_repr(self) -> str:
        """Return the options shown in the printed module."""
        return f"sample_ndim={self.sample_ndim}, straight_through={self.straight_through}"
