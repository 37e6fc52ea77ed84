import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluate.tasks.folds import class_indices, class_targets, describe_copies, make_folds
from evaluate.tasks.task import Clip, Task, TaskError
from tests.refusal import refused


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


def test_copies_in_the_test_part_are_told():
    rows = [("a", "train"), ("b", "train"), ("a", "valid"), ("b", "test"), ("a", "test")]
    task = make_task(rows, has_folds=False)
    (fold,) = make_folds(task, 0)
    embeddings = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    assert describe_copies(task, fold, embeddings) == ""
    embeddings[fold.test[1]] = embeddings[fold.valid[0]]
    told = describe_copies(task, fold, embeddings)
    assert told.startswith("1 of 2 ")
    assert task.clips[fold.test[1]].file_name in told


def test_class_indices_follow_the_sorted_classes():
    task = make_task([("b", "train"), ("a", "train"), ("c", "test")], has_folds=False)
    assert class_indices(task).tolist() == [1, 0, 2]


@pytest.mark.parametrize(
    ("rows", "has_folds", "facts"),
    [
        ([("a", "1"), ("b", "1")] * 2, True, ("value", "fold", "1")),
        ([("a", "1"), ("a", "2"), ("b", "2"), ("b", "2")], True, ("missing", "class", "b", "2")),
        ([("a", "train"), ("b", "train")] * 2, False, ("missing", "split", "test")),
        ([("a", "test"), ("b", "valid")] * 2, False, ("missing", "split", "train")),
        ([("a", "train"), ("b", "test")] * 2, False, ("missing", "class", "b")),
        ([("a", "train"), ("a", "test"), ("c", "valid")] * 2, False, ("missing", "class", "c")),
        ([("a", "train"), ("b", "train"), ("a", "test")], False, ("missing", "validation", None)),
    ],
)
def test_division_that_cannot_be_made(rows, has_folds, facts):
    check_refusal(make_task(rows, has_folds), *facts)


def check_refusal(task, code, key, value, *folds):
    """Check the error of an incomplete task; its message names the fold."""
    with refused(TaskError, code, task.source, key=key, value=value) as caught:
        make_folds(task, seed=0)
    assert all(repr(fold) in str(caught.value) for fold in folds)


TAGS = ("ant", "bee", "cow", "dog", "eel")


def make_tagged_task(rows: list[tuple[tuple[str, ...], str]], has_folds: bool) -> Task:
    """A multi-label task of (classes, part)."""
    task = make_task([(",".join(tags), part) for tags, part in rows], has_folds)
    return dataclasses.replace(task, is_multilabel=True)


def draw_plainly(labels: np.ndarray, is_train: np.ndarray, seed: tuple[int, int]) -> list[int]:
    """The draw of a single-label task in its obvious form: a loop over classes and all clips."""
    drawn = []
    for label in range(labels.max() + 1):
        members = [clip for clip in range(len(labels)) if is_train[clip] and labels[clip] == label]
        if len(members) >= 2:
            order = np.random.default_rng((*seed, label)).permutation(members)
            drawn += order[: max(1, round(0.1 * len(members)))].tolist()
    return sorted(drawn)


@given(rows=fold_sets(), seed=st.integers(0, 5))
def test_single_label_draw_is_that_of_the_obvious_loop(rows, seed):
    task = make_task(rows, has_folds=True)
    labels = class_indices(task)
    parts = np.array([part for _, part in rows])
    for number, fold in enumerate(make_folds(task, seed)):
        assert fold.valid.tolist() == draw_plainly(labels, parts != fold.name, (seed, number))


@st.composite
def tagged_sets(draw):
    """Clips of 1 to 3 classes to train, one at least of each class to test."""
    num_clips = draw(st.integers(5, 60))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    shares = generator.dirichlet(np.full(len(TAGS), 0.7))  # some classes are rare
    rows = [
        (tuple(generator.choice(TAGS, size=generator.integers(1, 4), p=shares)), "train")
        for _ in range(num_clips)
    ]
    rows += [((tag,), "train") for tag in TAGS for _ in range(2)]
    rows += [((tag,), "test") for tag in TAGS]
    return [(tuple(dict.fromkeys(tags)), part) for tags, part in rows]


