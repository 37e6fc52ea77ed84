import csv
import os
import shutil
import unicodedata
from pathlib import Path

import pytest

from byola_rq.errors import AudioError
from evaluate.tasks.labelled_csv import read_labelled_csv
from evaluate.tasks.task import Task, TaskError, check_names
from tests.refusal import refused

HEADER = ("file_name", "label", "split")


@pytest.fixture
def rewrite(tmp_path, write_set, split_rows):
    """A good set on disk whose csv a test replaces by its own lines."""
    path = write_set(tmp_path / "birds.csv", split_rows)

    def write(change):
        rows = [list(HEADER), *map(list, split_rows)]
        change(rows)
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(rows)
        return path

    return write


def test_reads_every_row(tmp_path, write_set, split_rows):
    path = write_set(tmp_path / "birds.csv", split_rows)
    task = read_labelled_csv(path)
    assert (task.name, task.has_folds) == ("birds", False)
    assert {(c.file_name, c.label, c.part) for c in task.clips} == set(split_rows)
    assert all(clip.path == tmp_path / clip.file_name for clip in task.clips)
    assert task.classes == ("high", "low", "middle")


def test_order_of_the_rows_changes_nothing(rewrite):
    task = read_labelled_csv(rewrite(lambda rows: None))
    turned = read_labelled_csv(rewrite(lambda rows: rows.__setitem__(slice(1, None), rows[:0:-1])))
    assert turned == task


def test_metadata_is_named_after_its_folder(tmp_path, write_set, split_rows):
    assert read_labelled_csv(write_set(tmp_path / "owls/metadata.csv", split_rows)).name == "owls"


@pytest.mark.parametrize(
    ("written", "part"),
    [
        ("val", "valid"), ("validation", "valid"), ("dev", "valid"), ("Train", "train"),
        ("training", "train"), ("tr", "train"),
    ],
)  # fmt: skip
def test_other_names_of_the_parts(rewrite, written, part):
    task = read_labelled_csv(rewrite(lambda rows: rows[1].__setitem__(2, written)))
    assert next(c for c in task.clips if c.file_name == "audio/low_0.wav").part == part


def test_a_part_for_testing_has_one_name(rewrite):
    """`eval` is the test part, unless there is one besides."""

    def rename(rows, num_kept=0):
        for row in [row for row in rows if row[2] == "test"][num_kept:]:
            row[2] = "eval"

    assert read_labelled_csv(rewrite(rename)) == read_labelled_csv(rewrite(lambda rows: None))
    with refused(TaskError, "twice", key="split"):
        read_labelled_csv(rewrite(lambda rows: rename(rows, 1)))


@pytest.mark.parametrize("separator", [";", "|", "\t"])
def test_tables_as_other_systems_write_them(rewrite, separator):
    path = rewrite(lambda rows: None)
    task = read_labelled_csv(path)
    header, *lines = path.read_text().splitlines()
    text = "\n".join([header.title(), *(line.replace("/", "\\") for line in lines)])
    path.write_text(text.replace(",", separator).replace("File_Name", "Path"))
    other = read_labelled_csv(path)
    assert [(c.path, c.label, c.part) for c in other.clips] == [
        (c.path, c.label, c.part) for c in task.clips
    ]


def test_two_forms_of_a_letter_are_one_class(rewrite):
    def rename(rows):
        for number, row in enumerate(rows[1:]):
            if row[1] == "low":
                row[1] = unicodedata.normalize(("NFC", "NFD")[number % 2], "käuzchen")

    classes = read_labelled_csv(rewrite(rename)).classes
    assert len(classes) == 3


def test_labels_may_hold_commas_spaces_and_any_script(rewrite):
    names = {"low": "Käuzchen, klein", "middle": "фи лин", "high": '梟 "A"'}

    def rename(rows):
        for row in rows[1:]:
            row[1] = names[row[1]]

    assert set(read_labelled_csv(rewrite(rename)).classes) == set(names.values())


def test_byte_order_mark_and_empty_lines_are_allowed(rewrite):
    path = rewrite(lambda rows: None)
    task = read_labelled_csv(path)
    path.write_text("\ufeff" + path.read_text().replace("\n", "\n\n"), encoding="utf-8")
    assert read_labelled_csv(path) == task


def test_unit_is_the_longest_clip(tmp_path, write_set, split_rows):
    path = write_set(tmp_path / "a.csv", split_rows, seconds=0.25)
    longer = write_set(tmp_path / "b/b.csv", split_rows[:1], seconds=0.5).parent / split_rows[0][0]
    shutil.copy(longer, tmp_path / split_rows[0][0])
    task = read_labelled_csv(path)
    assert task.unit_seconds == 0.5
    assert "unit 0.5 s, the longest clip" in task.notes
    shorter = read_labelled_csv(path, unit_seconds=0.2)
    assert (shorter.unit_seconds, shorter.notes) == (0.2, ("unit 0.2 s, as given",))


