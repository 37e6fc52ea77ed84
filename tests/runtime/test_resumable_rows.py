"""Rows count where they are written, under their key, as long as their mark is the same."""

from pathlib import Path

import numpy as np
import pytest

from byola_rq.runtime.resumable_rows import ResumableRows

ROWS = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
MARKS = np.arange(1, 9, dtype=np.uint8).reshape(4, 2)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Rows 3 and 1 are there."""
    path = tmp_path / "rows.npy"
    rows = ResumableRows(path, "key", MARKS, 3)
    assert not rows.is_done.any()
    rows.add([3, 1], ROWS[[3, 1]])
    rows.flush()
    assert rows.is_done.tolist() == [False, True, False, True]
    return path


def test_they_are_there_again(path: Path) -> None:
    rows = ResumableRows(path, "key", MARKS, 3)
    assert rows.is_done.tolist() == [False, True, False, True]
    np.testing.assert_array_equal(rows.array[rows.is_done], ROWS[rows.is_done])


def test_a_row_of_another_mark_is_not_done(path: Path) -> None:
    marks = MARKS.copy()
    marks[1, 1] += 1
    assert ResumableRows(path, "key", marks, 3).is_done.tolist() == [False, False, False, True]


def test_another_key_begins_anew(path: Path) -> None:
    assert not ResumableRows(path, "another", MARKS, 3).is_done.any()
    assert not ResumableRows(path, "key", MARKS, 3).is_done.any()


@pytest.mark.parametrize("name", ["rows.npy", "rows.done.npy"])
def test_damage_is_an_error(path: Path, name: str) -> None:
    path.with_name(name).write_bytes(path.with_name(name).read_bytes()[:-1])
    with pytest.raises(ValueError):  # noqa: PT011 - numpy's
        ResumableRows(path, "key", MARKS, 3)


def test_the_finished_array_stands_alone(path: Path) -> None:
    rows = ResumableRows(path, "key", MARKS, 3)
    rows.add(np.array([0, 2]), ROWS[[0, 2]])
    rows.finish(path.with_name("whole.npy"))
    assert [each.name for each in path.parent.iterdir()] == ["whole.npy"]
    np.testing.assert_array_equal(np.load(path.with_name("whole.npy")), ROWS)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 3), np.float64),
        np.zeros((4, 3), np.uint8),
        np.zeros((4, 2), np.float32),
        np.zeros((5, 3), np.float32),
        np.zeros((3, 4), np.float32).T,
        np.zeros(12, np.float32),
        np.zeros((4, 3), ">f4"),
    ],
    ids=range(7),
)
def test_rows_of_another_form_are_not_gone_on_with(path: Path, array: np.ndarray) -> None:
    np.save(path, array)
    with pytest.raises(ValueError, match=path.name):
        ResumableRows(path, "key", MARKS, 3)
