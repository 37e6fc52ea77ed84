import shutil

import pytest

from evaluate.publishers.base import Copy
from evaluate.publishers.layouts import find_layouts
from evaluate.publishers.urbansound import LAYOUT
from evaluate.tasks.task import Problem, TaskError
from tests.evaluate.conftest import write_csv
from tests.evaluate.published import URBAN_CLASSES, URBAN_HEADER, urban_rows, write_urbansound
from tests.refusal import refused

TABLE = "metadata/UrbanSound8K.csv"


def read(root):
    return LAYOUT.read(Copy(root, 0))


def test_published_counts_sum_to_the_set():
    assert sum(LAYOUT.counts.values()) == 8732
    assert list(LAYOUT.counts) == [str(fold) for fold in range(1, 11)]


def test_reads_the_folds(tmp_path):
    assert LAYOUT.is_root(write_urbansound(tmp_path))
    task = read(tmp_path)
    wanted = {(f"audio/fold{row[5]}/{row[0]}", row[7], row[5], row[1]) for row in urban_rows()}
    assert {(c.file_name, c.label, c.part, c.group) for c in task.clips} == wanted
    assert all(c.path == tmp_path / c.file_name and c.path.is_file() for c in task.clips)
    assert task.has_folds
    assert (task.name, task.unit_seconds, task.split_rule) == ("us8k", 4.0, "leave one fold out")
    assert task.classes == URBAN_CLASSES
    assert task.problems == ()
    assert task.warnings[0].startswith(
        "clips differ from the published set: fold 1 4 (published 873), fold 2 4 (published 888)"
    )


def test_reads_the_copy_on_kaggle(tmp_path):
    """Read a copy with its folds and its table in the root."""
    wanted = read(write_urbansound(tmp_path / "published"))
    root = write_urbansound(tmp_path / "kaggle")
    for fold in (root / "audio").iterdir():
        fold.rename(root / fold.name)
    (root / TABLE).rename(root / "UrbanSound8K.csv")
    for folder in ("audio", "metadata"):
        (root / folder).rmdir()
    assert find_layouts(tmp_path / "kaggle") == {"us8k": (root,)}
    task = read(root)
    assert [(f"audio/{c.file_name}", c.label, c.part, c.group) for c in task.clips] == [
        (c.file_name, c.label, c.part, c.group) for c in wanted.clips
    ]
    assert all(clip.path.is_file() for clip in task.clips)
    assert (task.split_rule, task.problems) == (wanted.split_rule, ())
    shutil.rmtree(root / "fold3")
    with refused(TaskError, "missing", root):
        read(root)
    (root / "UrbanSound8K.csv").unlink()
    assert not LAYOUT.is_root(root)  # folders called fold1 may be anything's


def test_missing_fold_is_named(tmp_path):
    shutil.rmtree(write_urbansound(tmp_path) / "audio/fold3")
    missing = sorted(f"audio/fold3/{row[0]}" for row in urban_rows() if row[5] == "3")
    with refused(TaskError, "missing", tmp_path, value=missing) as caught:
        read(tmp_path)
    assert "fold 3" in str(caught.value)


def test_fold_that_the_table_lost_is_a_warning(tmp_path):
    write_urbansound(tmp_path)
    rows = [tuple(row) for row in urban_rows() if row[5] != "10"]
    write_csv(tmp_path / TABLE, rows, URBAN_HEADER)
    task = read(tmp_path)
    assert "fold 10 0 (published 837)" in task.warnings[0]
    assert [problem.kind for problem in task.problems] == ["unlisted"]


def test_without_its_table(tmp_path):
    (write_urbansound(tmp_path) / TABLE).unlink()
    assert LAYOUT.is_root(tmp_path)
    with refused(TaskError, "missing", tmp_path, value=TABLE):
        read(tmp_path)


def test_recording_in_two_folds_is_a_problem(tmp_path):
    rows = urban_rows()
    rows[0][1] = rows[-1][1]
    task = read(write_urbansound(tmp_path, rows))
    assert task.problems == (Problem("overlap", rows[-1][1], "in 1 and 10"),)


def test_clip_listed_twice(tmp_path):
    rows = urban_rows()
    relabelled = [*rows[0][:-1], URBAN_CLASSES[1]]
    task = read(write_urbansound(tmp_path, [*rows, relabelled, rows[5]]))
    names = [f"audio/fold{row[5]}/{row[0]}" for row in (rows[0], rows[5])]
    assert task.problems == (
        Problem(
            "duplicate",
            names[0],
            "listed 2 times as air_conditioner and dog_bark; kept as air_conditioner",
        ),
        Problem("duplicate", names[1], "listed 2 times"),
    )
    assert len(task.clips) == 40


def test_names_of_any_kind(tmp_path):
    rows = urban_rows()
    rows[0][0], rows[1][0] = "a, b ü.wav", "梟 .wav"
    for row in rows:
        row[7] = row[7].replace("dog_bark", "Hund, groß")
    task = read(write_urbansound(tmp_path, rows))
    assert {"audio/fold1/a, b ü.wav", "audio/fold1/梟 .wav"} <= {c.file_name for c in task.clips}
    assert "Hund, groß" in task.classes
    assert not task.problems


BAD_TABLES = {
    "no column": (b"slice_file_name,fold,class\na.wav,1,dog\n", "malformed", "fsID"),
    "empty": (b"", "malformed", "slice_file_name"),
    "short row": (b"fsID,class,fold,slice_file_name\n1,dog\n", "empty", "slice_file_name"),
    "blank fold": (b"fsID,class,fold,slice_file_name\n1,dog, ,a\n", "empty", "fold"),
    "open quote": (b'fsID,class,fold,slice_file_name\n1,"dog,1,a\n', "malformed", None),
    "not UTF-8": (b"fsID,class,fold,slice_file_name\n1,d\xffg,1,a\n", "malformed", None),
}


@pytest.mark.parametrize(("text", "code", "key"), BAD_TABLES.values(), ids=BAD_TABLES.keys())
def test_broken_table_is_one_clear_line(tmp_path, text, code, key):
    path = write_urbansound(tmp_path) / TABLE
    path.write_bytes(text)
    with refused(TaskError, code, path, key=key) as caught:
        read(tmp_path)
    assert code != "empty" or "row 2" in str(caught.value)
    assert isinstance(caught.value.__cause__, UnicodeDecodeError) == (b"\xff" in text)


def test_class_with_one_clip(tmp_path):
    rows = urban_rows()
    rows[0][7] = "siren"
    write_urbansound(tmp_path, rows)
    with refused(TaskError, "missing", tmp_path, key="class", value="siren"):
        read(tmp_path)
