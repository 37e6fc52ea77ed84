"""The plan of a corpus: fixed once, equal for all, differences said."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from byola_rq.errors import CorpusError
from byola_rq.packing.plan import (
    PackingPlan,
    check_same_plan,
    compare_plans,
    digest_shards,
    fix_plan,
    read_plan,
)
from tests.refusal import refused

ROWS = [f"clip {number}" for number in range(10)]


def plan_of(rows: list[str], **values: object) -> PackingPlan:
    plan = PackingPlan(
        options={"limit": None, "max_seconds": 60.0},
        num_clips=len(rows),
        clips_per_shard=4,
        mean_seconds=10.0,
        digests=digest_shards(rows, 4),
        rejected=[("a", "b")],
        num_duplicates=1,
    )
    return replace(plan, **values)  # type: ignore[arg-type]


def test_shards_are_runs_of_the_list() -> None:
    plan = plan_of(ROWS)
    assert plan.num_shards == 3
    assert [list(plan.clips_of(shard)) for shard in range(3)] == [
        [0, 1, 2, 3], [4, 5, 6, 7], [8, 9]
    ]  # fmt: skip


@pytest.mark.parametrize("of", [1, 2, 3, 5])
def test_shares_are_a_partition_of_the_shards(of: int) -> None:
    plan = plan_of([str(number) for number in range(45)])
    shares = [list(plan.shards_of((number, of))) for number in range(1, of + 1)]
    assert sorted(shard for share in shares for shard in share) == list(range(12))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert list(plan.shards_of((13, 20))) == []


def test_a_plan_is_fixed_once(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "corpus"
    assert read_plan(folder) is None
    check_same_plan(folder, plan_of(ROWS))
    fix_plan(folder, plan_of(ROWS))
    assert read_plan(folder) == plan_of(ROWS)
    fix_plan(folder, plan_of(ROWS))
    with refused(CorpusError, "different", folder, key="clips"):
        fix_plan(folder, plan_of(ROWS[:9]))
    assert read_plan(folder) == plan_of(ROWS)


@pytest.mark.parametrize(
    ("changes", "differences"),
    [
        ({}, {}),
        (
            {"options": {"limit": 5, "max_seconds": 9.0}},
            {"limit": ["None", "5"], "max_seconds": ["60.0", "9.0"]},
        ),
        ({"rejected": []}, {"files": []}),
        (
            {"digests": digest_shards([*ROWS[:5], "other", *ROWS[6:]], 4)},
            {"clips": ["4", "7"]},
        ),
        (
            {"digests": digest_shards([*ROWS[:9], "other"], 4)},
            {"clips": ["8", "9"]},
        ),
    ],
)
def test_differences_are_reported(
    changes: dict[str, object], differences: dict[str, list[str]]
) -> None:
    found = compare_plans(plan_of(ROWS), plan_of(ROWS, **changes))
    assert {key: re.findall(r"\bNone|[\d.]+", said) for key, said in found.items()} == differences


def test_a_plan_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    fix_plan(tmp_path, plan_of(ROWS))
    for text in ("{", "{}", "[1]"):
        (tmp_path / ".parts" / "plan.json").write_text(text)
        with refused(CorpusError, "damaged", tmp_path / ".parts" / "plan.json"):
            read_plan(tmp_path)


@pytest.mark.parametrize(
    "values",
    [
        {"clips_per_shard": 0},
        {"clips_per_shard": -4},
        {"clips_per_shard": "4"},
        {"mean_seconds": -1.0},
        {"mean_seconds": None},
        {"digests": [1]},
        {"rejected": ["a"]},
        {"options": []},
        {"more": 1},
    ],
)
def test_a_plan_of_another_shape_is_refused(tmp_path: Path, values: dict[str, object]) -> None:
    fix_plan(tmp_path, plan_of(ROWS))
    path = tmp_path / ".parts" / "plan.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    with refused(CorpusError, "damaged", path):
        read_plan(tmp_path)
