import json
import shutil
from collections import Counter

import pytest

from evaluate.publishers.base import Copy
from evaluate.publishers.nsynth import LAYOUT
from evaluate.tasks.task import Problem, TaskError
from tests.evaluate.published import NOTES, write_nsynth, write_tone
from tests.refusal import refused


def read(root):
    return LAYOUT.read(Copy(root, 0))


def test_reads_the_three_folders(tmp_path):
    assert LAYOUT.is_root(write_nsynth(tmp_path))
    task = read(tmp_path)
    wanted = {
        (f"nsynth-{part}/audio/{name}.wav", family, part, instrument)
        for part, notes in NOTES.items()
        for name, family, instrument in notes
    }
    assert {(c.file_name, c.label, c.part, c.group) for c in task.clips} == wanted
    assert [c.file_name for c in task.clips] == sorted(c.file_name for c in task.clips)
    assert all(c.path == tmp_path / c.file_name and c.path.is_file() for c in task.clips)
    assert (task.name, task.source, task.unit_seconds) == ("nsynth", tmp_path, 4.0)
    assert (task.has_folds, task.max_skipped, task.num_missing) == (False, 0.01, 0)
    assert task.problems == ()


def test_counts_and_classes_are_compared_with_the_published(tmp_path):
    warnings = read(write_nsynth(tmp_path)).warnings
    assert warnings == (
        "clips differ from the published set: train 12 (published 289,205), valid 4 (published "
        "12,678), test 4 (published 4,096)",
        "3 classes (published 11)",
    )


def test_valid_and_test_share_instruments_and_a_note_says_so(tmp_path):
    assert read(write_nsynth(tmp_path)).notes == ("valid and test share 2 instruments, train none",)


def test_training_instrument_held_out_is_a_problem(tmp_path):
    notes = NOTES | {"test": [*NOTES["test"], ("bass_acoustic_000-070-025", "bass", "bass_000")]}
    task = read(write_nsynth(tmp_path, notes))
    assert task.problems == (Problem("overlap", "bass_000", "in train and valid or test"),)


@pytest.mark.parametrize("name", ["nsynth-valid", "nsynth-test/examples.json"])
def test_half_unpacked(tmp_path, name):
    write_nsynth(tmp_path)
    path = tmp_path / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert LAYOUT.is_root(tmp_path)
    lost = f"{name.partition('/')[0]}/examples.json"
    with refused(TaskError, "missing", tmp_path, value=lost):
        read(tmp_path)


def test_whole_part_without_audio(tmp_path):
    shutil.rmtree(write_nsynth(tmp_path) / "nsynth-test/audio")
    missing = sorted(f"nsynth-test/audio/{name}.wav" for name, _, _ in NOTES["test"])
    with refused(TaskError, "missing", tmp_path, value=missing):
        read(tmp_path)


def many(count):
    return [(f"bass_synthetic_{n:03d}-060-100", "bass", f"bass_{n:03d}") for n in range(9, count)]


def test_one_clip_in_a_hundred_may_be_missing(tmp_path):
    write_nsynth(tmp_path, NOTES | {"train": NOTES["train"] + many(101)})  # 112 clips
    gone = tmp_path / "nsynth-train/audio/bass_synthetic_050-060-100.wav"
    gone.unlink()
    task = read(tmp_path)
    name = "nsynth-train/audio/bass_synthetic_050-060-100.wav"
    assert task.problems == (Problem("missing", name, "listed, not on disk"),)
    assert (task.num_missing, len(task.clips)) == (1, 111)
    assert name not in {clip.file_name for clip in task.clips}
    other = name.replace("050", "051")
    (tmp_path / other).unlink()
    with refused(TaskError, "too-many", tmp_path, value=[name, other]):
        read(tmp_path)


def test_files_that_no_list_names_are_summed_up(tmp_path):
    write_nsynth(tmp_path)
    for number in range(5):
        write_tone(tmp_path / f"nsynth-test/audio/extra {number}, ü.wav")
    (tmp_path / "nsynth-test/audio/._hidden.wav").write_bytes(b"macOS")
    (tmp_path / "nsynth-test/audio/notes.txt").write_text("no audio")
    task = read(tmp_path)
    (problem,) = task.problems
    assert (problem.kind, problem.name) == ("unlisted", str(tmp_path))
    assert problem.detail.startswith("5 audio files that no list names: nsynth-test/audio/extra 0")
    assert problem.detail.endswith("and 2 more")
    assert len(task.clips) == 20


def test_names_of_any_kind(tmp_path):
    odd = [(f"Käuzchen, 'klein' {n}", "орган, большой", f"梟 {n}") for n in range(2)]
    task = read(write_nsynth(tmp_path, NOTES | {"train": NOTES["train"] + odd}))
    clips = [clip for clip in task.clips if clip.label == "орган, большой"]
    assert [clip.group for clip in clips] == ["梟 0", "梟 1"]
    assert all(clip.path.is_file() for clip in clips)
    assert task.problems == ()


def test_note_listed_twice(tmp_path):
    path = write_nsynth(tmp_path) / "nsynth-test/examples.json"
    name = NOTES["test"][0][0]
    facts = json.dumps({"instrument_family_str": "bass", "instrument_str": "bass_002"})
    path.write_text(path.read_text()[:-1] + f', "{name}": {facts}}}')
    task = read(tmp_path)
    assert task.problems == (
        Problem("duplicate", f"nsynth-test/audio/{name}.wav", "listed 2 times"),
    )
    assert Counter(clip.part for clip in task.clips)["test"] == 4


BAD_FILES = {
    "cut short": (lambda text: text[:-20], ("damaged", None, None)),
    "not an object": (lambda _: "[1, 2]", ("malformed", None, list)),
    "no family": (
        lambda _: '{"a": {"instrument_str": "b"}}', ("value", "instrument_family_str", None)
    ),
    "no facts": (lambda _: '{"a": 3}', ("value", "instrument_family_str", None)),
    "a number": (
        lambda _: '{"a": {"instrument_str": 4, "instrument_family_str": "b"}}',
        ("value", "instrument_str", 4),
    ),
    "too deep": (lambda _: "[" * 200_000, ("damaged", None, None)),
}  # fmt: skip


@pytest.mark.parametrize(("change", "facts"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_broken_json_is_one_clear_line(tmp_path, change, facts):
    code, key, value = facts
    path = write_nsynth(tmp_path) / "nsynth-valid/examples.json"
    path.write_text(change(path.read_text()))
    with refused(TaskError, code, path, key=key, value=value) as caught:
        read(tmp_path)
    assert key is None or "'a'" in str(caught.value)  # the note


def test_json_that_is_not_utf_8(tmp_path):
    path = write_nsynth(tmp_path) / "nsynth-valid/examples.json"
    path.write_bytes(b'{"\xff": 1}')
    with refused(TaskError, "malformed", path, value=None):
        read(tmp_path)


def test_class_with_one_clip(tmp_path):
    lone = ("flute_acoustic_000-060-050", "flute", "flute_000")
    write_nsynth(tmp_path, NOTES | {"train": [*NOTES["train"], lone]})
    with refused(TaskError, "missing", tmp_path, key="class", value="flute"):
        read(tmp_path)