def test_default_unit_has_a_limit(tmp_path, write_set, split_rows):
    path = write_set(tmp_path / "a.csv", split_rows)
    write_set(tmp_path / "long.csv", split_rows[:1], seconds=10.5)
    task = read_labelled_csv(path)
    assert task.unit_seconds == 10.0
    assert any("10.5 s" in note for note in task.notes)


def test_fold_wins_over_split_and_says_so(rewrite):
    def add_fold(rows):
        rows[0].append("fold")
        for number, row in enumerate(rows[1:]):
            row.append(f"f{number % 2}")

    task = read_labelled_csv(rewrite(add_fold))
    assert task.has_folds
    assert {clip.part for clip in task.clips} == {"f0", "f1"}
    assert any("both fold and split" in note for note in task.notes)


BAD_ROWS = {
    "empty label": (lambda rows: rows[2].__setitem__(1, " "), 3, "empty", {"key": "label"}),
    "missing file": (
        lambda rows: rows[3].__setitem__(0, "no.wav"), 4, "missing",
        {"key": "file_name", "value": "no.wav"},
    ),
    "file name too long": (
        lambda rows: rows[3].__setitem__(0, "x" * 5000), 4, "missing",
        {"key": "file_name", "value": "x" * 5000},
    ),
    "no file name": (
        lambda rows: rows[3].__setitem__(0, ""), 4, "missing", {"key": "file_name", "value": ""}
    ),
    "unknown split": (
        lambda rows: rows[1].__setitem__(2, "trian"), 2, "value", {"key": "split", "value": "trian"}
    ),
    "short row": (lambda rows: rows[5].pop(), 6, "malformed", {"key": None}),
    "two parts": (
        lambda rows: rows.append(["audio/../audio/low_0.wav", "low", "test"]), 32, "twice",
        {"value": "audio/../audio/low_0.wav"},
    ),
    "no rows": (lambda rows: rows.__delitem__(slice(1, None)), None, "empty", {"key": None}),
    "no header": (lambda rows: rows.clear(), None, "empty", {"key": None}),
    "no label column": (
        lambda rows: rows[0].__setitem__(1, "class"), 1, "malformed", {"key": "label or labels"}
    ),
    "no split column": (
        lambda rows: rows[0].__setitem__(2, "part"), 1, "malformed", {"key": "split or fold"}
    ),
    "both label columns": (
        lambda rows: rows[0].append("labels"), 1, "twice", {"key": "label or labels"}
    ),
    "column twice": (lambda rows: rows[0].append("label"), 1, "twice", {"key": "label"}),
    "one class": (
        lambda rows: rows.__delitem__(slice(11, None)), None, "value",
        {"key": "label", "value": "low"},
    ),
    "one clip": (
        lambda rows: rows.__delitem__(slice(22, None)), None, "missing",
        {"key": "class", "value": "high"},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "row", "code", "facts"), BAD_ROWS.values(), ids=BAD_ROWS.keys())
def test_bad_csv_names_file_row_and_rule(rewrite, change, row, code, facts):
    path = rewrite(change)
    with refused(TaskError, code, path, **facts) as caught:
        read_labelled_csv(path)
    where = f"{path}: " if row is None else f"{path}, row {row}: "
    assert str(caught.value).startswith(where)


def test_file_in_two_parts_names_both_rows(rewrite):
    path = rewrite(lambda rows: rows.append(["audio/../audio/low_0.wav", "low", "test"]))
    with refused(TaskError, "twice", path) as caught:
        read_labelled_csv(path)
    for fact in ("row 32", "test", "row 2 ", "train"):
        assert fact in str(caught.value)


@pytest.mark.parametrize(("name", "is_hinted"), [("low_1.wav", True), ("gone.wav", False)])
def test_a_missing_file_that_lies_one_folder_deeper_is_pointed_at(rewrite, name, is_hinted):
    def shorten(rows):
        rows[2][0] = name

    path = rewrite(shorten)
    with refused(TaskError, "missing", path, key="file_name", value=name) as caught:
        read_labelled_csv(path)
    assert ("audio/" in str(caught.value)) == ("--data-root" in str(caught.value)) == is_hinted


def test_labels_column_makes_a_task_multilabel(rewrite):
    def several(rows):
        rows[0][1] = "labels"
        rows[1][1] = "low, middle"

    task = read_labelled_csv(rewrite(several))
    assert task.is_multilabel
    assert task.classes == ("high", "low", "middle")
    assert {clip.label for clip in task.clips} == {"low,middle", "low", "middle", "high"}
    assert any("mean average precision" in note for note in task.notes)


