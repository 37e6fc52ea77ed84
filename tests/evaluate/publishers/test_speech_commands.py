import itertools
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from byola_rq.errors import AudioError
from evaluate.publishers.base import Copy
from evaluate.publishers.speech_commands import (
    COMMANDS,
    LAYOUT_12,
    LAYOUT_12_LISTS,
    LAYOUT_35,
    OTHER_WORDS,
    SILENCE,
    UNKNOWN,
    divide_words,
    is_test_archive,
    list_windows,
    make_silence,
    speaker_of,
)
from evaluate.tasks.task import Problem, TaskError
from tests.evaluate.published import (
    utterances,
    write_speech_commands,
    write_test_archive,
    write_tone,
)
from tests.refusal import refused

# Samples at 16 kHz of the published noise recordings.
PUBLISHED_NOISE = {
    "doing_the_dishes.wav": 1_522_930,
    "dude_miaowing.wav": 988_891,
    "exercise_bike.wav": 980_062,
    "pink_noise.wav": 960_000,
    "running_tap.wav": 978_488,
    "white_noise.wav": 960_000,
}
PUBLISHED_FILES = 105_829
PUBLISHED_LISTS = {"valid": 9_981, "test": 11_005}


@pytest.fixture
def main(tmp_path):
    return write_speech_commands(tmp_path / "speech_commands_v0.02")


@pytest.fixture
def archive(tmp_path):
    return write_test_archive(tmp_path / "speech_commands_test_set_v0.02")


def read_12(main, *archives):
    return LAYOUT_12.read(Copy(main, 0, archives))


def test_rules_give_the_published_counts():
    words = itertools.cycle((*COMMANDS, *OTHER_WORDS))
    names = [f"{next(words)}/{n:08x}_nohash_0.wav" for n in range(PUBLISHED_FILES)]
    order = np.random.default_rng(0).permutation(PUBLISHED_FILES)
    ends = np.cumsum([0, *PUBLISHED_LISTS.values()])
    lists = {
        part: [names[n] for n in order[start:end]]
        for part, (start, end) in zip(PUBLISHED_LISTS, itertools.pairwise(ends), strict=True)
    }
    divided = list(divide_words(names, lists))
    assert len(divided) == len({name for name, _ in divided}) == PUBLISHED_FILES
    of_words = Counter(part for _, part in divided)
    assert of_words == LAYOUT_35.counts == {"train": 84_843, "valid": 9_981, "test": 11_005}
    of_silence = Counter(clip.part for clip in make_silence(Path(), PUBLISHED_NOISE))
    assert of_silence == {"train": 668, "valid": 121}
    for layout in (LAYOUT_12, LAYOUT_12_LISTS):
        assert layout.counts["train"] == of_words["train"] + of_silence["train"] == 85_511
        assert layout.counts["valid"] == of_words["valid"] + of_silence["valid"] == 10_102
    assert LAYOUT_12_LISTS.counts["test"] == of_words["test"]
    assert LAYOUT_12.counts["test"] == 4_890


@pytest.mark.parametrize(
    ("num_samples", "starts"),
    [
        (16_000, []),
        (16_001, [0]),
        (24_000, [0]),
        (24_001, [0, 8_000]),
        (40_000, [0, 8_000, 16_000]),
    ],
)
def test_windows_are_whole_and_half_a_second_apart(num_samples, starts):
    assert list(list_windows(num_samples)) == starts


@pytest.mark.parametrize(
    ("name", "speaker"),
    [
        ("right/a69b9b3e_nohash_0.wav", "a69b9b3e"),
        ("_unknown_/bed_3ff840aa_nohash_0.wav.wav", "3ff840aa"),
        ("_silence_/1035.wav", ""),
        ("_nohash_/1035.wav", ""),
    ],
)
def test_speaker_is_in_the_file_name(name, speaker):
    assert speaker_of(name) == speaker


