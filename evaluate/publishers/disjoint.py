"""Split for sets without a published one: each group of clips is in one part only."""

from collections import Counter
from collections.abc import Mapping

import numpy as np

from evaluate.tasks.task import TaskError

SHARES = {"train": 0.70, "valid": 0.15, "test": 0.15}  # shares of the clips of each stratum
SPLIT_RULE = "disjoint 70/15/15"


def divide_groups(
    sizes: Mapping[str, Mapping[str, int]], seed: int, *, where: str, group: str
) -> dict[str, str]:
    """Assign every group to one part, so that each stratum is divided 70/15/15 by clips.

    A part exceeds its share of a stratum by less than the stratum's largest group. A group in
    several strata keeps the part it got in the first. The result depends only on names, sizes and
    seed, not on the order of the input.

    Args:
        sizes: Number of clips of each group by stratum (a language, a class), at least one.
        seed: Seed of the order in which groups are assigned.
        where: Name of the divided set, for messages.
        group: Kind of group in one word, for messages.

    Returns:
        Part of each group.

    Raises:
        TaskError: If a stratum has fewer groups than parts.
    """
    parts: dict[str, str] = {}
    for number, stratum in enumerate(sorted(sizes)):
        groups = sizes[stratum]
        counts = Counter(dict.fromkeys(SHARES, 0))
        for name in groups.keys() & parts.keys():
            counts[parts[name]] += groups[name]
        left = _order(
            {name: size for name, size in groups.items() if name not in parts},
            sum(groups.values()),
            np.random.default_rng((seed, number)),
        )
        for position, name in enumerate(left):
            parts[name] = _choose(counts, sum(groups.values()), len(left) - position)
            counts[parts[name]] += groups[name]
        if not all(counts.values()):
            raise TaskError(
                f"{where}: {stratum} must have at least {len(SHARES)} {group}s, to train, to "
                f"validate and to test on; got {len(groups)} ({', '.join(sorted(groups)[:3])})",
                code="missing",
                path=where,
                key=stratum,
                value=len(groups),
            )
    return parts


def _order(sizes: Mapping[str, int], total: int, generator: np.random.Generator) -> list[str]:
    """Shuffle groups, those larger than a validation part first, while training has room."""
    drawn = generator.permutation(sorted(sizes)).tolist() if sizes else []
    return sorted(drawn, key=lambda name: sizes[name] <= SHARES["valid"] * total)


def _choose(counts: Mapping[str, int], total: int, num_left: int) -> str:
    """Choose the part that lacks most; an empty part if the groups left suffice only for those."""
    empty = [part for part in SHARES if not counts[part]]
    choice = empty if empty and num_left <= len(empty) else list(SHARES)
    return max(choice, key=lambda part: SHARES[part] * total - counts[part])
