import shutil

import pytest

from evaluate.publishers.base import Copy
from evaluate.publishers.voxceleb import LAYOUT
from evaluate.tasks.task import Problem, TaskError
from tests.evaluate.published import voxceleb_names, write_tone, write_voxceleb
from tests.refusal import refused

PARTS = {"1": "train", "2": "valid", "3": "test"}


def read(root):
    return LAYOUT.read(Copy(root, 0))


@pytest.mark.parametrize("base", ["wav", "dev/wav", "vox1_test_wav/wav", "vox1_dev_wav", "."])
@pytest.mark.parametrize("list_folder", [".", "..", "meta"])
def test_reads_the_split_wherever_it_lies(tmp_path, base, list_folder):
    root = tmp_path / "vox1"
    write_voxceleb(root, base, list_folder)
    assert LAYOUT.is_root(root)
    task = read(root)
    wanted = {
        (name, name.split("/")[0], PARTS[number], name.rpartition("/")[0])
        for number, name in voxceleb_names()
    }
    assert {(c.file_name, c.label, c.part, c.group) for c in task.clips} == wanted
    assert all(c.path == root / base / c.file_name and c.path.is_file() for c in task.clips)
    assert (task.name, task.unit_seconds, task.has_folds) == ("vc1", 8.2, False)
    assert task.problems == ()
    assert task.notes == ()  # every video is in one part
    assert task.warnings[1] == "3 classes (published 1,251)"


def test_archives_unpacked_apart(tmp_path):
    write_voxceleb(tmp_path, "dev/wav")
    (tmp_path / "test/wav").mkdir(parents=True)
    shutil.move(tmp_path / "dev/wav/id10003", tmp_path / "test/wav/id10003")
    task = read(tmp_path)
    assert len(task.clips) == 18
    assert {str(c.path.relative_to(tmp_path))[:8] for c in task.clips} == {"dev/wav/", "test/wav"}
    shutil.rmtree(tmp_path / "test")
    missing = sorted(name for _, name in voxceleb_names() if name.startswith("id10003"))
    with refused(TaskError, "missing", tmp_path, value=missing):
        read(tmp_path)


def test_clip_in_both_archives(tmp_path):
    write_voxceleb(tmp_path, "dev/wav")
    name = voxceleb_names()[0][1]
    write_tone(tmp_path / "test/wav" / name)
    task = read(tmp_path)
    detail = f"in test/wav; read from dev/wav/{name}"
    assert task.problems == (Problem("duplicate", name, detail),)


def test_shared_videos_are_counted_not_refused(tmp_path):
    write_voxceleb(tmp_path)
    lines = [f"{1 + n % 3} {name}\n" for n, (_, name) in enumerate(voxceleb_names())]
    (tmp_path / "iden_split.txt").write_text("".join(lines))
    task = read(tmp_path)
    assert task.notes == ("9 videos are in more than one part",)
    assert task.problems == ()


def test_listed_in_two_parts(tmp_path):
    write_voxceleb(tmp_path)
    name = voxceleb_names()[0][1]
    with (tmp_path / "iden_split.txt").open("a") as file:
        file.write(f"3 {name}\n")
    task = read(tmp_path)
    assert task.problems == (Problem("overlap", name, "in test and train; kept in train"),)
    assert len(task.clips) == 18


def test_without_its_list(tmp_path):
    (write_voxceleb(tmp_path) / "iden_split.txt").unlink()
    assert LAYOUT.is_root(tmp_path)
    with refused(TaskError, "missing", tmp_path, value="iden_split.txt"):
        read(tmp_path)


def test_voxceleb2_is_another_set(tmp_path):
    write_tone(tmp_path / "wav/id00012/21Uxsk56VDQ/00001.wav")
    assert not LAYOUT.is_root(tmp_path)


@pytest.mark.parametrize("line", ["4 id10001/a/1.wav", "id10001/a/1.wav", "1 id10001", "1"])
def test_broken_line_is_quoted(tmp_path, line):
    path = write_voxceleb(tmp_path) / "iden_split.txt"
    path.write_text(f"1 {voxceleb_names()[0][1]}\n\n{line}\n")
    with refused(TaskError, "malformed", path, value=line):
        read(tmp_path)


def test_list_that_is_not_utf_8(tmp_path):
    path = write_voxceleb(tmp_path) / "iden_split.txt"
    path.write_bytes(b"1 id10001/\xff/1.wav\n")
    with refused(TaskError, "malformed", path, value=None):
        read(tmp_path)


def test_windows_line_ends_and_names_with_spaces(tmp_path):
    path = write_voxceleb(tmp_path) / "iden_split.txt"
    write_tone(tmp_path / "wav/id10001/-ü, v/00 1.wav")
    text = path.read_text() + "1  id10001/-ü, v/00 1.wav\n"
    path.write_bytes(text.replace("\n", "\r\n").encode())
    task = read(tmp_path)
    assert "id10001/-ü, v/00 1.wav" in {clip.file_name for clip in task.clips}
    assert (len(task.clips), task.problems) == (19, ())