def test_35_words(main):
    assert LAYOUT_35.is_root(main)
    task = LAYOUT_35.read(Copy(main, 0))
    wanted = {
        (name, word, part, speaker_of(name))
        for word in (*COMMANDS, *OTHER_WORDS)
        for part, name in utterances(word)
    }
    assert {(c.file_name, c.label, c.part, c.group) for c in task.clips} == wanted
    assert all(c.path == main / c.file_name and c.path.is_file() for c in task.clips)
    assert (task.name, task.unit_seconds, task.has_folds) == ("spcv2", 1.0, False)
    assert set(task.classes) == {*COMMANDS, *OTHER_WORDS}
    assert (task.problems, task.notes) == ((), ())
    assert task.warnings == (
        "clips differ from the published set: train 70 (published 84,843), valid 35 (published "
        "9,981), test 35 (published 11,005)",
    )


def test_12_classes_with_the_test_archive(main, archive):
    task = read_12(main, archive)
    counts = Counter((clip.part, clip.label) for clip in task.clips)
    for word in COMMANDS:
        assert [counts[part, word] for part in ("train", "valid", "test")] == [2, 1, 1]
    assert [counts[part, UNKNOWN] for part in ("train", "valid", "test")] == [50, 25, 2]
    # 2.0 s of pink noise: windows at 0 and 0.5 s; 1.7 s of running tap: at 0 and 0.5 s.
    assert [counts[part, SILENCE] for part in ("train", "valid", "test")] == [2, 2, 3]
    assert len(task.clips) == len({clip.file_name for clip in task.clips})
    assert all(clip.path.is_file() for clip in task.clips)
    tested = [clip for clip in task.clips if clip.part == "test"]
    assert all(clip.path.is_relative_to(archive) for clip in tested)
    assert all(clip.file_name.startswith("test_archive/") for clip in tested)
    assert {c.group for c in tested if c.label == UNKNOWN} == {speaker_of(utterances("x")[-1][1])}
    assert (task.name, task.problems, task.notes) == ("spcv2_12", (), ())
    assert "test 15 (published 4,890)" in task.warnings[0]


def test_silence_is_windows_of_the_noise(main, archive):
    silence = [c for c in read_12(main, archive).clips if c.label == SILENCE and c.part != "test"]
    assert [(c.file_name, c.part, c.start_seconds, c.group) for c in silence] == [
        (f"{name}@{start:g}", part, start, name)
        for name, part in (
            ("_background_noise_/pink_noise.wav", "train"),
            ("_background_noise_/running_tap.wav", "valid"),
        )
        for start in (0.0, 0.5)
    ]
    assert {c.path.name for c in silence} == {"pink_noise.wav", "running_tap.wav"}


def test_noise_of_another_rate_is_counted_at_16_khz(main, archive):
    noise = np.random.default_rng(0).normal(size=3 * 44_100) / 10
    soundfile.write(main / "_background_noise_/pink_noise.wav", noise, 44_100)
    clips = read_12(main, archive).clips
    starts = [c.start_seconds for c in clips if c.group.endswith("pink_noise.wav")]
    assert starts == [0.0, 0.5, 1.0, 1.5]  # range(0, 48,000 - 16,000, 8,000)


def test_12_classes_without_the_test_archive(main):
    with refused(TaskError, "missing", main, value="speech_commands_test_set_v0.02"):
        read_12(main)
    task = LAYOUT_12_LISTS.read(Copy(main, 0))
    counts = Counter((clip.part, clip.label) for clip in task.clips)
    assert [counts["test", label] for label in ("yes", UNKNOWN, SILENCE)] == [1, 25, 0]
    assert [counts["valid", label] for label in ("yes", UNKNOWN, SILENCE)] == [1, 25, 2]
    assert {c.file_name for c in task.clips if c.part == "test"} == {
        name
        for word in (*COMMANDS, *OTHER_WORDS)
        for part, name in utterances(word)
        if part == "test"
    }
    assert task.name == "spcv2_12_lists"
    assert "no _silence_ there" in task.notes[0]
    assert task.problems == ()


def test_two_test_archives(main, archive, tmp_path):
    with refused(TaskError, "twice", main, value=(archive, tmp_path / "copy")) as caught:
        read_12(main, archive, tmp_path / "copy")
    assert f"{archive} and {tmp_path / 'copy'}" in str(caught.value)


def test_archive_is_distinguished_from_the_main_folder(main, archive):
    assert is_test_archive(archive)
    assert not is_test_archive(main)
    assert not LAYOUT_35.is_root(archive)
    (archive / "testing_list.txt").touch()
    assert not is_test_archive(archive)


