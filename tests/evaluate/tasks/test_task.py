from collections import Counter
from pathlib import Path

import pytest

from evaluate.tasks.task import (
    Clip,
    Problem,
    Task,
    TaskError,
    check_classes,
    check_names,
    find_overlaps,
    limit_clips,
    split_labels,
)
from tests.refusal import refused


def make_task(rows, **facts) -> Task:
    clips = tuple(
        Clip(Path(f"/x/{number}.wav"), f"{number}.wav", label, part, group=group)
        for number, (label, part, group) in enumerate(rows)
    )
    return Task("t", Path("/x"), clips, has_folds=False, unit_seconds=1.0, **facts)


def test_classes_are_sorted_labels():
    assert make_task([("b", "train", ""), ("a,c", "test", "")]).classes == ("a,c", "b")
    task = make_task([("b, a", "train", ""), ("a,c", "test", "")], is_multilabel=True)
    assert task.classes == ("a", "b", "c")
    assert split_labels(" a ,b,,") == ("a", "b")


def test_groups_in_several_parts_are_found():
    clips = make_task(
        [("a", "train", "ann"), ("b", "test", "ann"), ("a", "train", "bob"), ("a", "train", "bob"),
         ("a", "train", ""), ("a", "test", "")]
    ).clips  # fmt: skip
    assert find_overlaps(clips) == (Problem("overlap", "ann", "in test and train"),)


def test_two_tasks_of_one_name():
    task = make_task([("a", "train", "")])
    with refused(TaskError, "twice", task.source, value="t"):
        check_names([task, task])


BAD_SETS = {
    "no clips": ([], False, ("empty", None, None)),
    "one class": ([("a", "train", "")] * 2, False, ("value", "label", "a")),
    "one clip": ([("a", "train", "")] * 2 + [("b", "test", "")], False, ("missing", "class", "b")),
    "one clip of several labels": (
        [("a,b", "train", ""), ("a", "test", "")], True, ("missing", "class", "b")
    ),
}  # fmt: skip


@pytest.mark.parametrize(("rows", "several", "facts"), BAD_SETS.values(), ids=BAD_SETS.keys())
def test_sets_that_cannot_be_told_apart(rows, several, facts):
    code, key, value = facts
    task = make_task(rows, is_multilabel=several)
    with refused(TaskError, code, task.source, key=key, value=value):
        check_classes(task)


def test_limit_takes_as_many_of_each_class_and_part():
    rows = [(label, part, "") for label in "ab" for part in ("train", "test") for _ in range(9)]
    task = make_task([*rows, ("b", "valid", "")], split_rule="lists")
    limited = limit_clips(task, 4, seed=1)
    counts = Counter((clip.label, clip.part) for clip in limited.clips)
    assert set(counts.values()) == {4, 1}
    assert len(counts) == 5
    assert limited.split_rule == "lists; limit 4"
    assert list(limited.clips) == sorted(limited.clips, key=task.clips.index)  # in the old order
    assert limit_clips(task, 4, seed=1) == limited
    assert limit_clips(task, 4, seed=2).clips != limited.clips
    assert limit_clips(task, 9, seed=1).clips == task.clips
