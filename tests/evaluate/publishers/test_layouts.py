import os
import shutil
from collections import Counter

import pytest

from evaluate.publishers import layouts
from evaluate.publishers.layouts import LAYOUTS, find_layouts, read_layout
from evaluate.tasks.folds import make_folds
from evaluate.tasks.task import PAPER_TASKS, TaskError
from tests.evaluate.published import (
    write_nsynth,
    write_speech_commands,
    write_test_archive,
    write_tone,
    write_urbansound,
    write_voxceleb,
)
from tests.refusal import refused

MAIN, ARCHIVE = "speech_commands_v0.02", "speech_commands_test_set_v0.02"


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    """Four published sets beside each other, as someone keeps them; not to be written to."""
    root = tmp_path_factory.mktemp("data")
    write_nsynth(root / "music/nsynth")
    write_urbansound(root / "UrbanSound8K")
    write_voxceleb(root / "speech/vox1")
    write_speech_commands(root / f"speech/{MAIN}")
    write_test_archive(root / f"speech/{ARCHIVE}")
    write_tone(root / "loose.wav")
    return root


def test_paper_tasks_come_first():
    names = [layout.name for layout in LAYOUTS]
    assert names[: len(PAPER_TASKS)] == list(PAPER_TASKS)
    assert set(names[len(PAPER_TASKS) :]) == {
        "spcv2_12_lists",
        "esc50",
        "gtzan",
        "cremad",
        "fsd50k",
    }


@pytest.mark.parametrize(
    ("name", "counts", "num_classes", "unit_seconds"),
    [
        ("nsynth", (289_205, 12_678, 4_096), 11, 4.0),
        ("us8k", (8_732,), 10, 4.0),
        ("vc1", (138_361, 6_904, 8_251), 1_251, 8.2),
        ("voxforge", (176_438,), 6, 5.8),
        ("spcv2_12", (85_511, 10_102, 4_890), 12, 1.0),
        ("spcv2", (84_843, 9_981, 11_005), 35, 1.0),
    ],
)
def test_layouts_are_those_of_the_paper(name, counts, num_classes, unit_seconds):
    layout = next(layout for layout in LAYOUTS if layout.name == name)
    published = tuple(layout.counts.values())
    assert (published if len(published) == len(counts) else (sum(published),)) == counts
    assert (layout.num_classes, layout.unit_seconds) == (num_classes, unit_seconds)


def test_finds_what_is_there(data_root):
    assert find_layouts(data_root) == {
        "nsynth": (data_root / "music/nsynth",),
        "us8k": (data_root / "UrbanSound8K",),
        "vc1": (data_root / "speech/vox1",),
        "spcv2_12": (data_root / f"speech/{MAIN}",),
        "spcv2": (data_root / f"speech/{MAIN}",),
    }
    assert list(find_layouts(data_root)) == ["nsynth", "us8k", "vc1", "spcv2_12", "spcv2"]


def test_what_is_found_can_be_divided(data_root):
    for name, folders in find_layouts(data_root).items():
        task = read_layout(name, data_root, seed=0)
        assert (task.name, task.source) == (name, folders[0])
        assert task.problems == ()
        assert all(len(fold.test) > 0 for fold in make_folds(task, 0))


def test_data_root_may_be_a_set_itself(data_root):
    for name, folders in find_layouts(data_root).items():
        if name != "spcv2_12":  # its test archive lies elsewhere
            assert find_layouts(folders[0])[name] == folders


def test_data_root_may_be_a_set_and_hold_others(tmp_path):
    write_nsynth(tmp_path)
    write_voxceleb(tmp_path)
    write_speech_commands(tmp_path)
    write_test_archive(tmp_path / ARCHIVE)
    write_urbansound(tmp_path / "more/UrbanSound8K")
    assert find_layouts(tmp_path) == {
        "nsynth": (tmp_path,),
        "us8k": (tmp_path / "more/UrbanSound8K",),
        "vc1": (tmp_path,),
        "spcv2_12": (tmp_path,),
        "spcv2": (tmp_path,),
    }


