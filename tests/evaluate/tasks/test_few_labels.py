import itertools
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from byola_rq.errors import ByolaRQError
from evaluate.tasks.few_labels import (
    describe_small_classes,
    find_rejected,
    keep_labels,
    parse_fractions,
)
from evaluate.tasks.folds import class_targets, make_folds
from evaluate.tasks.task import Clip, Task, TaskError, split_labels
from tests.refusal import refused


def make_task(sizes: dict[str, int], num_valid: int = 0, *, is_multilabel: bool = False) -> Task:
    """So many training clips of each label, `num_valid` to validate and one to test."""
    clips = [
        Clip(Path("a.wav"), f"{label}-{part}-{number:04d}", label, part)
        for label, size in sizes.items()
        for part, count in (("train", size), ("valid", num_valid), ("test", 1))
        for number in range(count)
    ]
    clips.sort(key=lambda clip: clip.file_name)
    source = Path("birds.csv")
    return Task("birds", source, tuple(clips), False, 1.0, is_multilabel=is_multilabel)


def count(task: Task, positions: np.ndarray) -> dict[str, int]:
    labels = [name for p in positions for name in split_labels(task.clips[p].label)]
    return {label: labels.count(label) for label in task.classes}


SIZES = st.dictionaries(st.sampled_from("abcdef"), st.integers(2, 60), min_size=2)


@given(
    sizes=SIZES, num_valid=st.integers(1, 9), fraction=st.floats(0.05, 1), seed=st.integers(0, 9)
)
def test_every_class_keeps_its_share(sizes, num_valid, fraction, seed):
    task = make_task(sizes, num_valid)
    (fold,) = make_folds(task, seed)
    if fraction < len(sizes) / sum(sizes.values()):
        with refused(TaskError, "value", Path("birds.csv"), value=fraction):
            keep_labels(task, fold, fraction, seed)
        return
    kept = keep_labels(task, fold, fraction, seed)
    assert count(task, kept.train) == {c: max(1, round(fraction * n)) for c, n in sizes.items()}
    assert set(count(task, kept.valid).values()) == {max(1, round(fraction * num_valid))}
    for part in ("train", "valid"):  # a speaker stays in the part of his
        assert set(getattr(kept, part)) <= set(getattr(fold, part))
        assert np.all(np.diff(getattr(kept, part)) > 0)
    np.testing.assert_array_equal(kept.test, fold.test)


def test_smaller_shares_are_parts_of_larger_ones_and_seeds_differ():
    task = make_task({"a": 200, "b": 100, "c": 40}, 20)
    (fold,) = make_folds(task, 0)
    kept = [keep_labels(task, fold, fraction, 0) for fraction in (0.02, 0.1, 0.35, 1)]
    for smaller, larger in itertools.pairwise(kept):
        assert set(smaller.train) < set(larger.train)
        assert set(smaller.valid) <= set(larger.valid)
    assert kept[-1] is fold
    again, other = keep_labels(task, fold, 0.1, 0), keep_labels(task, fold, 0.1, 1)
    np.testing.assert_array_equal(again.train, kept[1].train)
    assert set(other.train) != set(again.train)


def test_folds_draw_apart_and_a_class_apart_from_the_others():
    """Check that the clips drawn of a class do not depend on the size of another."""
    rows = [("ab"[n % 2], str(n // 2 % 3)) for n in range(120)]
    clips = tuple(Clip(Path("a.wav"), f"{n:03d}", *row) for n, row in enumerate(rows))
    task = Task("birds", Path("birds.csv"), clips, True, 1.0)
    first, second, _ = (keep_labels(task, fold, 0.2, 0) for fold in make_folds(task, 0))
    common = set(make_folds(task, 0)[0].train) & set(make_folds(task, 0)[1].train)
    assert set(first.train) & common != set(second.train) & common
    few, many = (make_task({"a": 50, "z": size}, 5) for size in (20, 80))
    named = [
        {task.clips[p].file_name for p in keep_labels(task, *make_folds(task, 0), 0.3, 0).train}
        for task in (few, many)
    ]
    of_a = [{name for name in names if name.startswith("a")} for names in named]
    assert of_a[0] == of_a[1]


def test_multilabel_clips_count_for_all_their_classes():
    sizes = {"rare,common": 10, "common": 80, "other": 30, "common,other": 40}
    task = make_task(sizes, 4, is_multilabel=True)
    (fold,) = make_folds(task, 0)
    kept = keep_labels(task, fold, 0.1, 0)
    counts = count(task, kept.train)
    assert counts["rare"] == 1
    assert counts["common"] >= 13  # of 130; those drawn for others may exceed it
    assert counts["other"] >= 7
    assert len(kept.train) < 0.1 * 160 + 7
    assert class_targets(task)[kept.valid].any(axis=0).all()


def test_small_classes_are_named():
    task = make_task({"a": 400, "b": 30, "c": 51, "d": 2}, 2)
    folds = make_folds(task, 0)
    text = describe_small_classes(task, folds, 0.01)
    assert "2 of 4 classes" in text
    assert text.endswith(": b, d")
    assert describe_small_classes(task, folds, 1) == ""
    many = make_task({"big": 9000} | {f"x{n}": 2 for n in range(9)}, 1)
    assert describe_small_classes(many, make_folds(many, 0), 0.01).endswith(
        "x0, x1, x2, x3, x4 and 4 more"
    )


def test_what_is_refused_is_what_leaves_no_clip_a_class():
    task = make_task({"a": 90, "b": 10}, 2)
    assert list(find_rejected(task, make_folds(task, 0), (0.01, 0.019, 0.02, 1))) == [0.01, 0.019]


def test_shares_as_typed():
    assert parse_fractions([]) == (1.0,)
    assert parse_fractions(["0.01", "1", "1e-2", ".5"]) == (0.01, 1.0, 0.5)
    for text in ("0", "1.5", "-0.1", "nan", "inf", "10%", "", "0.00001"):
        with refused(ByolaRQError, "value", key="--label-fraction", value=text):
            parse_fractions(["0.1", text])
