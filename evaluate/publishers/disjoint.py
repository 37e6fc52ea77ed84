"""A split of our own where the publisher gives none: groups of clips, each in one part alone."""

from collections import Counter
from collections.abc import Mapping

import numpy as np

from evaluate.tasks.task import TaskError

SHARES = {"train": 0.70, "valid": 0.15, "test": 0.15}  # of the clips of each stratum
SPLIT_RULE = "disjoint 70/15/15"


def divide_groups(
    sizes: Mapping[str, Mapping[str, int]], seed: int, *, where: str, group: str
) -> dict[str, str]:
    """Give every group to one part, so that each stratum is shared out 70/15/15 by clips.

    A part may exceed its share of a stratum by less than the stratum's largest group. A group of
    several strata keeps the part it got in the first. Depends on the names, sizes and seed alone,
    not on the order in which they come.

    Args:
        sizes: Clips of each group by stratum (a language, a class), at least one.
        seed: Of the order in which groups are given out.
        where: What is divided, for the message.
        group: What a group is, in one word, for the message.

    Returns:
        The part of each group.

    Raises:
        TaskError: If a stratum has not a group for each part.
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
    """Drawn, but those that would fill a validation part first, while training has room."""
    drawn = generator.permutation(sorted(sizes)).tolist() if sizes else []
    return sorted(drawn, key=lambda name: sizes[name] <= SHARES["valid"] * total)


def _choose(counts: Mapping[str, int], total: int, num_left: int) -> str:
    """The part that lacks most; an empty one where no more groups are left than empty parts."""
    empty = [part for part in SHARES if not counts[part]]
    choice = empty if empty and num_left <= len(empty) else list(SHARES)
    return max(choice, key=lambda part: SHARES[part] * total - counts[part])