@pytest.mark.parametrize("place", [ARCHIVE, f"{MAIN}/{ARCHIVE}", "else/where/far/away"])
def test_test_archive_may_lie_anywhere(tmp_path, place):
    main = write_speech_commands(tmp_path / MAIN)
    assert list(find_layouts(tmp_path)) == ["spcv2", "spcv2_12_lists"]
    write_test_archive(tmp_path / place)
    assert find_layouts(tmp_path) == {"spcv2_12": (main,), "spcv2": (main,)}
    tested = [c for c in read_layout("spcv2_12", tmp_path, seed=0).clips if c.part == "test"]
    assert {clip.path.parent.parent for clip in tested} == {tmp_path / place}


def test_without_the_test_archive_the_other_name_is_reported(tmp_path):
    write_speech_commands(tmp_path / MAIN)
    with refused(TaskError, "missing", tmp_path / MAIN, value=ARCHIVE) as caught:
        read_layout("spcv2_12", tmp_path, seed=0)
    assert "spcv2_12_lists" in str(caught.value)
    assert read_layout("spcv2_12_lists", tmp_path, seed=0).name == "spcv2_12_lists"


def test_two_copies_are_both_named(tmp_path):
    first, second = (write_urbansound(tmp_path / name) for name in ("a", "b/old"))
    assert find_layouts(tmp_path) == {"us8k": (first, second)}
    with refused(TaskError, "twice", tmp_path, value=[first, second]) as caught:
        read_layout("us8k", tmp_path, seed=0)
    assert f"{first}, {second}" in str(caught.value)
    assert len(read_layout("us8k", second, seed=0).clips) == 40


def test_links_are_followed_once(data_root, tmp_path):
    (tmp_path / "sets").symlink_to(data_root)
    (tmp_path / "us8k").symlink_to(data_root / "UrbanSound8K")
    (tmp_path / "circle").symlink_to(tmp_path)
    found = find_layouts(tmp_path)
    assert found["us8k"] == (tmp_path / "us8k",)
    assert found["nsynth"] == (tmp_path / "sets/music/nsynth",)
    assert len(read_layout("us8k", tmp_path, seed=0).clips) == 40


def test_link_in_a_circle_within_a_set(tmp_path):
    write_urbansound(tmp_path)
    (tmp_path / "audio/fold1/again").symlink_to(tmp_path / "audio")
    (tmp_path / "audio/fold2/gone.wav").symlink_to(tmp_path / "nowhere")
    task = read_layout("us8k", tmp_path, seed=0)
    assert (len(task.clips), task.problems) == (40, ())


def test_search_has_a_depth(tmp_path):
    write_urbansound(tmp_path / "1/2/3/4")
    assert "us8k" in find_layouts(tmp_path)
    (tmp_path / "0").mkdir()
    shutil.move(tmp_path / "1", tmp_path / "0/1")
    assert find_layouts(tmp_path) == {}


def test_folders_of_clips_are_not_read_to_their_end(tmp_path, monkeypatch):
    write_urbansound(tmp_path / "sets/UrbanSound8K")
    write_nsynth(tmp_path / "sets/nsynth")
    folders = ("clips", "sets/UrbanSound8K/audio/fold1", "sets/nsynth/nsynth-train/audio")
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        for number in range(300):
            (tmp_path / folder / f"more {number}.wav").touch()
    num_read = Counter()
    scandir = os.scandir

    class Counted:
        def __init__(self, folder):
            self.folder, self.entries = str(folder), scandir(folder)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.entries.close()

        def __iter__(self):
            for entry in self.entries:
                num_read[self.folder] += 1
                yield entry

    monkeypatch.setattr(layouts.os, "scandir", Counted)
    assert list(find_layouts(tmp_path)) == ["nsynth", "us8k"]
    assert 0 < num_read[str(tmp_path / "clips")] <= 51
    assert all(num_read[str(tmp_path / folder)] == 0 for folder in folders[1:])


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_nothing_there_says_what_would_be(tmp_path, layout):
    assert find_layouts(tmp_path) == {}
    with refused(TaskError, "missing", tmp_path, value=layout.name) as caught:
        read_layout(layout.name, tmp_path, seed=0)
    assert layout.holds in str(caught.value)
    assert "--data-root" in str(caught.value)


