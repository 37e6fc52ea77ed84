"""The miniatures: the publishers' names and arrangement, and tasks that need what theirs need."""

import csv
import hashlib
import json
import re
import tarfile
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
import soundfile

from byola_rq.audio.frontend import LogMelSpectrogram
from byola_rq.audio.io import EncodedAudio, read_audio
from evaluate.log_mels import LogMels
from evaluate.miniature.write import num_clips, write_miniatures
from evaluate.models import describe_bands
from evaluate.publishers.base import MINIATURE_MARKER
from evaluate.publishers.layouts import find_layouts, read_layout
from evaluate.tasks.task import PAPER_TASKS, TaskError, check_classes
from tests.refusal import refused

SIZE = 0.1

# Every file a publisher's folder holds, written down from listings of the real sets.
NAMES = {
    "nsynth": (
        r"nsynth-(train|valid|test)/examples\.json",
        r"nsynth-(train|valid|test)/audio/(bass|brass|flute|guitar|keyboard|mallet|organ|reed|string"
        r"|synth_lead|vocal)_(acoustic|electronic|synthetic)_\d{3}-\d{3}-(025|050|075|100|127)\.wav",
    ),
    "us8k": (
        r"metadata/UrbanSound8K\.csv",
        r"UrbanSound8K_README\.txt",
        r"audio/fold([1-9]|10)/\d{4,6}-[0-9]-\d+-\d+\.wav",
    ),
    "vc1": (r"iden_split\.txt", r"wav/id1\d{4}/[A-Za-z0-9_-]{11}/\d{5}\.wav"),
    "voxforge": (
        r"(de|en|es|fr|it|ru)/[A-Za-z0-9_]+-20\d{6}-[a-z]{3}\.tgz",
        r"(de|en|es|fr|it|ru)/[A-Za-z0-9_]+-20\d{6}-[a-z]{3}/etc/(PROMPTS|README)",
        r"(de|en|es|fr|it|ru)/[A-Za-z0-9_]+-20\d{6}-[a-z]{3}/(wav/[\w-]+\.wav|flac/[\w-]+\.flac)",
    ),
    "spcv2_12": (
        r"README\.md|LICENSE",
        r"(down|go|left|no|off|on|right|stop|up|yes)/[0-9a-f]{8}_nohash_\d\.wav",
        r"_unknown_/[a-z]+_[0-9a-f]{8}_nohash_\d\.wav\.wav",
        r"_silence_/\d+\.wav",
    ),
    "spcv2": (
        r"README\.md|LICENSE|(validation|testing)_list\.txt|_background_noise_/README\.md",
        r"_background_noise_/(doing_the_dishes|dude_miaowing|exercise_bike|pink_noise|running_tap"
        r"|white_noise)\.wav",
        r"[a-z]+/[0-9a-f]{8}_nohash_\d\.wav",
    ),
}


@pytest.fixture(scope="session")
def miniatures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_miniatures(tmp_path_factory.mktemp("miniatures"), seed=3, size=SIZE)


