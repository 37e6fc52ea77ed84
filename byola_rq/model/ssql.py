"""SSQL: an online encoder with weights and activations quantized to a random number of bits."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from byola_rq.runtime.device import uncompiled
from byola_rq.runtime.distributed import all_gather_rows, all_reduce_max
from byola_rq.runtime.rng import fold_in, integers
from byola_rq.runtime.straight_through import straight_through

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


class SSQL(nn.Module):
    """Run an encoder quantized to numbers of bits drawn anew for every step.

    An objective with SSQL (`BYOL(encoder, ssql=SSQL())`) predicts the full-precision target from
    both the encoder and the quantized encoder; the loss is the mean of both. A step needs two more
    passes of the online network.

    Convolutions and linear layers are quantized: weights symmetrically, each output channel by its
    own largest magnitude; activations, the inputs of all these layers but the first, between the
    smallest and the largest value of the batch of all ranks. Gradients pass straight through. The
    first layer uses the larger of `weight_bits`; the heads stay in full precision (the released
    code uses 8 bits for the projector's weights).

    Args:
        weight_bits: Smallest and largest number of bits of weights, inclusive, within 2 to 16.
        activation_bits: Smallest and largest number of bits of activations, inclusive, within 2 to
            16.

    Raises:
        ValueError: If an argument breaks a rule above.

    Source: Cao et al., Synergistic Self-supervised and Quantization Learning (ECCV 2022,
    arXiv:2207.05432), section 3; numbers of bits and ranges as in its released code.
    """

    def __init__(
        self, weight_bits: Sequence[int] = (2, 8), activation_bits: Sequence[int] = (4, 8)
    ) -> None:
        super().__init__()
        for name, bits in (("weight_bits", weight_bits), ("activation_bits", activation_bits)):
            if not (len(bits) == 2 and 2 <= bits[0] <= bits[1] <= 16):
                raise ValueError(f"{name} must be [fewest, most] within 2 to 16; got {list(bits)}")
        self.weight_bits = tuple(weight_bits)
        self.activation_bits = tuple(activation_bits)

    def draw(self, key: Tensor) -> tuple[Tensor, Tensor]:
        """Draw the bits of weights and of activations, int64 `(1,)` each, the same in all ranks.

        Args:
            key: Randomness key of each sample, int64 `(B,)`; the first sample of all ranks decides.
        """
        first = fold_in(all_gather_rows(key)[:1], "ssql")
        return (
            _within(fold_in(first, "weight"), self.weight_bits),
            _within(fold_in(first, "activation"), self.activation_bits),
        )

    # Disabled: hooks are added and removed, which a compiler would have to follow.
    @uncompiled
    def forward(self, encoder: nn.Module, x: Tensor, key: Tensor) -> Tensor:
        """Embed a batch with the quantized encoder; the encoder itself is not changed.

        Args:
            encoder: Network to quantize, `(B, ...)` -> `(B, D)`.
            x: Batch `(B, ...)`.
            key: Randomness key of each sample, int64 `(B,)`, see `draw`.

        Returns:
            The embeddings, `(B, D)`.

        Raises:
            ValueError: If the encoder has no convolution and no linear layer.
        """
        of_weights, of_activations = self.draw(key)
        layers = [
            (name, each) for name, each in encoder.named_modules() if isinstance(each, _LAYERS)
        ]
        if not layers:
            name = type(encoder).__name__
            raise ValueError(f"encoder must have a convolution or a linear layer; got {name}")
        weights = {}
        for number, (name, layer) in enumerate(layers):
            bits = of_weights if number else torch.full_like(of_weights, self.weight_bits[1])
            weights[f"{name}.weight" if name else "weight"] = quantize_weight(layer.weight, bits)

        def quantize(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            del layer
            return quantize_activation(inputs[0], of_activations), *inputs[1:]

        hooks = [layer.register_forward_pre_hook(quantize) for _, layer in layers[1:]]
        try:
            embedding: Tensor = functional_call(encoder, weights, (x,))
        finally:
            for hook in hooks:
                hook.remove()
        return embedding


def quantize_weight(weight: Tensor, bits: Tensor) -> Tensor:
    """Round each output channel to levels symmetric around 0: `(C, ...)` -> `(C, ...)`.

    `s clip(round(w / s), -m, m)`, `m = 2^(bits - 1) - 1`, `s = max|w| / (m + 1 / 2)`; the gradient
    is that of the identity. The released code has one more level, -m - 1: a negative largest weight
    then lies halfway between two levels, and rounding errors would decide. `bits` is int64 with one
    element.
    """
    values = weight.detach()
    most = ((torch.ones_like(bits) << (bits - 1)) - 1).to(values.dtype)
    largest = values.flatten(1).abs().amax(1).view(-1, *[1] * (weight.ndim - 1))
    scale = (largest / (most + 0.5)).clamp(min=torch.finfo(values.dtype).tiny)
    rounded = torch.clamp((values / scale).round(), -most, most) * scale
    # Same memory layout as the weights, and hence as their gradients.
    return straight_through(weight, torch.empty_like(values).copy_(rounded))


def quantize_activation(x: Tensor, bits: Tensor) -> Tensor:
    """Round all elements to `2^bits` levels between the smallest and the largest of all ranks.

    `s (clip(round(x / s) + z, 0, 2^bits - 1) - z)`, `s = (max - min) / (2^bits - 1)`,
    `z = -round(min / s)`, so that 0 stays 0; the gradient is that of the identity. `bits` is int64
    with one element.
    """
    values = x.detach().to(torch.promote_types(x.dtype, torch.float32))
    most = ((torch.ones_like(bits) << bits) - 1).to(values.dtype)
    low, high = values.aminmax()
    low, high = -all_reduce_max(-low), all_reduce_max(high)
    scale = ((high - low) / most).clamp(min=torch.finfo(values.dtype).tiny)
    zero = -(low / scale).round()
    whole = torch.clamp((values / scale).round() + zero, torch.zeros_like(most), most)
    return straight_through(x, ((whole - zero) * scale).to(x.dtype))


def _within(key: Tensor, bounds: tuple[int, ...]) -> Tensor:
    """Draw an integer within both bounds, inclusive, for each key."""
    fewest, most = bounds
    return fewest + integers(key, torch.full_like(key, most - fewest + 1))