def test_unknown_name_lists_the_known(tmp_path):
    with refused(TaskError, "unknown", tmp_path, key="task", value="birds") as caught:
        read_layout("birds", tmp_path, seed=0)
    assert all(layout.name in str(caught.value) for layout in LAYOUTS)


def test_data_root_that_is_no_folder(tmp_path):
    (tmp_path / "file").touch()
    for name in ("nowhere", "file"):
        with refused(TaskError, "missing", tmp_path / name):
            find_layouts(tmp_path / name)


def test_one_closed_folder_does_not_hide_the_others(data_root, tmp_path, monkeypatch):
    shutil.copytree(data_root / "UrbanSound8K", tmp_path / "UrbanSound8K")
    (tmp_path / "locked/below").mkdir(parents=True)
    scandir = os.scandir

    def closed(folder):
        if "locked" in str(folder):  # what permissions do, also where the tests run as root
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(layouts.os, "scandir", closed)
    assert list(find_layouts(tmp_path)) == ["us8k"]
    with refused(TaskError, "unreadable", tmp_path / "locked"):
        find_layouts(tmp_path / "locked")


def test_same_set_reads_the_same_wherever_it_lies(data_root, tmp_path):
    shutil.copytree(data_root / f"speech/{MAIN}", tmp_path / "elsewhere")
    first = read_layout("spcv2", data_root, seed=0)
    second = read_layout("spcv2", tmp_path, seed=0)
    facts = [[(c.file_name, c.label, c.part, c.group) for c in t.clips] for t in (first, second)]
    assert facts[0] == facts[1]


def rewrite(root, pattern, old, new):
    for path in root.rglob(pattern):
        path.write_text(path.read_text().replace(old, new))


CHANGES = {
    "macOS": lambda root: shutil.copytree(root, root / "__MACOSX" / root.name),
    "semicolons": lambda root: rewrite(root, "*.csv", ",", ";"),
    "backslashes": lambda root: rewrite(root, "*.txt", "/", "\\"),
}


@pytest.mark.parametrize(
    ("name", "write", "change"),
    [
        ("us8k", write_urbansound, "macOS"),
        ("us8k", write_urbansound, "semicolons"),
        ("vc1", write_voxceleb, "backslashes"),
        ("spcv2", write_speech_commands, "backslashes"),
    ],
)
def test_copies_that_passed_through_other_systems(tmp_path, name, write, change):
    root = write(tmp_path / "set")
    task = read_layout(name, tmp_path, seed=0)
    CHANGES[change](root)
    assert read_layout(name, tmp_path, seed=0) == task


def test_archives_unpacked_into_folders_of_their_names(tmp_path):
    root = write_nsynth(tmp_path / "set")
    names = {clip.file_name for clip in read_layout("nsynth", tmp_path, seed=0).clips}
    for part in list(root.iterdir()):
        part.rename(root / "moved")
        part.mkdir()
        (root / "moved").rename(part / part.name)
    task = read_layout("nsynth", tmp_path, seed=0)
    assert {clip.file_name for clip in task.clips} == names
    assert all(clip.path.exists() for clip in task.clips)


def test_files_of_other_names_are_told_beside_what_is_missing(tmp_path):
    root = write_urbansound(tmp_path / "set")
    (some, *_) = paths = sorted(root.rglob("*.wav"))
    for path in paths:
        path.rename(path.with_suffix(".WAV"))
    with refused(TaskError, "missing", root) as caught:
        read_layout("us8k", tmp_path, seed=0)
    assert some.with_suffix(".WAV").relative_to(root).as_posix() in str(caught.value)