def digest_files(folder: Path) -> dict[str, str]:
    """Digest every file under a folder, by its name."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def read_sounds(folder: Path) -> dict[str, Path | EncodedAudio]:
    """Read all sounds of a data set by name, also those in archives."""
    sounds: dict[str, Path | EncodedAudio] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.suffix in {".wav", ".flac"}:
            sounds[name.as_posix()] = path
        elif path.suffix == ".tgz":
            with tarfile.open(path) as archive:
                for member in archive:
                    if member.name.endswith((".wav", ".flac")):
                        file = archive.extractfile(member)
                        assert file is not None
                        inner = (name.parent / member.name).as_posix()
                        sounds[inner] = EncodedAudio(inner, file.read())
    return sounds


@pytest.mark.parametrize("task", PAPER_TASKS)
def test_files_are_named_as_the_publisher_s(miniatures, task):
    names = set(digest_files(miniatures[task])) - {MINIATURE_MARKER}
    for name in names:
        assert any(re.fullmatch(pattern, name) for pattern in NAMES[task]), name
    for pattern in NAMES[task]:
        assert any(re.fullmatch(pattern, name) for name in names), pattern


@pytest.mark.parametrize("task", PAPER_TASKS)
def test_every_sound_is_heard_and_none_twice(miniatures, task):
    waveforms = {}
    for name, source in read_sounds(miniatures[task]).items():
        waveforms[name] = read_audio(source, 16_000).numpy()
        assert len(waveforms[name]) >= 0.39 * 16_000, name
        assert waveforms[name].std() > 1e-3, name
        assert np.abs(waveforms[name]).max() < 1, name
    assert len({waveform.tobytes() for waveform in waveforms.values()}) == len(waveforms)
    assert len(waveforms) == num_clips(size=SIZE, tasks=[task]) - (
        num_clips(size=SIZE, tasks=["spcv2"]) if task == "spcv2_12" else 0
    )


def test_the_readers_find_and_read_all_six_without_a_problem(miniatures):
    root = miniatures["nsynth"].parent
    assert tuple(find_layouts(root)) == PAPER_TASKS
    for name in PAPER_TASKS:
        task = read_layout(name, root, seed=0)
        check_classes(task)
        assert task.problems == ()
        assert task.num_missing == 0
        assert all(clip.path.exists() for clip in task.clips)
        parts = (
            {str(fold) for fold in range(1, 11)} if name == "us8k" else {"train", "valid", "test"}
        )
        assert {clip.part for clip in task.clips} == parts
        num_classes = {"nsynth": 11, "us8k": 10, "voxforge": 6, "spcv2_12": 12, "spcv2": 35}
        assert len(task.classes) == num_classes.get(name, 4)
        seen = {(clip.label, clip.part) for clip in task.clips}
        no_test = {("synth_lead", "valid"), ("synth_lead", "test")} if name == "nsynth" else set()
        assert {(x, y) for x in task.classes for y in parts} - seen == no_test


def test_nsynth_tells_of_each_note_what_the_real_one_tells(miniatures):
    instruments = {}
    numbers = []
    for part in ("train", "valid", "test"):
        folder = miniatures["nsynth"] / f"nsynth-{part}"
        examples = json.loads((folder / "examples.json").read_text())
        assert {f"{note}.wav" for note in examples} == {
            p.name for p in (folder / "audio").iterdir()
        }
        for name, note in examples.items():
            assert set(note) == {
                "note", "note_str", "instrument", "instrument_str", "pitch", "velocity",
                "sample_rate", "qualities", "qualities_str", "instrument_family",
                "instrument_family_str", "instrument_source", "instrument_source_str",
            }  # fmt: skip
            assert name == note["note_str"]
            pitch_and_velocity = f"-{note['pitch']:03d}-{note['velocity']:03d}"
            assert name == note["instrument_str"] + pitch_and_velocity
            assert note["instrument_str"].startswith(
                f"{note['instrument_family_str']}_{note['instrument_source_str']}_"
            )
            assert len(note["qualities"]) == 10
            assert sum(note["qualities"]) == len(note["qualities_str"])
            info = soundfile.info(folder / "audio" / f"{name}.wav")
            assert (info.samplerate, info.subtype) == (note["sample_rate"], "PCM_16")
        numbers += [note["note"] for note in examples.values()]
        instruments[part] = {note["instrument_str"] for note in examples.values()}
    assert len(set(numbers)) == len(numbers)
    assert not instruments["train"] & (instruments["valid"] | instruments["test"])


def test_urbansound8k_is_cut_from_recordings_of_any_format(miniatures):
    folder = miniatures["us8k"]
    with (folder / "metadata" / "UrbanSound8K.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    header = "slice_file_name,fsID,start,end,salience,fold,classID,class"
    assert ",".join(rows[0]) == header
    files = {f"audio/fold{row['fold']}/{row['slice_file_name']}": row for row in rows}
    assert set(files) == set(read_sounds(folder))
    classes, folds, formats = defaultdict(set), defaultdict(set), defaultdict(set)
    for name, row in files.items():
        assert row["slice_file_name"].startswith(f"{row['fsID']}-{row['classID']}-")
        classes[row["classID"]].add(row["class"])
        folds[row["fsID"]].add(row["fold"])
        info = soundfile.info(folder / name)
        assert info.duration == pytest.approx(float(row["end"]) - float(row["start"]), abs=1e-3)
        for fact in ("samplerate", "subtype", "channels"):
            formats[fact].add(getattr(info, fact))
    assert [classes[str(number)] for number in range(10)] == [
        {name} for name in sorted({row["class"] for row in rows})
    ]
    assert all(len(of_recording) == 1 for of_recording in folds.values())
    assert len(rows) > len(folds)  # some recordings do have two slices
    assert formats["samplerate"] == {16_000, 22_050, 44_100, 48_000}
    assert formats["subtype"] == {"PCM_16", "PCM_24", "PCM_U8", "FLOAT"}
    assert formats["channels"] == {1, 2}


def test_a_float_wav_does_not_tell_when_it_was_written(miniatures):
    floats = [
        path
        for path in miniatures["us8k"].rglob("*.wav")
        if soundfile.info(path).subtype == "FLOAT"
    ]
    for path in floats:
        data = path.read_bytes()
        chunk = data.index(b"PEAK")
        assert data[chunk + 12 : chunk + 16] == bytes(4)
    assert floats


def test_voxceleb1_tests_on_videos_that_training_never_saw(miniatures):
    lines = (miniatures["vc1"] / "iden_split.txt").read_text().splitlines()
    parts, videos = defaultdict(set), defaultdict(set)
    for line in lines:
        part, name = line.split(" ")
        speaker, video, _ = name.split("/")
        parts[speaker].add(part)
        videos[video].add(part)
    assert {f"wav/{line[2:]}" for line in lines} == set(read_sounds(miniatures["vc1"]))
    assert all(of_speaker == {"1", "2", "3"} for of_speaker in parts.values())
    assert all(len(of_video) == 1 for of_video in videos.values())
    assert any(video.startswith("-") for video in videos)


def test_voxforge_has_archives_of_every_kind(miniatures):
    folder = miniatures["voxforge"]
    names = set(digest_files(folder))
    archives = {
        tuple(name.removesuffix(".tgz").split("/")[:2]) for name in names - {MINIATURE_MARKER}
    }
    users = Counter((language, name.split("-")[0]) for language, name in archives)
    for language in ("de", "en", "es", "fr", "it", "ru"):
        assert users[language, "anonymous"] >= 2
        assert 2 in (n for (of, user), n in users.items() if of == language and user != "anonymous")
        assert any(n.startswith(f"{language}/") and n.endswith(".tgz") for n in names)
        assert any(n.startswith(f"{language}/") and n.endswith(".flac") for n in names)
        assert any(n.startswith(f"{language}/") and n.endswith(".wav") for n in names)
    sounds = read_sounds(folder)
    assert {tuple(name.split("/")[:2]) for name in sounds} == archives
    for path in folder.rglob("PROMPTS"):
        said = [line.split(" ")[0].split("/") for line in path.read_text().splitlines()]
        assert {archive for archive, _, _ in said} == {path.parts[-3]}
        heard = {p.stem for p in path.parent.parent.rglob("*") if p.suffix in {".wav", ".flac"}}
        assert {utterance for _, _, utterance in said} == heard


def test_speech_commands_divides_speakers_and_tests_on_the_listed_clips(miniatures):
    folder, test_folder = miniatures["spcv2"], miniatures["spcv2_12"]
    words = {n for n in read_sounds(folder) if not n.startswith("_")}
    lists = {
        part: set((folder / f"{part}_list.txt").read_text().split())
        for part in ("validation", "testing")
    }
    lists["train"] = words - lists["validation"] - lists["testing"]
    speakers = {
        part: {name.split("/")[1].split("_")[0] for name in names} for part, names in lists.items()
    }
    assert sum(map(len, speakers.values())) == len(set().union(*speakers.values()))
    commands = {path.name for path in test_folder.iterdir() if path.is_dir()}
    tested = {name for name in lists["testing"] if name.split("/")[0] in commands}
    assert tested == {name for name in read_sounds(test_folder) if not name.startswith("_")}
    for name in tested:
        assert (folder / name).read_bytes() == (test_folder / name).read_bytes()
    for path in (test_folder / "_unknown_").iterdir():
        word, name = path.name.removesuffix(".wav").split("_", 1)
        assert word not in commands
        assert f"{word}/{name}" in lists["testing"]
        assert (folder / word / name).read_bytes() == path.read_bytes()


def count_right(features, labels, is_test):
    """Clips whose own class has the nearest mean, of those that are not tested."""
    classes = np.unique(labels[~is_test])
    means = np.stack([features[~is_test & (labels == name)].mean(axis=0) for name in classes])
    distances = np.linalg.norm(features[is_test, None] - means, axis=2)
    return int((classes[distances.argmin(axis=1)] == labels[is_test]).sum())


@pytest.mark.parametrize("name", ["nsynth", "us8k", "vc1"])
def test_a_label_is_learned_from_its_sound_and_from_nothing_else(miniatures, name):
    task = read_layout(name, miniatures[name].parent, seed=0)
    log_mels = LogMels(task, LogMelSpectrogram(), device="cpu", num_workers=1)
    ((_, log_mel),) = log_mels.batches(range(len(task.clips)), len(task.clips))
    features = describe_bands(log_mel).numpy()  # mean and deviation of each mel band
    features = (features - features.mean(axis=0)) / features.std(axis=0)
    seconds = np.array([[soundfile.info(clip.path).duration] for clip in task.clips])
    labels = np.array([clip.label for clip in task.clips])
    parts = np.array([clip.part for clip in task.clips])
    folds = [part for part in sorted(set(parts)) if part.isdecimal()]
    tests = [parts == fold for fold in folds] or [parts != "train"]
    count, chance = sum(map(np.sum, tests)), 1 / len(task.classes)
    most_by_chance = count * chance + 3 * np.sqrt(count * chance * (1 - chance))
    assert sum(count_right(seconds, labels, each) for each in tests) < most_by_chance
    num_right = sum(count_right(features, labels, each) for each in tests)
    assert most_by_chance < num_right < 0.9 * count


def test_a_seed_decides_every_byte(miniatures, tmp_path):
    again = write_miniatures(tmp_path / "again", seed=3, size=SIZE)
    assert list(again) == list(PAPER_TASKS)
    for task, folder in again.items():
        assert digest_files(folder) == digest_files(miniatures[task]), task
    assert not list((tmp_path / "again").glob(".*"))


@pytest.mark.parametrize("task", ["nsynth", "vc1"])
def test_another_seed_shares_no_sound(miniatures, tmp_path, task):
    other = write_miniatures(tmp_path, seed=4, size=SIZE, tasks=[task])[task]
    sounds, others = (
        {read_audio(s, 16_000).numpy().tobytes() for s in read_sounds(folder).values()}
        for folder in (miniatures[task], other)
    )
    assert len(others) == num_clips(size=SIZE, tasks=[task])
    assert not sounds & others


def test_progress_counts_every_clip(tmp_path):
    counts = []
    folders = write_miniatures(tmp_path, seed=3, size=SIZE, tasks=["vc1"], on_clip=counts.append)
    assert list(folders) == ["vc1"]
    assert counts == list(range(1, num_clips(size=SIZE, tasks=["vc1"]) + 1))
    assert num_clips(tasks=["vc1"]) > len(counts)


def test_the_test_set_of_12_commands_brings_what_it_is_trained_on():
    assert num_clips(tasks=["spcv2_12"]) == num_clips(tasks=["spcv2", "spcv2_12"])
    assert num_clips(tasks=["spcv2_12"]) > num_clips(tasks=["spcv2"])


class Stopped(Exception):
    pass


def stop_after(num_clips_written):
    def on_clip(count):
        if count == num_clips_written:
            raise Stopped

    return on_clip


def test_a_stopped_call_goes_on_and_what_is_whole_is_left_alone(miniatures, tmp_path):
    first = num_clips(size=SIZE, tasks=["nsynth"])
    keywords = {"seed": 3, "size": SIZE, "tasks": ["nsynth", "vc1"]}
    with pytest.raises(Stopped):
        write_miniatures(tmp_path, **keywords, on_clip=stop_after(first + 5))
    assert (tmp_path / "nsynth").is_dir()
    assert not (tmp_path / "VoxCeleb1").exists()  # nothing half-done under the final name
    (unfinished,) = tmp_path.glob(".*")
    kept = {path: path.stat().st_mtime_ns for path in unfinished.rglob("*.wav")}
    assert len(kept) == 5
    # As if it had been killed while it wrote the next file.
    cut = next(name for name in digest_files(miniatures["vc1"]) if not (unfinished / name).exists())
    half = (unfinished / cut).with_name(f".{Path(cut).name}.0a1b2c3d.partial")
    half.parent.mkdir(parents=True, exist_ok=True)
    half.write_bytes(b"RIFF")
    whole = {path: path.stat().st_mtime_ns for path in (tmp_path / "nsynth").rglob("*.*")}

    folders = write_miniatures(tmp_path, **keywords)
    for task, folder in folders.items():
        assert digest_files(folder) == digest_files(miniatures[task])
    for path, time in kept.items():
        assert (tmp_path / "VoxCeleb1" / path.relative_to(unfinished)).stat().st_mtime_ns == time
    assert {path: path.stat().st_mtime_ns for path in whole} == whole


def test_a_file_that_was_lost_is_written_again(miniatures, tmp_path):
    keywords = {"seed": 3, "size": SIZE, "tasks": ["nsynth"]}
    folder = write_miniatures(tmp_path, **keywords)["nsynth"]
    lost = sorted(folder.rglob("*.wav"))[7]
    lost.unlink()
    write_miniatures(tmp_path, **keywords)
    assert digest_files(folder) == digest_files(miniatures["nsynth"])


def test_what_a_call_of_another_seed_left_is_not_used(miniatures, tmp_path):
    with pytest.raises(Stopped):
        write_miniatures(tmp_path, seed=4, size=SIZE, tasks=["nsynth"], on_clip=stop_after(5))
    folder = write_miniatures(tmp_path, seed=3, size=SIZE, tasks=["nsynth"])["nsynth"]
    assert digest_files(folder) == digest_files(miniatures["nsynth"])
    assert not list(tmp_path.glob(".*"))


def test_nothing_else_is_overwritten(tmp_path):
    keywords = {"size": SIZE, "tasks": ["nsynth", "vc1"]}
    (tmp_path / "real" / "VoxCeleb1").mkdir(parents=True)
    with refused(TaskError, "exists", tmp_path / "real" / "VoxCeleb1"):
        write_miniatures(tmp_path / "real", seed=3, **keywords)
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "real", tmp_path / "real" / "VoxCeleb1"]

    write_miniatures(tmp_path / "other", seed=4, size=SIZE, tasks=["nsynth"])
    before = digest_files(tmp_path / "other")
    mark = (tmp_path / "other" / "nsynth" / MINIATURE_MARKER).read_text().strip()
    assert '"seed": 4' in mark
    with refused(TaskError, "exists", tmp_path / "other" / "nsynth", value=mark) as caught:
        write_miniatures(tmp_path / "other", seed=3, **keywords)
    assert mark in str(caught.value)
    assert mark.replace("4", "3") in str(caught.value)
    assert digest_files(tmp_path / "other") == before


def test_wrong_calls_are_refused(tmp_path):
    with refused(TaskError, "unknown", key="tasks", value="esc50"):
        write_miniatures(tmp_path, seed=0, tasks=["esc50"])
    for size in (0, -1.0, 1.5, float("nan")):
        with refused(TaskError, "value", key="size") as caught:
            num_clips(size=size)
        assert caught.value.value is size
    (tmp_path / "file").touch()
    with refused(TaskError, "unwritable") as caught:
        write_miniatures(tmp_path / "file", seed=0, size=SIZE, tasks=["vc1"])
    assert caught.value.path.is_relative_to(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b""