def test_archive_half_unpacked(main, archive):
    shutil.rmtree(archive / "stop")
    with refused(TaskError, "missing", archive, value="stop"):
        read_12(main, archive)


@pytest.mark.parametrize("name", ["validation_list.txt", "testing_list.txt"])
def test_without_a_list(main, name):
    (main / name).unlink()
    assert LAYOUT_35.is_root(main)
    for layout in (LAYOUT_35, LAYOUT_12_LISTS):
        with refused(TaskError, "missing", main, value=name):
            layout.read(Copy(main, 0))


def test_without_a_word(main):
    shutil.rmtree(main / "visual")
    lost = sorted(name for part, name in utterances("visual") if part != "train")
    with refused(TaskError, "missing", main, value=lost):
        LAYOUT_35.read(Copy(main, 0))


def test_without_noise(main, archive):
    (main / "_background_noise_/running_tap.wav").unlink()
    with refused(TaskError, "missing", main, value="running_tap.wav"):
        read_12(main, archive)
    shutil.rmtree(main / "_background_noise_")
    with refused(TaskError, "missing", main, value="_background_noise_"):
        read_12(main, archive)
    assert len(LAYOUT_35.read(Copy(main, 0)).clips) == 140  # these leave it out


def test_noise_that_is_no_audio(main, archive):
    path = main / "_background_noise_/pink_noise.wav"
    path.write_text("no audio")
    with refused(AudioError, "damaged", path):
        read_12(main, archive)


def test_version_1_is_another_set(main):
    for word in ("backward", "follow", "forward", "learn", "visual"):
        shutil.rmtree(main / word)
    with refused(TaskError, "foreign", main, value="0.01"):
        LAYOUT_35.read(Copy(main, 0))


def test_speaker_in_two_parts_is_a_problem(main, archive):
    (valid, name), (train, other) = utterances("go")[2], utterances("go")[0]
    assert (valid, train) == ("valid", "train")
    write_tone(main / name.replace("_0.wav", "_1.wav"))  # unlisted, hence to train on
    leak = Problem("overlap", speaker_of(name), "in train and valid")
    assert LAYOUT_35.read(Copy(main, 0)).problems == (leak,)
    assert read_12(main, archive).problems == (leak,)
    write_tone(archive / f"_unknown_/bed_{other.partition('/')[2]}.wav")
    assert (
        Problem("overlap", speaker_of(other), "in test and train")
        in read_12(main, archive).problems
    )


def test_file_in_both_lists(main):
    name = utterances("go")[2][1]
    with (main / "testing_list.txt").open("a") as file:
        file.write(name)
    problems = LAYOUT_35.read(Copy(main, 0)).problems
    assert Problem("overlap", name, "in test and valid; kept in valid") in problems


def test_listed_but_absent(main):
    name = utterances("go")[2][1]
    (main / name).unlink()
    task = LAYOUT_35.read(Copy(main, 0))
    assert task.problems == (Problem("missing", name, "listed, not on disk"),)
    assert (task.num_missing, len(task.clips)) == (1, 139)
    other = utterances("no")[2][1]
    (main / other).unlink()
    with refused(TaskError, "too-many", main, value=[name, other]):
        LAYOUT_35.read(Copy(main, 0))


def test_list_that_is_not_utf_8(main):
    (main / "testing_list.txt").write_bytes(b"go/\xff.wav")
    with refused(TaskError, "malformed", main / "testing_list.txt"):
        LAYOUT_35.read(Copy(main, 0))


def test_class_with_one_clip(main):
    for word in (*COMMANDS, *OTHER_WORDS):
        for part, name in utterances(word):
            if word == "wow" and part != "train":
                (main / name).unlink()
    for list_name in ("validation_list.txt", "testing_list.txt"):
        lines = (main / list_name).read_text().splitlines()
        (main / list_name).write_text("\n".join(x for x in lines if not x.startswith("wow/")))
    (main / utterances("wow")[0][1]).unlink()
    with refused(TaskError, "missing", main, key="class", value="wow"):
        LAYOUT_35.read(Copy(main, 0))