@given(rows=tagged_sets(), seed=st.integers(0, 5))
def test_multilabel_draw_takes_a_tenth_of_every_class_and_leaves_every_class(rows, seed):
    task = make_tagged_task(rows, has_folds=False)
    (fold,) = make_folds(task, seed)
    together = np.concatenate([fold.train, fold.valid, fold.test])
    assert sorted(together) == list(range(len(rows)))  # no clip in two parts
    targets = class_targets(task)
    num_train, num_valid = targets[fold.train].sum(axis=0), targets[fold.valid].sum(axis=0)
    assert (num_train >= 1).all()
    for left, drawn in zip(num_train, num_valid, strict=True):
        assert drawn >= max(1, round(0.1 * int(left + drawn)))
    # No more than the classes' tenths one after the other.
    assert len(fold.valid) <= sum(max(1, round(0.1 * int(n))) for n in num_train + num_valid)
    assert fold.valid.tolist() == make_folds(task, seed)[0].valid.tolist()


def test_multilabel_draw_depends_on_the_seed():
    rows = [((TAGS[n % 5], TAGS[(n + 1) % 5]), "train") for n in range(100)]
    task = make_tagged_task([*rows, (TAGS, "test")], has_folds=False)
    assert make_folds(task, 0)[0].valid.tolist() != make_folds(task, 1)[0].valid.tolist()


def test_clip_without_which_a_class_is_not_trained_is_not_drawn():
    rows = [(("ant", "bee"), "train"), (("ant",), "train"), (("ant", "bee"), "test")]
    task = make_tagged_task(rows, has_folds=False)
    for seed in range(10):
        assert make_folds(task, seed)[0].valid.tolist() == [1]


def test_multilabel_split_is_taken_as_given():
    rows = [(("ant", "bee"), part) for part in ("train", "valid", "test")]
    (fold,) = make_folds(make_tagged_task(rows, has_folds=False), seed=0)
    assert [part.tolist() for part in (fold.train, fold.valid, fold.test)] == [[0], [1], [2]]


def test_multilabel_folds_test_every_clip_once():
    rows = [((TAGS[n % 5], TAGS[(n + 2) % 5]), str(n % 3)) for n in range(90)]
    folds = make_folds(make_tagged_task(rows, has_folds=True), seed=0)
    assert sorted(np.concatenate([fold.test for fold in folds])) == list(range(90))


@pytest.mark.parametrize(
    ("rows", "has_folds", "facts"),
    [
        ([("ab", "1"), ("a", "1"), ("a", "2")], True, ("missing", "class", "b", "1")),
        ([("a", "train"), ("ab", "test")], False, ("missing", "class", "b")),
        ([("ab", "train"), ("ab", "test")], False, ("missing", "validation", None)),
        ([("ab", "train"), ("a", "train"), ("b", "valid")], False, ("missing", "split", "test")),
    ],
)
def test_multilabel_division_that_cannot_be_made(rows, has_folds, facts):
    check_refusal(make_tagged_task([(tuple(tags), part) for tags, part in rows], has_folds), *facts)


def test_targets_of_a_multilabel_task():
    rows = [(("bee", "ant"), "train"), (("cow",), "test"), (("ant",), "test")]
    targets = class_targets(make_tagged_task(rows, has_folds=False))
    assert targets.tolist() == [[True, True, False], [False, False, True], [True, False, False]]
    assert targets.dtype == np.bool_
    single = make_task([("b", "train"), ("a", "test")], has_folds=False)
    assert class_targets(single).tolist() == class_indices(single).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("num_clips", "num_classes", "tags"), [(300_000, 5000, 1), (50_000, 200, 3)]
)
def test_large_sets_are_divided(num_clips, num_classes, tags):
    names = [f"class {number:04d}" for number in range(num_classes)]
    labels = [
        ",".join(names[(clip + 7 * tag) % num_classes] for tag in range(tags))
        for clip in range(num_clips)
    ]
    clips = [Clip(Path("a.wav"), "a.wav", label, "train") for label in labels]
    clips += [Clip(Path("a.wav"), "a.wav", name, "test") for name in names]
    task = Task("many", Path("many.csv"), tuple(clips), False, 1.0, is_multilabel=tags > 1)
    (fold,) = make_folds(task, seed=0)
    assert len(fold.train) + len(fold.valid) == num_clips
    # A tenth of every class: of one class a clip exactly, of several each clip counts for all.
    assert 0.1 * num_clips / tags <= len(fold.valid) <= 0.1 * num_clips * tags
