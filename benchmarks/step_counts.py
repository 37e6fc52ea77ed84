"""Operations and bytes of a training step, counted from sizes, and the limits they imply on GPUs.

For one segment of 64 bands and 96 frames, two views. Counts tensors written and read by successive
kernels; data in caches or registers is free. The encoder is that of 2020; what is moved once per
step (weights, Adam, EMA) is shared by a batch of 256.
"""

from collections.abc import Iterable
from typing import NamedTuple

from benchmarks.harness import Row

BANDS, FRAMES, CHANNELS, BATCH = 64, 96, 64, 256
HIDDEN, PROJECTION = 4096, 256
BLOCKS = [CHANNELS * BANDS * FRAMES // 4**n for n in range(3)]  # elements before pooling
PATCHES = 16 * BANDS * FRAMES // 4
HALF, FULL, INDEX, MASK = 2, 4, 8, 1  # bytes of bfloat16, float32, int64, bool


class Card(NamedTuple):
    """Limits of a GPU by its data sheet."""

    name: str
    operations: float  # per second, dense bfloat16
    bytes: float  # per second, as copies reach it
    memory: float  # bytes


CARDS = (Card("H100 SXM 80 GB", 790e12, 3.0e12, 80e9), Card("H200 141 GB", 790e12, 4.3e12, 141e9))


class Moved(NamedTuple):
    """Bytes moved for one view forward and backward, and bytes kept in between."""

    forward: float
    backward: float
    kept: float


def first_block_plain() -> Moved:
    """Count convolution, batch norm, ReLU, and pooling with int64 indices."""
    return _block_plain(BLOCKS[0], BANDS * FRAMES, needs_input_gradient=False)


def other_blocks_plain() -> Moved:
    """Count the same for blocks 2 and 3."""
    return _sum(_block_plain(n, n, needs_input_gradient=True) for n in BLOCKS[1:])


def other_blocks() -> Moved:
    """Count blocks 2 and 3 with pooling before the ReLU, by torch's modules."""
    return _sum(_block_pools_first(n) for n in BLOCKS[1:])


def other_blocks_compiled() -> Moved:
    """Count blocks 2 and 3 with one kernel for norm, pooling, ReLU, and one-byte indices."""
    return _sum(_block_compiled(n) for n in BLOCKS[1:])


def first_block_fused() -> Moved:
    """Count one kernel from 4 x 4 patches to the pooled output, recomputed in the backward pass."""
    pooled = BLOCKS[0] // 4
    patches = PATCHES * FULL
    forward = BANDS * FRAMES * FULL * 3 + patches * 3 + pooled * HALF  # made, moments, product
    return Moved(forward, patches + 2 * pooled * HALF, patches + pooled * HALF)


def frames_and_heads(dim: int) -> Moved:
    """Count activations of linear layers, ReLU, dropout, pooling over time and heads."""
    frames = FRAMES // 8  # embeddings of a segment
    wide = frames * dim * HALF
    narrow = frames * CHANNELS * 8 * HALF
    heads = (2 * dim + 8 * HIDDEN + 6 * PROJECTION) * HALF
    mask = frames * dim * MASK
    forward = 3 * narrow + 10 * wide + mask + heads
    return Moved(
        forward, 4 * narrow + 17 * wide + mask + 2 * heads, narrow + 4 * wide + mask + heads
    )


def num_weights(dim: int) -> tuple[int, int]:
    """Number of weights of the online and of the target network."""
    encoder = 10 * 64 + 2 * (9 * 64 + 1) * 64 + 6 * 64 + 513 * dim + (dim + 1) * dim
    projector = (dim + 3) * HIDDEN + (HIDDEN + 1) * PROJECTION
    predictor = (PROJECTION + 3) * HIDDEN + (HIDDEN + 1) * PROJECTION
    return encoder + projector + predictor, encoder + projector


def bytes_of_weights(dim: int) -> float:
    """Return a segment's share: Adam reads 4, writes 3; EMA 2 and 1; norm 1; casts, gradients."""
    online, target = num_weights(dim)
    adam_norm_and_gradients = online * FULL * (7 + 1 + 2 + 2)
    casts = (2 * online + 2 * target) * (FULL + HALF)
    return (adam_norm_and_gradients + casts + target * FULL * 3) / BATCH


FORMULATIONS = {
    "plain": (first_block_plain, other_blocks_plain),
    "first block fused": (first_block_fused, other_blocks),
    "first block fused, others compiled": (first_block_fused, other_blocks_compiled),
}


def bytes_of_step(dim: int, name: str) -> float:
    """Bytes of a segment in a step: online forward and backward, target forward, two views."""
    return sum(
        2 * (2 * part.forward + part.backward) for part in _parts(dim, name)
    ) + bytes_of_weights(dim)


def bytes_kept(dim: int, name: str) -> float:
    """Bytes kept for a segment from forward to backward, both views."""
    return sum(2 * part.kept for part in _parts(dim, name))


def operations_of_step(dim: int) -> float:
    """Multiplications and additions of a segment in a step."""
    forward = _operations(dim)
    online = sum(forward.values())
    # The backward pass takes twice the operations, except for the input, which needs no gradient.
    backward = 2 * online - forward["convolution 1"]
    return 2 * (online + backward + online - forward["predictor"])


def count_operations(dim: int) -> list[Row]:
    """Return table rows: MFLOP of one view, forward."""
    rows = [_row(f"{name}, forward, MFLOP", n / 1e6) for name, n in _operations(dim).items()]
    return [*rows, _row("a step, both views, MFLOP", operations_of_step(dim) / 1e6)]


def count_bytes(dim: int) -> list[Row]:
    """Return table rows: MB of one view and of a step."""
    parts = {
        "first block, plain": first_block_plain(),
        "first block, fused": first_block_fused(),
        "blocks 2 and 3, plain": other_blocks_plain(),
        "blocks 2 and 3, pooling first": other_blocks(),
        "blocks 2 and 3, compiled": other_blocks_compiled(),
        "frames, heads": frames_and_heads(dim),
    }
    rows: list[Row] = []
    for name, moved in parts.items():
        rows += [
            _row(f"{name}: {way}, MB", amount / 1e6)
            for way, amount in zip(Moved._fields, moved, strict=True)
        ]
    rows.append(_row("weights, Adam, EMA at batch 256, MB", bytes_of_weights(dim) / 1e6))
    rows += [_row(f"a step, {name}, MB", bytes_of_step(dim, name) / 1e6) for name in FORMULATIONS]
    return rows


def expect(dim: int, card: Card) -> Row:
    """Return segments per second if only arithmetic, or only memory, took time."""
    row: Row = {"card": card.name, "arithmetic": card.operations / operations_of_step(dim)}
    row |= {name: card.bytes / bytes_of_step(dim, name) for name in FORMULATIONS}
    # Weights, two moments, gradients, target, copies in bfloat16: 24 bytes a weight.
    free = 0.9 * card.memory - num_weights(dim)[0] * 24
    row["largest batch, plain"] = int(free / bytes_kept(dim, "plain"))
    row["largest batch, fused"] = int(free / bytes_kept(dim, "first block fused"))
    row["GB kept at batch 256, plain"] = BATCH * bytes_kept(dim, "plain") / 1e9
    row["GB kept at batch 256, fused"] = BATCH * bytes_kept(dim, "first block fused") / 1e9
    return row


def _operations(dim: int) -> dict[str, float]:
    frames = FRAMES // 8
    return {
        "convolution 1": 2 * 9 * BLOCKS[0],
        "convolution 2": 2 * 9 * CHANNELS * BLOCKS[1],
        "convolution 3": 2 * 9 * CHANNELS * BLOCKS[2],
        "frames": 2 * frames * (CHANNELS * 8 * dim + dim * dim),
        "projector": 2 * (dim * HIDDEN + HIDDEN * PROJECTION),
        "predictor": 4 * HIDDEN * PROJECTION,
    }


def _block_plain(n: int, inputs: int, *, needs_input_gradient: bool) -> Moved:
    index = n // 4 * INDEX
    forward = (inputs + n + n + 2 * n + 2 * n + n + n // 4) * HALF + index
    # Pooling, ReLU, batch norm (two passes), the convolution's weights and input.
    backward = (n // 4 + n + 3 * n + 5 * n + n + inputs) * HALF + index
    if needs_input_gradient:
        backward += (n + inputs) * HALF
    return Moved(forward, backward, (inputs + 3 * n) * HALF + index)


def _block_pools_first(n: int) -> Moved:
    index, pooled = n // 4 * INDEX, n // 4
    forward = (n + n + n + 2 * n + n + pooled + 2 * pooled) * HALF + index
    backward = (3 * pooled + pooled + n + 5 * n + 4 * n) * HALF + index
    return Moved(forward, backward, (n + 2 * n + pooled) * HALF + index)


def _block_compiled(n: int) -> Moved:
    pooled = n // 4
    forward = (n + n + n + n + pooled) * HALF + pooled
    backward = (2 * (n + pooled) + n + 4 * n) * HALF + 2 * pooled
    return Moved(forward, backward, (2 * n + pooled) * HALF + pooled)


def _parts(dim: int, name: str) -> list[Moved]:
    first, others = FORMULATIONS[name]
    return [first(), others(), frames_and_heads(dim)]


def _sum(parts: Iterable[Moved]) -> Moved:
    return Moved(*(float(sum(each)) for each in zip(*parts, strict=True)))


def _row(name: str, amount: float) -> Row:
    return {"what": name, "amount": float(amount)}
