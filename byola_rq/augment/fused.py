"""Augmentations one after the other, as one kernel computes them on a GPU."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from byola_rq.runtime import triton
from byola_rq.runtime.rng import word_bits

STEPS = ("mixup", "crop", "fader", "quantization")  # of the kernel, in its order
_NARROW = (torch.float16, torch.bfloat16)
_MOST_ELEMENTS = 1 << 14  # of a block, in the registers of one program


class Step(Protocol):
    """What the kernel asks of an augmentation."""

    @property
    def step(self) -> str | None:
        """Its name in `STEPS`; None where the kernel cannot do it."""

    @property
    def needs_all_bands(self) -> bool:
        """Whether what becomes of a band depends on the others."""

    def constants(self) -> tuple[Any, ...]:
        """What its step is compiled for."""


def refusal(steps: Sequence[Step], planes: Tensor) -> str | None:
    """Why the kernel does not take planes, `(N, F, T)`; None where it does."""
    # Between two steps a narrow type would round.
    if planes.dtype != torch.float32 and (len(steps) > 1 or planes.dtype not in _NARROW):
        return f"input must be float32; got {str(planes.dtype).removeprefix('torch.')}"
    if planes.requires_grad and torch.is_grad_enabled():
        return "a gradient is asked for"
    num_bands, num_frames = planes.shape[1:]
    block_bands, block_frames = _block(steps, num_bands, num_frames)
    if block_bands * block_frames > _MOST_ELEMENTS:
        return f"planes of {num_bands} x {num_frames} are too large"
    if planes.numel() == 0:
        return "there is no element"
    return None


def launch(
    steps: Sequence[Step],
    planes: Tensor,
    key: Tensor,
    *,
    state: Mapping[str, Any],
    words: Sequence[str] | None = None,
) -> Tensor:
    """Make what the steps make one after the other.

    The random numbers are bit for bit those of the plain path, and the values its own but for the
    rounding of interpolation, logarithm and exponential.

    Args:
        steps: In the order of `STEPS`.
        planes: `(N, F, T)`, of any strides.
        key: int64 `(N,)`.
        state: What the steps' `prepare` gives.
        words: Of which each step's key derives in `Views`, which makes two views; None for the only
            step of one view, whose key is `key`.

    Returns:
        `(V, N, F, T)`, with V = 1 or 2.
    """
    # Triton is imported where a kernel is launched, never on a CPU.
    from byola_rq.augment.views_kernel import augment

    num_planes, num_bands, num_frames = planes.shape
    made = planes.new_empty(1 if words is None else 2, num_planes, num_bands, num_frames)
    block_bands, block_frames = _block(steps, num_bands, num_frames)
    triton.launch(
        augment,
        (num_planes, made.shape[0], -(-num_bands // block_bands)),
        (planes, key, made, state.get("ring"), state.get("num_seen")),
        (
            *(planes.stride(0), key.stride(0), planes.stride(1), planes.stride(2), num_planes),
            *(num_bands, num_frames, state.get("tall", 0), state.get("wide", 0)),
            *constants(steps, num_bands, num_frames, words).values(),
        ),
        options(block_bands, block_frames),
    )
    return made


def constants(
    steps: Sequence[Step], num_bands: int, num_frames: int, words: Sequence[str] | None = None
) -> dict[str, Any]:
    """What the kernel is compiled for, in its order."""
    of_steps: dict[str | None, Any] = {}
    for number, step in enumerate(steps):
        word = None if words is None else word_bits(words[number])
        of_steps[step.step] = (word, *step.constants())
    block_bands, block_frames = _block(steps, num_bands, num_frames)
    return {
        "views": None if words is None else (word_bits(1), word_bits(2)),
        **{name: of_steps.get(name) for name in STEPS},
        "block_bands": block_bands,
        "block_frames": block_frames,
    }


def options(block_bands: int, block_frames: int) -> dict[str, Any]:
    """How it is compiled."""
    elements = block_bands * block_frames
    return {
        # Eight elements for each of their threads, and more where these would spill registers.
        "num_warps": max(4, min(elements // 256, 16), elements // 512),
        # A product and a sum fused into one rounding would draw other boxes and edges.
        "enable_fp_fusion": False,
    }


def power_of_two(size: int) -> int:
    """The smallest one that is not below `size`."""
    return 1 << (size - 1).bit_length()


def _block(steps: Sequence[Step], num_bands: int, num_frames: int) -> tuple[int, int]:
    """Bands and frames of a program's block, powers of two."""
    bands, frames = power_of_two(num_bands), power_of_two(num_frames)
    # A range over all bands needs them all; else small blocks, for more programs at once.
    for step in steps:
        if step.needs_all_bands:
            return bands, frames
    return min(bands, max(1, 2048 // frames)), frames
