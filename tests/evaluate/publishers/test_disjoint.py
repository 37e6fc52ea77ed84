from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluate.publishers.disjoint import SHARES, divide_groups
from evaluate.tasks.task import TaskError
from tests.refusal import refused

Sizes = dict[str, dict[str, int]]

sizes_of_one = st.dictionaries(st.text("abcdef", min_size=1), st.integers(1, 60), min_size=3)


def divide(sizes: Sizes, seed: int = 0) -> dict[str, str]:
    return divide_groups(sizes, seed, where="/data/set", group="speaker")


def count(sizes: dict[str, int], parts: dict[str, str]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for name, size in sizes.items():
        counts[parts[name]] += size
    return counts


@settings(max_examples=200, deadline=None)
@given(sizes=sizes_of_one, seed=st.integers(0, 2**32))
def test_shares_hold_within_the_largest_group(sizes, seed):
    parts = divide({"de": sizes}, seed)
    assert parts.keys() == sizes.keys()
    counts = count(sizes, parts)
    assert counts.keys() == SHARES.keys()  # none is empty
    for part, share in SHARES.items():
        assert counts[part] - share * sum(sizes.values()) < max(sizes.values())


@settings(max_examples=50, deadline=None)
@given(sizes=sizes_of_one, seed=st.integers(0, 99), order=st.randoms(use_true_random=False))
def test_order_changes_nothing(sizes, seed, order):
    names = list(sizes)
    order.shuffle(names)
    turned = {"it": {"x": 1, "y": 1, "z": 1}, "de": {name: sizes[name] for name in names}}
    assert divide(turned, seed) == divide({"de": sizes, "it": turned["it"]}, seed)


@settings(max_examples=100, deadline=None)
@given(first=sizes_of_one, second=sizes_of_one, seed=st.integers(0, 99))
def test_a_group_of_two_strata_is_in_one_part(first, second, seed):
    own = {"1", "2", "3"}
    sizes = {"de": first, "en": second | dict.fromkeys(own, 5)}
    parts = divide(sizes, seed)  # a mapping: each group has one part
    assert parts.keys() == first.keys() | second.keys() | own
    for stratum in sizes.values():
        assert count(stratum, parts).keys() == SHARES.keys()


def test_many_small_groups_hit_the_shares():
    sizes = {f"s{number}": 10 for number in range(200)}
    assert count(sizes, divide({"de": sizes})) == {"train": 1_400, "valid": 300, "test": 300}


def test_a_giant_is_trained_on():
    sizes = {"giant": 800} | {f"s{number}": 10 for number in range(40)}
    for seed in range(20):
        assert divide({"de": sizes}, seed)["giant"] == "train"


def test_seeds_differ():
    sizes = {"de": {f"s{number}": 10 for number in range(30)}}
    splits = {tuple(sorted(divide(sizes, seed).items())) for seed in range(10)}
    assert len(splits) == 10


@pytest.mark.parametrize("sizes", [{"a": 5, "b": 5}, {"a": 900}])
def test_too_few_groups(sizes):
    with refused(TaskError, "missing", Path("/data/set"), key="it", value=len(sizes)) as caught:
        divide({"de": {"x": 1, "y": 1, "z": 1}, "it": sizes})
    assert ", ".join(sorted(sizes)) in str(caught.value)
