"""Uniform numbers as a pure function of keys.

A key is an int64; `fold_in` derives further keys from it, `uniform` turns it into numbers. All of
it is wrapping 64-bit integer arithmetic, so the bits are the same on every device and whatever
the batch, worker or process a sample happens to be in.

Source: the output function and increment of SplitMix64 (Steele, Lea, Flood, "Fast splittable
pseudorandom number generators", OOPSLA 2014), used as a counter-based generator.
"""

import hashlib
import math

import torch
from torch import Tensor

_INCREMENT = 0x9E3779B97F4A7C15 - (1 << 64)  # as a signed 64-bit integer
_MULTIPLIER_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MULTIPLIER_2 = 0x94D049BB133111EB - (1 << 64)


def uniform(key: Tensor, *shape: int) -> Tensor:
    """Uniform numbers in [0, 1), each a function of its key and its place in `shape` alone.

    Args:
        key: int64 keys, `(B,)`.
        shape: Numbers for each key.

    Returns:
        float32 `(B, *shape)`, multiples of 2^-24.
    """
    counter = torch.arange(1, math.prod(shape) + 1, device=key.device)
    bits = _mix(key[:, None] + counter * _INCREMENT)
    # 24 bits fit a float32 exactly, so neither conversion nor scaling rounds.
    return (_shift_right(bits, 40).to(torch.float32) * 2.0**-24).reshape(len(key), *shape)


def integers(key: Tensor, bound: Tensor) -> Tensor:
    """One integer per key, uniform in [0, `bound`); `key` and `bound` are int64 `(B,)`.

    63 random bits are reduced modulo `bound`: the bias is below bound / 2^63.
    """
    return _shift_right(_mix(key + _INCREMENT), 1) % bound


def fold_in(key: Tensor, word: int | str | Tensor) -> Tensor:
    """Derive the key that belongs to `word` (an index, or the name of an operation)."""
    if isinstance(word, str):
        digest = hashlib.blake2b(word.encode(), digest_size=8).digest()
        word = int.from_bytes(digest, "little", signed=True)
    # Mixing the word before it meets the key keeps (1, 2) and (2, 1) apart.
    mixed = _mix(torch.as_tensor(word, dtype=torch.int64, device=key.device) + _INCREMENT)
    return _mix(key * 3 + mixed)


def sample_keys(seed: int, epoch: int | Tensor, clip_index: Tensor) -> Tensor:
    """The key of each clip in one epoch; `clip_index` is int64 `(B,)`, so is the result."""
    root = torch.full_like(clip_index, seed)
    return fold_in(fold_in(fold_in(root, "byola_rq"), epoch), clip_index)


def draw_keys(num: int, device: torch.device, generator: torch.Generator | None = None) -> Tensor:
    """Draw `num` fresh keys from a torch generator (the global one by default)."""
    # Drawn where the generator lives: a CPU generator serves a batch on any device.
    source = generator.device if generator is not None else torch.device("cpu")
    low, high = -(1 << 63), (1 << 63) - 1
    return torch.randint(low, high, (num,), generator=generator, device=source).to(device)


def permutation(num: int, *, seed: int, epoch: int) -> Tensor:
    """The order of `num` clips in one epoch, int64 `(num,)`."""
    # A word of its own keeps the order independent of what is drawn for each clip;
    # stable, so that the (astronomically rare) equal keys have one order everywhere.
    keys = fold_in(sample_keys(seed, epoch, torch.arange(num)), "order")
    return keys.argsort(stable=True)


def _mix(bits: Tensor) -> Tensor:
    """SplitMix64's finalizer: every input bit flips every output bit with probability 1/2."""
    bits = (bits ^ _shift_right(bits, 30)) * _MULTIPLIER_1
    bits = (bits ^ _shift_right(bits, 27)) * _MULTIPLIER_2
    return bits ^ _shift_right(bits, 31)


def _shift_right(bits: Tensor, places: int) -> Tensor:
    # torch shifts int64 arithmetically; the mask removes the copies of the sign bit.
    return (bits >> places) & ((1 << (64 - places)) - 1)
