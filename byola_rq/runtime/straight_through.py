"""The straight-through gradient: a value of one tensor, learned as if it were another."""

from typing import Any, cast

import torch
from torch import Tensor


def straight_through(x: Tensor, value: Tensor) -> Tensor:
    """`value`, whose gradient goes to `x` unchanged; both of one shape and type.

    Source: Bengio et al., 2013 (arXiv:1308.3432).
    """
    return cast(Tensor, _StraightThrough.apply(x, value))  # type: ignore[no-untyped-call]


class _StraightThrough(torch.autograd.Function):
    """`value` forward, the identity backward; x + (value - x).detach() would round."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor) -> Tensor:  # noqa: ARG004
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # noqa: ARG004
        return gradients[0], None
