import shutil

import pytest

from evaluate.publishers.base import Copy
from evaluate.publishers.fsd50k import LAYOUT
from evaluate.tasks.folds import make_folds
from evaluate.tasks.task import TaskError
from tests.evaluate.conftest import write_csv, write_sound
from tests.refusal import refused

TRUTH = "FSD50K.ground_truth"
LABELS = ("Electric_guitar,Guitar,Music", "Bark,Dog,Animal", "Keyboard_(musical),Music")
DEV = [
    (str(100 + number), LABELS[number % 3], "/m/1,/m/2", "train" if number < 9 else "val")
    for number in range(12)
]
EVAL = [(str(500 + number), LABELS[number % 3], "/m/1") for number in range(6)]


def write_fsd50k(root, dev=DEV):
    for folder, rows in (("FSD50K.dev_audio", DEV), ("FSD50K.eval_audio", EVAL)):
        for row in rows:
            write_sound(root / folder / f"{row[0]}.wav", 440.0, 0.02)
    write_csv(root / TRUTH / "dev.csv", dev, ("fname", "labels", "mids", "split"))
    write_csv(root / TRUTH / "eval.csv", EVAL, ("fname", "labels", "mids"))
    return root


def read(root):
    return LAYOUT.read(Copy(root, 0))


def test_published_counts_sum_to_the_set():
    assert sum(LAYOUT.counts.values()) == 51_197
    assert LAYOUT.num_classes == 200


def test_reads_parts_and_labels(tmp_path):
    assert LAYOUT.is_root(write_fsd50k(tmp_path))
    task = read(tmp_path)
    wanted = {
        (f"FSD50K.dev_audio/{fname}.wav", labels, {"train": "train", "val": "valid"}[split])
        for fname, labels, _, split in DEV
    } | {(f"FSD50K.eval_audio/{fname}.wav", labels, "test") for fname, labels, _ in EVAL}
    assert {(c.file_name, c.label, c.part) for c in task.clips} == wanted
    assert all(clip.path == tmp_path / clip.file_name for clip in task.clips)
    assert (task.name, task.unit_seconds, task.is_multilabel) == ("fsd50k", 7.6, True)
    assert task.classes == (
        "Animal",
        "Bark",
        "Dog",
        "Electric_guitar",
        "Guitar",
        "Keyboard_(musical)",
        "Music",
    )
    assert task.problems == ()
    assert task.warnings == (
        "clips differ from the published set: train 9 (published 36,796), "
        "valid 3 (published 4,170), test 6 (published 10,231)",
        "7 classes (published 200)",
    )
    (fold,) = make_folds(task, 0)
    assert [len(part) for part in (fold.train, fold.valid, fold.test)] == [9, 3, 6]


DEV_AUDIO = [f"FSD50K.dev_audio/{row[0]}.wav" for row in DEV]
EVAL_AUDIO = [f"FSD50K.eval_audio/{row[0]}.wav" for row in EVAL]


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("FSD50K.dev_audio", DEV_AUDIO),
        ("FSD50K.eval_audio", EVAL_AUDIO),
        (f"{TRUTH}/dev.csv", f"{TRUTH}/dev.csv"),
        (f"{TRUTH}/eval.csv", f"{TRUTH}/eval.csv"),
    ],
)
def test_half_unpacked(tmp_path, name, missing):
    path = write_fsd50k(tmp_path) / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert LAYOUT.is_root(tmp_path)
    with refused(TaskError, "missing", tmp_path, value=missing):
        read(tmp_path)


def test_missing_and_unlisted_clips_are_reported(tmp_path, monkeypatch):
    monkeypatch.setattr("evaluate.publishers.base.MAX_SKIPPED", 0.1)
    write_fsd50k(tmp_path)
    (tmp_path / "FSD50K.dev_audio/100.wav").rename(tmp_path / "FSD50K.dev_audio/7.wav")
    task = read(tmp_path)
    assert task.num_missing == 1
    assert [(p.kind, p.name) for p in task.problems] == [
        ("missing", "FSD50K.dev_audio/100.wav"),
        ("unlisted", str(tmp_path)),
    ]


def test_an_unknown_split(tmp_path):
    write_fsd50k(tmp_path, [*DEV[:-1], (*DEV[-1][:3], "training")])
    path = tmp_path / TRUTH / "dev.csv"
    with refused(TaskError, "value", path, key="split", value="training") as caught:
        read(tmp_path)
    assert "111" in str(caught.value)
