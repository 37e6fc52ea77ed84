"""Launcher of the GPU kernel that computes a chain of augmentations."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from byola_rq.runtime import triton
from byola_rq.runtime.rng import word_bits

if TYPE_CHECKING:
    from byola_rq.augment.base import Augmentation

    Steps = Sequence[Augmentation[Any]]

STEPS = ("mixup", "crop", "fader", "quantization")  # steps of the kernel, in its order
_NARROW = (torch.float16, torch.bfloat16)
_MAX_ELEMENTS = 1 << 14  # per block: they live in the registers of one program


def unsupported_reason(steps: "Steps", planes: Tensor) -> str | None:
    """Return why the kernel cannot take planes, `(N, F, T)`; None if it can."""
    # A narrow dtype would be rounded between two steps.
    if planes.dtype != torch.float32 and (len(steps) > 1 or planes.dtype not in _NARROW):
        return f"input must be float32; got {str(planes.dtype).removeprefix('torch.')}"
    if planes.requires_grad and torch.is_grad_enabled():
        return "the input requires a gradient"
    num_bands, num_frames = planes.shape[1:]
    block_bands, block_frames = _block(steps, num_bands, num_frames)
    if block_bands * block_frames > _MAX_ELEMENTS:
        return f"planes of {num_bands} x {num_frames} are too large"
    if planes.numel() == 0:
        return "the input is empty"
    return None


def launch(
    steps: "Steps",
    planes: Tensor,
    key: Tensor,
    *,
    state: Mapping[str, Any],
    words: Sequence[str] | None = None,
) -> Tensor:
    """Apply the steps one after the other, in one kernel.

    Random numbers equal those of the plain path bit for bit; values differ only by the rounding of
    interpolation, logarithm and exponential.

    Args:
        steps: Augmentations in the order of `STEPS`.
        planes: Input planes `(N, F, T)`, of any strides.
        key: Randomness key of each plane, int64 `(N,)`.
        state: Kernel arguments returned by the steps' `prepare`.
        words: Words that derive each step's key, as in `Views`, for two views; None for one view of
            a single step whose key is `key`.

    Returns:
        Augmented planes `(V, N, F, T)`, with V = 1 or 2.
    """
    # Import only where a kernel is launched: Triton may be missing on a CPU.
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
    steps: "Steps", num_bands: int, num_frames: int, words: Sequence[str] | None = None
) -> dict[str, Any]:
    """Return the kernel's compile-time constants by name, in the order of its arguments."""
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
    """Return the kernel's compile options for a block size."""
    elements = block_bands * block_frames
    return {
        # Eight elements per thread; more where eight would spill registers.
        "num_warps": max(4, min(elements // 256, 16), elements // 512),
        # Fusing product and sum into one rounding would draw other boxes and edges.
        "enable_fp_fusion": False,
    }


def power_of_two(size: int) -> int:
    """Return the smallest power of two that is at least `size`."""
    return 1 << (size - 1).bit_length()


def _block(steps: "Steps", num_bands: int, num_frames: int) -> tuple[int, int]:
    """Return the block size of a program in bands and frames, both powers of two."""
    bands, frames = power_of_two(num_bands), power_of_two(num_frames)
    # Small blocks keep more programs busy, but a range over all bands needs the whole plane.
    for step in steps:
        if step.needs_all_bands:
            return bands, frames
    return min(bands, max(1, 2048 // frames)), frames
