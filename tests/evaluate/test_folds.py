from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluate.folds import class_indices, make_folds
from evaluate.tasks import Clip, Task, TaskError


def make_task(rows: list[tuple[str, str]], has_folds: bool) -> Task:
    clips = tuple(
        Clip(Path(f"{n:03d}.wav"), f"{n:03d}.wav", label, part)
        for n, (label, part) in enumerate(rows)
    )
    return Task("birds", Path("birds.csv"), clips, has_folds, 1.0)


def labels_of(task: Task, positions) -> list[str]:
    return [task.clips[position].label for position in positions]


def count(labels: list[str]) -> dict[str, int]:
    return {label: labels.count(label) for label in sorted(set(labels))}


@st.composite
def fold_sets(draw):
    """2 to 4 folds and classes, every class in at least two folds."""
    num_folds, num_classes = draw(st.integers(2, 4)), draw(st.integers(2, 4))
    sizes = st.lists(st.integers(0, 12), min_size=num_folds, max_size=num_folds)
    sizes = sizes.filter(lambda counts: sum(size > 0 for size in counts) >= 2)
    rows = [
        (f"class {c}", f"fold {f}")
        for c in range(num_classes)
        for f, size in enumerate(draw(sizes))
        for _ in range(size)
    ]
    # A fold left out must leave some class two clips, or no validation part can be drawn.
    rows += [("class 0", f"fold {f}") for f in range(num_folds) for _ in range(2)]
    return draw(st.permutations(rows))


@given(rows=fold_sets(), seed=st.integers(0, 5))
def test_folds_divide_the_clips(rows, seed):
    task = make_task(rows, has_folds=True)
    labels = np.array([label for label, _ in rows])
    folds = make_folds(task, seed)
    tested = np.concatenate([fold.test for fold in folds])
    assert sorted(tested) == list(range(len(rows)))  # every clip once
    for fold in folds:
        assert {task.clips[p].part for p in fold.test} == {fold.name}
        together = np.concatenate([fold.train, fold.valid, fold.test])
        assert sorted(together) == list(range(len(rows)))  # no clip in two parts
        for label in task.classes:
            num_train, num_valid = (np.sum(labels[p] == label) for p in (fold.train, fold.valid))
            rest = num_train + num_valid
            assert num_train >= 1
            assert num_valid == (max(1, round(0.1 * rest)) if rest >= 2 else 0)


def test_split_is_taken_as_given():
    task = make_task([(c, p) for p in ("train", "valid", "test") for c in "aabb"], has_folds=False)
    (fold,) = make_folds(task, seed=0)
    assert fold.name == ""
    assert fold.train.tolist() == [0, 1, 2, 3]
    assert fold.valid.tolist() == [4, 5, 6, 7]
    assert fold.test.tolist() == [8, 9, 10, 11]


def test_missing_validation_part_is_drawn_from_training():
    rows = [("a", "train")] * 40 + [("b", "train")] * 8 + [("c", "train")]
    rows += [("a", "test"), ("b", "test"), ("c", "test")]
    task = make_task(rows, has_folds=False)
    (fold,) = make_folds(task, seed=0)
    assert count(labels_of(task, fold.valid)) == {"a": 4, "b": 1}
    assert count(labels_of(task, fold.train)) == {"a": 36, "b": 7, "c": 1}
    assert fold.test.tolist() == [49, 50, 51]


def test_seed_decides_the_draw():
    task = make_task([("a", "train"), ("b", "train")] * 50 + [("a", "test")] * 5, has_folds=False)
    draws = [make_folds(task, seed)[0].valid.tolist() for seed in (3, 3, 4)]
    assert draws[0] == draws[1]
    assert draws[0] != draws[2]


def test_folds_draw_apart():
    task = make_task([(c, str(f)) for f in range(3) for c in "ab" * 20], has_folds=True)
    places = {tuple(np.searchsorted(fold.train, fold.valid)) for fold in make_folds(task, 0)}
    assert len(places) == 3


def test_folds_are_in_natural_order():
    names = ["10", "2", "1", "rest"]
    task = make_task([(c, name) for name in names for c in "aabb"], has_folds=True)
    assert [fold.name for fold in make_folds(task, 0)] == ["1", "2", "10", "rest"]


def test_class_indices_follow_the_sorted_classes():
    task = make_task([("b", "train"), ("a", "train"), ("c", "test")], has_folds=False)
    assert class_indices(task).tolist() == [1, 0, 2]


@pytest.mark.parametrize(
    ("rows", "has_folds", "message"),
    [
        ([("a", "1"), ("b", "1")] * 2, True, "at least 2 values; got only '1'"),
        ([("a", "1"), ("a", "2"), ("b", "2"), ("b", "2")], True, "fold '2' left out, class 'b'"),
        ([("a", "train"), ("b", "train")] * 2, False, "name test clips; got none"),
        ([("a", "test"), ("b", "valid")] * 2, False, "name train clips; got none"),
        ([("a", "train"), ("b", "test")] * 2, False, "class 'b' must have training clips"),
        ([("a", "train"), ("a", "test"), ("c", "valid")] * 2, False, "class 'c' must have train"),
        ([("a", "train"), ("b", "train"), ("a", "test")], False, "validation part"),
    ],
)
def test_division_that_cannot_be_made(rows, has_folds, message):
    with pytest.raises(TaskError, match=message):
        make_folds(make_task(rows, has_folds), seed=0)