@pytest.mark.parametrize("separator", [";", "|", " ; "])
def test_labels_may_be_joined_by_something_else(rewrite, separator):
    def several(rows):
        rows[0][1] = "labels"
        rows[1][1] = separator.join(["low", "middle"])

    task = read_labelled_csv(rewrite(several))
    assert task.classes == ("high", "low", "middle")
    assert {clip.label for clip in task.clips} == {"low,middle", "low", "middle", "high"}
    assert any(repr(separator.strip()) in note for note in task.notes)


@pytest.mark.parametrize("second", ["low, middle", "low|middle"])
def test_labels_joined_in_two_ways_are_reported(rewrite, second):
    def several(rows):
        rows[0][1] = "labels"
        for row, joined in zip(
            rows[1:5], [second, second, "low; middle", "low; middle"], strict=True
        ):
            row[1] = joined

    task = read_labelled_csv(rewrite(several))
    assert "low; middle" in task.classes  # only commas separate then
    assert any("only commas" in note for note in task.notes)


@pytest.mark.parametrize(("mark", "name"), [(";", "a semicolon"), ("|", "a bar")])
def test_label_with_another_separator_is_one_class_and_pointed_at(rewrite, mark, name):
    def rename(rows):
        for row in rows[1:11]:
            row[1] = f"low{mark}very"

    task = read_labelled_csv(rewrite(rename))
    assert task.classes == ("high", f"low{mark}very", "middle")
    assert any(f"a label with {name} is one class" in note for note in task.notes)


def test_label_with_a_comma_is_one_class(rewrite):
    def rename(rows):
        for row in rows[1:11]:
            row[1] = "low, very"

    task = read_labelled_csv(rewrite(rename))
    assert task.classes == ("high", "low, very", "middle")
    assert any("a label with a comma is one class" in note for note in task.notes)


def test_file_that_is_no_csv(tmp_path):
    path = tmp_path / "a.csv"
    with refused(TaskError, "unreadable", path):
        read_labelled_csv(path)
    path.write_bytes(b'file_name,label,split\n"a.wav,a\n')
    with refused(TaskError, "malformed", path) as caught:
        read_labelled_csv(path)
    assert isinstance(caught.value.__cause__.__cause__, csv.Error)
    path.write_bytes("file_name,label,split\n".encode("utf-16"))
    with refused(TaskError, "malformed", path, key="file_name or path"):
        read_labelled_csv(path)


def test_names_are_bytes_and_the_home_folder_is_known(rewrite, monkeypatch):
    path = rewrite(lambda _: None)
    monkeypatch.setenv("HOME", str(path.parent))
    table = path.read_bytes().split(b"\n")
    first, second = (table[row].split(b",")[0].strip() for row in (1, 2))
    os.rename(path.parent / os.fsdecode(first), os.fsencode(path.parent) + b"/caf\xe9.wav")
    table[1] = table[1].replace(first, b"caf\xe9.wav")
    table[2] = table[2].replace(second, b"~/" + second)
    path.write_bytes(b"\n".join(table))
    paths = {os.fsencode(clip.path) for clip in read_labelled_csv(path).clips}
    assert {os.fsencode(path.parent) + b"/" + name for name in (b"caf\xe9.wav", second)} <= paths


def test_file_that_is_no_audio(rewrite, tmp_path):
    path = rewrite(lambda rows: None)
    (tmp_path / "audio/low_1.wav").write_text("no audio")
    with refused(AudioError, "damaged", tmp_path / "audio/low_1.wav"):
        read_labelled_csv(path)


@pytest.mark.parametrize("unit_seconds", [0.0, -1.0, 0.09, float("nan"), float("inf")])
def test_unit_out_of_range(rewrite, unit_seconds):
    path = rewrite(lambda rows: None)
    with refused(TaskError, "value", key="unit_seconds") as caught:
        read_labelled_csv(path, unit_seconds)
    assert caught.value.value is unit_seconds


@pytest.mark.parametrize("name", ["mean", "model", "probe", "source", "birds_low", "birds_high"])
def test_name_must_not_hide_a_column_of_the_summary(tmp_path, write_set, split_rows, name):
    path = write_set(tmp_path / f"{name}.csv", split_rows)
    with refused(TaskError, "value", path, key="task name", value=name):
        read_labelled_csv(path)


def test_two_tasks_of_one_name():
    first, second = (Task("birds", Path(f"{x}/birds.csv"), (), False, 1.0) for x in "ab")
    check_names([first])
    with refused(TaskError, "twice", second.source, value="birds") as caught:
        check_names([first, second])
    assert str(first.source) in str(caught.value)
