"""Randomness: known vectors, uniformity, independence of everything but the key."""

import hashlib
import math

import pytest
import torch

from byola_rq.runtime.rng import draw_keys, fold_in, integers, permutation, sample_keys, uniform

MASK = (1 << 64) - 1
INCREMENT = 0x9E3779B97F4A7C15


def splitmix64(seed: int, num: int) -> list[int]:
    """The generator in plain Python integers, from its published definition."""
    outputs = []
    for _ in range(num):
        seed = (seed + INCREMENT) & MASK
        z = seed
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        outputs.append(z ^ (z >> 31))
    return outputs


def fold(key: int, word: int | str) -> int:
    """The key of a word, in plain Python integers."""
    if isinstance(word, str):  # by what it says, the same in every process
        word = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
    (mixed,) = splitmix64(word & MASK, 1)
    # What `splitmix64` adds before it mixes is none of the sum's.
    return splitmix64((3 * key + mixed - INCREMENT) & MASK, 1)[0]


def test_reference_is_splitmix64() -> None:
    # The first outputs for seed 1234567, as published with the algorithm.
    assert splitmix64(1234567, 3) == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


@pytest.mark.parametrize("seed", [0, 1, 1234567, -1, -(1 << 63), (1 << 63) - 1])
def test_uniform_is_the_top_24_bits_of_splitmix64(seed: int) -> None:
    numbers = uniform(torch.tensor([seed]), 7)
    expected = [(bits >> 40) / 2**24 for bits in splitmix64(seed & MASK, 7)]
    assert numbers.tolist() == [expected]


@pytest.mark.parametrize("seed", [0, 1234567, -1, (1 << 63) - 1])
def test_integers_are_the_top_63_bits_modulo_their_bound(seed: int) -> None:
    bounds = torch.tensor([1, 6, 1 << 40])
    drawn = integers(torch.full((3,), seed), bounds)
    (bits,) = splitmix64(seed & MASK, 1)
    assert drawn.tolist() == [(bits >> 1) % bound for bound in bounds.tolist()]


@pytest.mark.parametrize("word", [0, 5, -1, "crop", "order"])
@pytest.mark.parametrize("key", [0, 7, -(1 << 63)])
def test_a_key_of_a_word_is_mixed_of_both(key: int, word: int | str) -> None:
    assert int(fold_in(torch.tensor([key]), word)) & MASK == fold(key, word)


def test_uniform_depends_on_nothing_but_its_key() -> None:
    keys = draw_keys(100, torch.device("cpu"), torch.Generator().manual_seed(0))
    together = uniform(keys, 5, 3)
    for row in (0, 17, 99):
        assert torch.equal(together[row : row + 1], uniform(keys[row : row + 1], 5, 3))


def test_uniform_is_uniform() -> None:
    numbers = uniform(sample_keys(3, 0, torch.arange(2000)), 50).flatten().double()
    n = len(numbers)
    # Kolmogorov-Smirnov at a false alarm rate of 1e-6.
    distance = (numbers.sort().values - (torch.arange(n) + 0.5) / n).abs().max() + 0.5 / n
    assert distance < math.sqrt(-math.log(1e-6 / 2) / (2 * n))


def test_neighboring_keys_and_counters_are_uncorrelated() -> None:
    numbers = uniform(sample_keys(0, 0, torch.arange(4000)), 8).double() - 0.5
    correlation = torch.corrcoef(numbers.T) - torch.eye(8)
    # A sample correlation of independent numbers has standard deviation 1 / sqrt(n).
    assert correlation.abs().max() < 5 / math.sqrt(4000)
    along_keys = (numbers[:-1] * numbers[1:]).mean() * 12
    assert abs(along_keys) < 5 / math.sqrt(3999 * 8)


def test_words_are_ordered_and_told_apart() -> None:
    key = torch.tensor([7])
    derived = [
        fold_in(fold_in(key, 1), 2),
        fold_in(fold_in(key, 2), 1),
        fold_in(key, "crop"),
        fold_in(key, "quantize"),
        fold_in(key, torch.tensor([5])),
        fold_in(key, 6),
    ]
    assert len({int(each) for each in derived}) == len(derived)
    words = torch.tensor([0, 5, -1])
    each = torch.cat([fold_in(key, word) for word in words.tolist()])
    assert torch.equal(fold_in(key.expand(3), words), each)


def test_sample_keys_take_an_epoch_per_clip() -> None:
    clips = torch.tensor([3, 4])
    mixed = sample_keys(1, torch.tensor([0, 9]), clips)
    assert mixed[0] == sample_keys(1, 0, clips)[0]
    assert mixed[1] == sample_keys(1, 9, clips)[1]
    expected = [fold(fold(fold(1, "byola_rq"), 9), clip) for clip in (3, 4)]
    assert [int(key) & MASK for key in sample_keys(1, 9, clips)] == expected


def test_integers_cover_their_range_evenly() -> None:
    keys = sample_keys(2, 0, torch.arange(60_000))
    counts = torch.bincount(integers(keys, torch.full((60_000,), 6)), minlength=6)
    assert len(counts) == 6
    # Binomial standard deviation sqrt(n p (1 - p)) = 91; five of them.
    assert (counts - 10_000).abs().max() < 5 * math.sqrt(60_000 * (1 / 6) * (5 / 6))


def test_an_order_has_numbers_of_its_own() -> None:
    keys = [fold(int(key), "order") for key in sample_keys(3, 2, torch.arange(20))]
    signed = [key - (key >> 63 << 64) for key in keys]
    assert permutation(20, seed=3, epoch=2).tolist() == sorted(range(20), key=signed.__getitem__)


def test_fresh_keys_are_those_of_their_generator() -> None:
    cpu = torch.device("cpu")
    first, again, other = (
        draw_keys(50, cpu, torch.Generator().manual_seed(seed)) for seed in (6, 6, 7)
    )
    assert torch.equal(first, again)
    torch.manual_seed(7)  # the global generator, when none is given
    assert torch.equal(draw_keys(50, cpu), other)
    assert len(torch.cat((first, other)).unique()) == 100


def test_permutation_is_one_and_changes_with_epoch_and_seed() -> None:
    first = permutation(1000, seed=0, epoch=0)
    assert torch.equal(first.sort().values, torch.arange(1000))
    assert not torch.equal(first, permutation(1000, seed=0, epoch=1))
    assert not torch.equal(first, permutation(1000, seed=1, epoch=0))
    assert torch.equal(first, permutation(1000, seed=0, epoch=0))


@pytest.mark.gpu
def test_bits_are_the_same_on_the_gpu() -> None:
    keys = sample_keys(0, 0, torch.arange(512))
    assert torch.equal(uniform(keys, 64, 9), uniform(keys.cuda(), 64, 9).cpu())
