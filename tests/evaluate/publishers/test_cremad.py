from collections import Counter, defaultdict

import pytest

from evaluate.publishers.base import Copy
from evaluate.publishers.cremad import LAYOUT
from evaluate.tasks.task import Problem, TaskError
from tests.evaluate.conftest import write_csv, write_sound
from tests.refusal import refused

EMOTIONS = {
    "ANG": "anger",
    "DIS": "disgust",
    "FEA": "fear",
    "HAP": "happy",
    "NEU": "neutral",
    "SAD": "sad",
}
NAMES = [
    f"{actor}_DFA_{emotion}_{'XX' if emotion != 'ANG' else 'HI'}"
    for actor in range(1001, 1011)
    for emotion in EMOTIONS
]


def write_cremad(root, listed=None):
    for name in NAMES:
        write_sound(root / f"AudioWAV/{name}.wav", 440.0, 0.02)
    if listed is not None:
        rows = [(str(number), name) for number, name in enumerate(listed, start=1)]
        write_csv(root / "SentenceFilenames.csv", rows, ("Stimulus_Number", "Filename"))
    return root


def read(root, seed=0):
    return LAYOUT.read(Copy(root, seed))


def test_reads_emotions_and_actors(tmp_path):
    assert LAYOUT.is_root(write_cremad(tmp_path))
    task = read(tmp_path)
    wanted = {(f"AudioWAV/{name}.wav", EMOTIONS[name[9:12]], name[:4]) for name in NAMES}
    assert {(c.file_name, c.label, c.group) for c in task.clips} == wanted
    assert all(clip.path == tmp_path / clip.file_name for clip in task.clips)
    assert (task.name, task.unit_seconds, task.has_folds) == ("cremad", 2.5, False)
    assert task.split_rule == "actor-disjoint 70/15/15, seed 0"
    assert task.problems == ()
    assert task.warnings == ("clips differ from the published set: all 60 (published 7,442)",)


def test_no_actor_is_in_two_parts(tmp_path):
    write_cremad(tmp_path)
    splits = set()
    for seed in range(6):
        parts = defaultdict(set)
        task = read(tmp_path, seed)
        for clip in task.clips:
            parts[clip.group].add(clip.part)
        assert {len(names) for names in parts.values()} == {1}
        # Of ten actors alike: seven, and the other three as two and one.
        assert sorted(Counter(clip.part for clip in task.clips).values()) == [6, 12, 42]
        splits.add(task.clips)
        assert read(tmp_path, seed) == task
    assert len(splits) == 6


def test_intensity_of_one_letter(tmp_path):
    """Read a name with an intensity of one letter, as one clip of the set has."""
    write_cremad(tmp_path)
    write_sound(tmp_path / "AudioWAV/1040_ITH_SAD_X.wav", 440.0, 0.02)
    assert "AudioWAV/1040_ITH_SAD_X.wav" in {clip.file_name for clip in read(tmp_path).clips}


def test_the_publishers_list_tells_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr("evaluate.publishers.base.MAX_SKIPPED", 0.1)
    task = read(write_cremad(tmp_path, [*NAMES[1:], "1010_IOM_SAD_XX"]))
    assert task.num_missing == 1
    assert [(p.kind, p.name) for p in task.problems] == [
        ("missing", "AudioWAV/1010_IOM_SAD_XX.wav"),
        ("unlisted", str(tmp_path)),
    ]


def test_half_unpacked(tmp_path):
    write_cremad(tmp_path, NAMES)
    for path in tmp_path.glob("AudioWAV/100*"):
        path.unlink()
    with refused(TaskError, "missing", tmp_path) as caught:  # two parts are gone whole
        read(tmp_path)
    assert caught.value.value == [f"AudioWAV/{name}.wav" for name in NAMES[:54]]


EVAR_PARTS = ["train"] * 7 + ["valid"] + ["test"] * 2  # of the actors


def evar_rows():
    return [
        (f"{name}.wav", name[9:12], name[:4], EVAR_PARTS[int(name[:4]) - 1001]) for name in NAMES
    ]


@pytest.mark.parametrize("place", [".", "AudioWAV", ".."])
def test_evars_split_is_used(tmp_path, place):
    root = write_cremad(tmp_path / "cremad")
    write_csv(
        root / place / "cremad.csv", evar_rows(), ("file_name", "label", "speaker_id", "split")
    )
    task = read(root)
    wanted = {
        (f"AudioWAV/{name}", EMOTIONS[label], part, actor)
        for name, label, actor, part in evar_rows()
    }
    assert {(c.file_name, c.label, c.part, c.group) for c in task.clips} == wanted
    assert all(clip.path.is_file() for clip in task.clips)
    assert (task.split_rule, task.problems) == ("given by cremad.csv", ())


@pytest.mark.parametrize(
    ("column", "value"), [(0, "1001_DFA_JOY_XX.wav"), (1, "SAD"), (3, "unknown")]
)
def test_a_given_split_that_is_wrong(tmp_path, column, value):
    root = write_cremad(tmp_path)
    header = ("file_name", "label", "speaker_id", "split")
    first, *others = evar_rows()
    wrong = tuple(value if number == column else field for number, field in enumerate(first))
    path = write_csv(root / "cremad.csv", [wrong, *others], header)
    with refused(TaskError, "value", path, key=header[column], value=value):
        read(root)


def test_other_names_are_reported(tmp_path):
    write_cremad(tmp_path)
    write_sound(tmp_path / "AudioWAV/1001_DFA_JOY_XX.wav", 440.0, 0.02)
    detail = "1 audio files that no list names: AudioWAV/1001_DFA_JOY_XX.wav"
    assert read(tmp_path).problems == (Problem("unlisted", str(tmp_path), detail),)


def test_pointers_of_git_lfs(tmp_path):
    """A clone without Git LFS has all names and no sound."""
    for name in NAMES:
        path = tmp_path / f"AudioWAV/{name}.wav"
        path.parent.mkdir(exist_ok=True)
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 75000\n")
    with refused(TaskError, "foreign", tmp_path, value="AudioWAV"):
        read(tmp_path)


@pytest.mark.parametrize("listed", [None, NAMES])
def test_without_clips(tmp_path, listed):
    write_cremad(tmp_path, listed)
    for path in tmp_path.glob("AudioWAV/*"):
        path.unlink()
    assert LAYOUT.is_root(tmp_path)
    with refused(TaskError, "missing", tmp_path, value="AudioWAV"):
        read(tmp_path)


def test_too_few_actors(tmp_path):
    write_cremad(tmp_path)
    for path in tmp_path.glob("AudioWAV/*"):
        if path.name[:4] > "1002":
            path.unlink()
    with refused(TaskError, "missing", tmp_path, key="the set", value=2) as caught:
        read(tmp_path)
    assert "1001, 1002" in str(caught.value)
