"""Straight-through gradient estimator."""

from typing import Any, cast

import torch
from torch import Tensor


def straight_through(x: Tensor, value: Tensor) -> Tensor:
    """Return `value`, with its gradient passed to `x` unchanged; both of one shape and type.

    Source: Bengio et al., 2013 (arXiv:1308.3432).
    """
    return cast(Tensor, _StraightThrough.apply(x, value))  # type: ignore[no-untyped-call]


class _StraightThrough(torch.autograd.Function):
    """Forward `value`, backward the identity; x + (value - x).detach() would round."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor) -> Tensor:  # noqa: ARG004
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # noqa: ARG004
        return gradients[0], None
