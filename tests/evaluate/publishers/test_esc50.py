import pytest

from evaluate.publishers.base import Copy
from evaluate.publishers.esc50 import LAYOUT
from evaluate.publishers.layouts import find_layouts, read_layout
from evaluate.tasks.task import Problem, TaskError
from tests.evaluate.conftest import write_csv, write_sound
from tests.refusal import refused

HEADER = ("filename", "fold", "target", "category", "esc10", "src_file")
CLASSES = ("dog", "door_wood_knock")
TABLE = "meta/esc50.csv"


def rows():
    """Return rows in which each fold has two takes of one recording of each class."""
    return [
        (f"{fold}-{recording}-{take}-{number}.wav", str(fold), str(number), label, "-", recording)
        for fold in range(1, 6)
        for number, label in enumerate(CLASSES)
        for recording in [f"{fold}00{number}"]
        for take in ("A", "B")
    ]


def write_esc50(root, table=None):
    table = rows() if table is None else table
    for row in table:
        write_sound(root / "audio" / row[0], 440.0, 0.02)
    write_csv(root / TABLE, table, HEADER)
    return root


def read(root):
    return LAYOUT.read(Copy(root, 0))


def test_published_counts_sum_to_the_set():
    assert sum(LAYOUT.counts.values()) == 2_000
    assert (LAYOUT.num_classes, LAYOUT.unit_seconds) == (50, 5.0)


def test_reads_the_folds(tmp_path):
    assert LAYOUT.is_root(write_esc50(tmp_path))
    task = read(tmp_path)
    wanted = {(f"audio/{row[0]}", row[3], row[1], row[5]) for row in rows()}
    assert {(c.file_name, c.label, c.part, c.group) for c in task.clips} == wanted
    assert all(clip.path == tmp_path / clip.file_name for clip in task.clips)
    assert (task.name, task.has_folds, task.split_rule) == ("esc50", True, "leave one fold out")
    assert task.classes == CLASSES
    assert task.problems == ()
    assert task.warnings == (
        "clips differ from the published set: "
        + ", ".join(f"fold {fold} 4 (published 400)" for fold in range(1, 6)),
        "2 classes (published 50)",
    )


@pytest.mark.parametrize("has_table", [True, False])
def test_reads_the_copy_on_kaggle(tmp_path, has_table):
    """Read a copy with its table in the root and its clips two folders deep."""
    wanted = read(write_esc50(tmp_path / "published"))
    root = write_esc50(tmp_path / "kaggle")
    (root / TABLE).rename(root / "esc50.csv")
    (root / "meta").rmdir()
    (root / "audio").rename(root / "clips")
    (root / "audio").mkdir()
    (root / "clips").rename(root / "audio/audio")
    if not has_table:
        (root / "esc50.csv").unlink()
        assert LAYOUT.is_root(root)
        with refused(TaskError, "missing", root, value=TABLE):
            read(root)
        return
    assert find_layouts(tmp_path / "kaggle") == {"esc50": (root,)}
    task = read(root)
    assert [(c.file_name, c.label, c.part) for c in task.clips] == [
        (f"audio/{c.file_name}", c.label, c.part) for c in wanted.clips
    ]
    assert all(clip.path.is_file() for clip in task.clips)
    assert task.problems == ()


def test_a_recording_in_two_folds_is_reported(tmp_path):
    table = rows()
    table[0] = (*table[0][:5], table[-1][5])  # said to be cut from fold 5's recording
    task = read(write_esc50(tmp_path, table))
    assert task.problems == (Problem("overlap", "5001", "in 1 and 5"),)


def test_a_missing_clip_fails_so_small_a_copy(tmp_path):
    write_esc50(tmp_path)
    (tmp_path / "audio/2-2001-B-1.wav").unlink()
    with refused(TaskError, "too-many", tmp_path, value=["audio/2-2001-B-1.wav"]):
        read(tmp_path)


def test_a_clip_in_no_row_is_reported(tmp_path):
    write_esc50(tmp_path)
    write_sound(tmp_path / "audio/more.wav", 440.0, 0.02)
    assert [problem.kind for problem in read(tmp_path).problems] == ["unlisted"]


def test_without_its_table(tmp_path):
    (write_esc50(tmp_path) / TABLE).unlink()
    assert LAYOUT.is_root(tmp_path)
    with refused(TaskError, "missing", tmp_path, value=TABLE):
        read(tmp_path)


def test_what_is_no_root(tmp_path):
    write_sound(tmp_path / "audio/fold1/7061-6-0-0.wav", 440.0, 0.02)
    write_sound(tmp_path / "audio/1.wav", 440.0, 0.02)
    assert not LAYOUT.is_root(tmp_path)
    assert not LAYOUT.is_root(tmp_path / "gone")


def test_what_a_copy_holds_and_is_not_read_is_counted(tmp_path):
    write_esc50(tmp_path)
    for name in ("audio/a.wma", "audio/x/B.WMA", "audio/.1-hidden.wav", "audio/._1-a.wav"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    for name in ("README.md", "LICENSE", "cover.jpg", "another set/c.wma", ".git/d.wma"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    for name in ("itself", "audio/itself.wav"):
        (tmp_path / name).symlink_to(tmp_path / name)
    task = read_layout("esc50", tmp_path, seed=0)
    (note,) = [note for note in task.notes if "not read" in note]
    assert note.startswith("not read: 2 .wma, 1 .jpg, 1 hidden .wav; ")
