import shutil

import pytest

from evaluate.publishers.base import Copy
from evaluate.publishers.urbansound import LAYOUT
from evaluate.tasks.task import Problem, TaskError
from tests.evaluate.conftest import write_csv
from tests.evaluate.published import URBAN_CLASSES, URBAN_HEADER, urban_rows, write_urbansound

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


def test_missing_fold_is_named(tmp_path):
    shutil.rmtree(write_urbansound(tmp_path) / "audio/fold3")
    with pytest.raises(
        TaskError,
        match=r"UrbanSound8K is half unpacked: 4 of the 40 listed clips are not there "
        r"\(audio/fold3/300-0-0-0.wav.*all of fold 3\). Unpack",
    ):
        read(tmp_path)


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
    with pytest.raises(TaskError, match=r"half unpacked: metadata/UrbanSound8K.csv is not there"):
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
    "no column": ("slice_file_name,fold,class\na.wav,1,dog\n", "the header must name fsID"),
    "empty": ("", "the header must name slice_file_name, fold, class, fsID"),
    "short row": ("fsID,class,fold,slice_file_name\n1,dog\n", "row 2: slice_file_name must not be"),
    "blank fold": ("fsID,class,fold,slice_file_name\n1,dog, ,a\n", "row 2: fold must not be empty"),
    "open quote": ('fsID,class,fold,slice_file_name\n1,"dog,1,a\n', "not a csv: unexpected end"),
    "not UTF-8": (b"fsID,class,fold,slice_file_name\n1,d\xffg,1,a\n", "the csv must be UTF-8"),
}


@pytest.mark.parametrize(("text", "message"), BAD_TABLES.values(), ids=BAD_TABLES.keys())
def test_broken_table_is_one_clear_line(tmp_path, text, message):
    path = write_urbansound(tmp_path) / TABLE
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(TaskError, match=message) as caught:
        read(tmp_path)
    assert str(caught.value).startswith(str(path))


def test_class_with_one_clip(tmp_path):
    rows = urban_rows()
    rows[0][7] = "siren"
    with pytest.raises(TaskError, match=r"at least 2 clips.*'siren' has 1"):
        read(write_urbansound(tmp_path, rows))
