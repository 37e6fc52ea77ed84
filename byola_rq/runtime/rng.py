"""Uniform random numbers as a pure function of keys.

A key is an int64; `fold_in` derives further keys from it, `uniform` turns it into numbers. All of
it is wrapping 64-bit integer arithmetic, so the bits are the same on every device and in every
batch, worker or process.

Source: the output function and increment of SplitMix64 (Steele, Lea, Flood, "Fast splittable
pseudorandom number generators", OOPSLA 2014), used as a counter-based generator.
"""

import functools
import hashlib
import math

import torch
from torch import Tensor

INCREMENT = 0x9E3779B97F4A7C15
MULTIPLIER_1 = 0xBF58476D1CE4E5B9
MULTIPLIER_2 = 0x94D049BB133111EB

_BITS = (1 << 64) - 1


def _signed(bits: int) -> int:
    """Convert 64 unsigned bits to the integer that an int64 tensor stores for them."""
    return bits - (1 << 64) if bits >> 63 else bits


_INCREMENT = _signed(INCREMENT)
_MULTIPLIER_1 = _signed(MULTIPLIER_1)
_MULTIPLIER_2 = _signed(MULTIPLIER_2)


def uniform(key: Tensor, *shape: int) -> Tensor:
    """Draw uniform numbers in [0, 1), each a function of its key and its index in `shape`.

    Args:
        key: Keys, int64 `(B,)`.
        shape: Shape of the numbers per key.

    Returns:
        Numbers, float32 `(B, *shape)`, multiples of 2^-24.
    """
    counter = torch.arange(1, math.prod(shape) + 1, device=key.device)
    bits = _mix(key[:, None] + counter * _INCREMENT)
    # 24 bits fit a float32 exactly, so neither conversion nor scaling rounds.
    return (_shift_right(bits, 40).to(torch.float32) * 2.0**-24).reshape(len(key), *shape)


def integers(key: Tensor, bound: Tensor) -> Tensor:
    """Draw one integer per key, uniform in [0, `bound`); `key` and `bound` are int64 `(B,)`.

    63 random bits are reduced modulo `bound`: the bias is below bound / 2^63.
    """
    return _shift_right(_mix(key + _INCREMENT), 1) % bound


def other_rows(key: Tensor, num_rows: int, *, first: int = 0) -> Tensor:
    """Draw, for each of B consecutive rows, one of the other rows, uniformly.

    Args:
        key: Keys of the rows `first` to `first + B - 1`, int64 `(B,)`.
        num_rows: Number of all rows; if it is 1, the row itself is drawn.
        first: Row of the first key.

    Returns:
        Row numbers, int64 `(B,)`.
    """
    row = torch.arange(len(key), device=key.device) + first
    away = 1 + integers(key, torch.full_like(key, max(num_rows - 1, 1)))
    return (row + away) % num_rows


def fold_in(key: Tensor, word: int | str | Tensor) -> Tensor:
    """Derive the key that belongs to `word` (an index, or the name of an operation)."""
    # Mixing the word before it meets the key keeps (1, 2) and (2, 1) apart.
    if isinstance(word, Tensor):
        return _mix(key * 3 + _mix(word.to(key) + _INCREMENT))
    return _mix(key * 3 + _signed(word_bits(word)))


@functools.lru_cache
def word_bits(word: int | str) -> int:
    """Compute the 64 unsigned bits that `fold_in` adds to three times the key; for kernels."""
    if isinstance(word, str):
        word = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
    # In Python integers: on a device it would take a dozen launches.
    bits = (int(word) + INCREMENT) & _BITS
    bits = (bits ^ (bits >> 30)) * MULTIPLIER_1 & _BITS
    bits = (bits ^ (bits >> 27)) * MULTIPLIER_2 & _BITS
    return bits ^ (bits >> 31)


def sample_keys(seed: int, epoch: int | Tensor, clip_index: Tensor) -> Tensor:
    """Derive the key of each clip in one epoch, int64 `(B,)`, from `clip_index`, int64 `(B,)`."""
    root = torch.full_like(clip_index, seed)
    return fold_in(fold_in(fold_in(root, "byola_rq"), epoch), clip_index)


def draw_keys(num: int, device: torch.device, generator: torch.Generator | None = None) -> Tensor:
    """Draw `num` fresh keys from a torch generator (the global one by default)."""
    # Drawn on the generator's device: a CPU generator serves a batch on any device.
    source = generator.device if generator is not None else torch.device("cpu")
    low, high = -(1 << 63), (1 << 63) - 1
    keys = torch.randint(low, high, (num,), generator=generator, device=source)
    # A copy of unpinned memory to a GPU has read it when it returns, so it need not block.
    return keys.to(device, non_blocking=device.type == "cuda")


def permutation(num: int, *, seed: int, epoch: int) -> Tensor:
    """Draw the order of `num` clips in one epoch, int64 `(num,)`."""
    # The word makes the order independent of other draws for each clip; stable, so that the
    # (astronomically rare) equal keys have the same order everywhere.
    keys = fold_in(sample_keys(seed, epoch, torch.arange(num)), "order")
    return keys.argsort(stable=True)


def _mix(bits: Tensor) -> Tensor:
    """Apply SplitMix64's finalizer: an input bit flips each output bit with probability 1/2."""
    bits = _shift_right(bits, 30).bitwise_xor_(bits).mul_(_MULTIPLIER_1)
    bits = _shift_right(bits, 27).bitwise_xor_(bits).mul_(_MULTIPLIER_2)
    return _shift_right(bits, 31).bitwise_xor_(bits)


def _shift_right(bits: Tensor, places: int) -> Tensor:
    # torch shifts int64 arithmetically; the mask removes the copies of the sign bit.
    return (bits >> places).bitwise_and_((1 << (64 - places)) - 1)
