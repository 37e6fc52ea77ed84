"""VoxForge as volunteers' archives: packed, unpacked, at any depth, in any mixture."""

import io
import os
import shutil
import tarfile
import zlib
from collections import Counter, defaultdict
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from evaluate.__main__ import app
from evaluate.log_mels import read_clip
from evaluate.publishers import voxforge, voxforge_archives
from evaluate.publishers.base import Copy
from evaluate.publishers.layouts import find_layouts, read_layout
from evaluate.publishers.voxforge import LAYOUT
from evaluate.publishers.voxforge_archives import LANGUAGES
from evaluate.reports.results import read_results
from evaluate.tasks.task import Problem, Task, TaskError
from tests.evaluate.conftest import write_csv, write_sound
from tests.refusal import refused

TREE = "Trunk/Audio/Main/16kHz_16bit"  # the publisher's
HEADER = ("file_name", "label", "split")


def read(root: Path, seed: int = 0) -> Task:
    return LAYOUT.read(Copy(root, seed))


@cache
def encode(seed: int, suffix: str) -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(seed).uniform(-0.5, 0.5, 320)
    soundfile.write(file, noise, 16_000, format=suffix)
    return file.getvalue()


def write_archive(folder: Path, num_clips: int = 2, sounds: str = "wav") -> Path:
    """An archive unpacked: sounds, and the texts that stand beside them."""
    (folder / sounds).mkdir(parents=True)
    for number in range(num_clips):
        name = f"{folder.name[-3:]}-{number:04d}.{sounds}"
        sound = encode(zlib.crc32(f"{folder.name}/{name}".encode()), sounds)
        (folder / sounds / name).write_bytes(sound)
    (folder / "etc").mkdir(parents=True, exist_ok=True)
    (folder / "etc/PROMPTS").write_text("some sentence")
    return folder


def pack(folder: Path, suffix: str = ".tgz") -> Path:
    """Pack an unpacked archive as the publisher does, and take the folder away."""
    path = folder.parent / (folder.name + suffix)
    with tarfile.open(path, "w" if suffix == ".tar" else "w:gz") as tar:
        tar.add(folder, folder.name)
    shutil.rmtree(folder)
    return path


def write_voxforge(root: Path, names: dict[str, str] | None = None, tree: str = "") -> Path:
    """Seven archives of five people and more in every language."""
    for language in LANGUAGES:
        folder = root / (names or {}).get(language, language) / tree
        for user in ("anna", "anna", "bert", "Carla", "anonymous", "Anonymous", "dora"):
            number = len(list(folder.glob("*"))) if folder.exists() else 0
            write_archive(folder / f"{user}-2010{number:04d}-{language}{number}")
    return root


def test_reads_every_language(tmp_path):
    assert LAYOUT.is_root(write_voxforge(tmp_path))
    task = read(tmp_path)
    assert (task.name, task.unit_seconds, task.has_folds) == ("voxforge", 5.8, False)
    assert task.classes == ("de", "en", "es", "fr", "it", "ru")
    assert Counter(clip.label for clip in task.clips) == dict.fromkeys(LANGUAGES, 14)
    wanted = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.wav"))
    assert [clip.file_name for clip in task.clips] == wanted
    assert all(clip.path == tmp_path / clip.file_name and not clip.member for clip in task.clips)
    assert task.problems == ()
    assert (task.num_missing, task.max_skipped) == (0, 0.01)
    assert task.warnings == ("clips differ from the published set: all 84 (published 176,438)",)
    assert task.split_rule == "speaker-disjoint 70/15/15, seed 0"


def test_speakers_are_the_users(tmp_path):
    task = read(write_voxforge(tmp_path))
    groups = {clip.group for clip in task.clips if clip.label == "de"}
    assert groups == {
        "anna",
        "bert",
        "carla",
        "dora",
        "anonymous-20100004-de4",
        "Anonymous-20100005-de5",
    }


def test_no_speaker_is_in_two_parts(tmp_path):
    """Check also a speaker of two languages, and that every language is in every part."""
    task = read(write_voxforge(tmp_path))
    parts = defaultdict(set)
    for clip in task.clips:
        parts[clip.group].add(clip.part)
    assert {len(names) for names in parts.values()} == {1}
    there = {(clip.label, clip.part) for clip in task.clips}
    assert there == {(lang, part) for lang in LANGUAGES for part in ("train", "valid", "test")}


def test_split_is_of_the_seed_alone(tmp_path, monkeypatch):
    write_voxforge(tmp_path)
    first = read(tmp_path, 3)
    listed = os.scandir

    class Backwards:
        def __init__(self, folder):
            with listed(folder) as entries:
                self.entries = list(entries)[::-1]

        def __enter__(self):
            return iter(self.entries)

        def __exit__(self, *_):
            return None

    monkeypatch.setattr(os, "scandir", Backwards)
    assert read(tmp_path, 3) == first
    assert [c.part for c in read(tmp_path, 4).clips] != [c.part for c in first.clips]


def test_packed_is_as_unpacked(tmp_path):
    """The same names, parts and sounds, whatever is packed and as what."""
    unpacked = read(write_voxforge(tmp_path, tree=TREE))
    sounds = [read_clip(clip, 16_000, 800) for clip in unpacked.clips]
    for number, folder in enumerate(sorted(tmp_path.glob(f"*/{TREE}/*"))):
        if number % 4:
            pack(folder, (".tgz", ".tar.gz", ".tar")[number % 4 - 1])
    assert LAYOUT.is_root(tmp_path)
    packed = read(tmp_path)
    facts = [(c.file_name, c.label, c.part, c.group) for c in unpacked.clips]
    assert [(c.file_name, c.label, c.part, c.group) for c in packed.clips] == facts
    assert Counter(clip.path.suffix for clip in packed.clips).keys() == {
        ".wav",
        ".tgz",
        ".gz",
        ".tar",
    }
    for clip, sound in zip(packed.clips, sounds, strict=True):
        assert (read_clip(clip, 16_000, 800) == sound).all()
    assert packed.problems == ()


@pytest.mark.parametrize("name", ["German", "GERMAN", "De", "german"])
def test_other_names_of_a_language(tmp_path, name):
    write_voxforge(tmp_path, {"de": name, "en": "SpeechCorpus", "ru": "Russian"}, tree=TREE)
    assert LAYOUT.is_root(tmp_path)
    task = read(tmp_path)
    assert Counter(clip.label for clip in task.clips) == dict.fromkeys(LANGUAGES, 14)
    assert any(clip.file_name.startswith(f"{name}/{TREE}/anna-") for clip in task.clips)


def test_flac_is_read_too(tmp_path):
    write_voxforge(tmp_path)
    pack(write_archive(tmp_path / "de/eve-20110101-abc", sounds="flac"))
    write_archive(tmp_path / "de/finn-20110101-abc", sounds="flac")
    names = {clip.file_name for clip in read(tmp_path).clips}
    assert "de/eve-20110101-abc/flac/abc-0000.flac" in names
    assert "de/finn-20110101-abc/flac/abc-0001.flac" in names


def test_a_sound_in_both_formats_counts_once(tmp_path):
    write_voxforge(tmp_path)
    folder = tmp_path / "de/eve-20110101-abc"
    write_archive(write_archive(folder), sounds="flac")
    names = [clip.file_name for clip in read(tmp_path).clips if clip.group == "eve"]
    assert names == [f"de/eve-20110101-abc/wav/abc-{number:04d}.wav" for number in range(2)]


def test_packed_and_unpacked_counts_once(tmp_path):
    wanted = read(write_voxforge(tmp_path))
    for name in ("bert-20100002-de2", "dora-20100006-de6"):
        folder = tmp_path / "de" / name
        shutil.copytree(folder, tmp_path / "kept" / name)
        pack(folder)
        shutil.copytree(tmp_path / "kept" / name, folder)
    shutil.rmtree(tmp_path / "kept")
    task = read(tmp_path)
    assert task.clips == wanted.clips
    detail = "duplicate archives: de/bert-20100002-de2.tgz, de/dora-20100006-de6.tgz"
    assert task.problems == (Problem("duplicate", "de", detail),)


def test_of_two_rates_the_published_counts(tmp_path):
    wanted = read(write_voxforge(tmp_path, tree=TREE))
    for folder in sorted((tmp_path / "fr" / TREE).iterdir()):
        write_archive(tmp_path / "fr" / "Original/48kHz_16bit" / folder.name)
    task = read(tmp_path)
    assert task.clips == wanted.clips
    assert task.problems[0].kind == "duplicate"
    assert task.problems[0].detail.endswith("and 4 more")


def test_an_empty_folder_does_not_hide_the_packed_archive(tmp_path):
    wanted = read(write_voxforge(tmp_path))
    pack(tmp_path / "it/bert-20100002-it2")
    (tmp_path / "it/bert-20100002-it2/wav").mkdir(parents=True)
    task = read(tmp_path)
    assert [c.file_name for c in task.clips] == [c.file_name for c in wanted.clips]
    assert sum(bool(clip.member) for clip in task.clips) == 2


def test_a_damaged_archive_is_reported_and_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(voxforge, "MAX_SKIPPED", 0.2)
    write_voxforge(tmp_path)
    path = pack(tmp_path / "de/bert-20100002-de2")
    path.write_bytes(path.read_bytes()[:-100])
    task = read(tmp_path)
    assert len(task.clips) == 82
    assert task.num_missing == 10
    assert [problem.kind for problem in task.problems] == ["unreadable"]
    assert task.problems[0].name == "de/bert-20100002-de2.tgz"
    assert str(path) in task.problems[0].detail


def test_many_damaged_archives_fail(tmp_path):
    write_voxforge(tmp_path)
    path = pack(tmp_path / "de/bert-20100002-de2")
    path.write_bytes(path.read_bytes()[:-100])
    with refused(TaskError, "too-many", tmp_path, value=["de/bert-20100002-de2.tgz"]):
        read(tmp_path)


def test_a_missing_language_fails(tmp_path):
    shutil.rmtree(write_voxforge(tmp_path) / "it")
    shutil.rmtree(tmp_path / "ru")
    (tmp_path / "ru").mkdir()
    assert LAYOUT.is_root(tmp_path)
    with refused(TaskError, "missing", tmp_path, value=["it", "ru"]):
        read(tmp_path)


def test_a_language_of_two_speakers_fails(tmp_path):
    write_voxforge(tmp_path)
    for folder in (tmp_path / "es").iterdir():
        if not folder.name.startswith(("anna", "bert")):
            shutil.rmtree(folder)
    with refused(TaskError, "missing", tmp_path, key="es", value=2):
        read(tmp_path)


@pytest.mark.parametrize("name", ["split.csv", "voxforge.csv", "voxforge_ours.csv"])
def test_a_given_split_is_used(tmp_path, name):
    clips = read(write_voxforge(tmp_path)).clips
    splits = ("train", "validation", "Test", "dev", "val", "valid")
    rows = [
        (clip.file_name, "German" if clip.label == "de" else clip.label, splits[number % 6])
        for number, clip in enumerate(clips)
    ]
    write_csv(tmp_path / name, rows[::-1], HEADER)
    task = read(tmp_path)
    parts = {"Test": "test", "train": "train"}
    assert [c.part for c in task.clips] == [parts.get(row[2], "valid") for row in rows]
    assert (task.split_rule, task.notes) == (f"given by {name}", (f"split: as {name} gives it",))
    assert {problem.kind for problem in task.problems} == {"overlap"}
    assert Problem("overlap", "anna", "in test and train and valid") in task.problems


def by_archive(archives: list[str]) -> dict[str, str]:
    """A part for each archive, at random, so that speakers are in several."""
    drawn = np.random.default_rng(1).permutation(sorted(archives)).tolist()
    return {name: ("train", "train", "valid", "test")[n % 4] for n, name in enumerate(drawn)}


@pytest.mark.parametrize("has_folder", [True, False], ids=["language folders", "none"])
@pytest.mark.parametrize("is_named", [True, False], ids=["named with them", "without"])
@pytest.mark.parametrize("is_above", [True, False], ids=["csv above", "csv inside"])
def test_evars_csv_is_matched_by_archive_and_file(tmp_path, has_folder, is_named, is_above):
    root = write_voxforge(tmp_path / "voxforge", tree=TREE)
    wanted = {
        (path.parent.parent.name, path.name): path.relative_to(root).parts[0]
        for path in root.rglob("*.wav")
    }
    parts = by_archive(list({archive for archive, _ in wanted}))
    if not has_folder:
        for folder in root.glob(f"*/{TREE}/*"):
            folder.rename(root / folder.name)
        for language in LANGUAGES:
            shutil.rmtree(root / language)
    rows = [
        (f"{language}/{archive}/wav/{file}" if is_named else f"{archive}/wav/{file}", language,
         parts[archive])
        for (archive, file), language in wanted.items()
    ]  # fmt: skip
    write_csv((tmp_path if is_above else root) / "voxforge.csv", rows, HEADER)
    assert find_layouts(tmp_path) == {"voxforge": (root,)}
    task = read_layout("voxforge", tmp_path, seed=0)
    said = {}
    for clip in task.clips:
        archive = clip.path.parent.parent.name
        said[archive, clip.path.name] = clip.label
        assert clip.path.is_file()
        assert clip.part == parts[archive]
    assert said == wanted
    assert task.split_rule == "given by voxforge.csv, by archive"
    assert not task.problems  # speakers in several parts are how it was published
    assert any("speakers" in note for note in task.notes)


def test_given_archives_of_one_name_in_two_languages(tmp_path):
    root = write_voxforge(tmp_path)
    for language in ("de", "it"):
        write_archive(root / language / "eve-20110101-abc")
    clips = read(root).clips
    rows = [(place(clip.file_name), clip.label, "train") for clip in clips]
    parts = by_archive([row[0].partition("/")[0] + row[1] for row in rows])
    rows = [(name, label, parts[name.partition("/")[0] + label]) for name, label, _ in rows]
    write_csv(root / "voxforge.csv", rows, HEADER)
    given = read(root)
    assert [(c.file_name, c.label) for c in given.clips] == [(c.file_name, c.label) for c in clips]


def place(file_name: str) -> str:
    return file_name.partition("/")[2]


def test_of_what_is_packed_beside_a_given_split_only_archives_are_opened(tmp_path):
    root = write_voxforge(tmp_path)
    clips = read(root).clips
    pack(write_archive(root / "eve-20110101-abc"))
    (root / "de.tgz").write_bytes(b"the download of a whole language")
    parts = by_archive([place(clip.file_name).partition("/")[0] for clip in clips])
    rows = [
        (clip.file_name, clip.label, parts[place(clip.file_name).partition("/")[0]])
        for clip in clips
    ]
    rows.append(("eve-20110101-abc/wav/abc-0000.wav", "it", "test"))
    write_csv(root / "voxforge.csv", rows, HEADER)
    task = read(root)
    assert {(c.label, c.part) for c in task.clips if c.group == "eve"} == {("it", "test")}
    assert [problem.kind for problem in task.problems] == ["unlisted"]  # her second sentence


def test_archives_without_folders_of_languages_need_a_csv(tmp_path):
    root = write_voxforge(tmp_path)
    for folder in root.glob("*/*"):
        folder.rename(root / folder.name)
    assert not LAYOUT.is_root(root)
    write_csv(root / "split.csv", [], HEADER)  # a name that says nothing of VoxForge
    assert not LAYOUT.is_root(root)
    write_csv(root / "voxforge_ours.csv", [], HEADER)
    assert LAYOUT.is_root(root)


def test_a_split_by_archive(tmp_path):
    root = write_voxforge(tmp_path)
    task = LAYOUT.read(Copy(root, 3, by_archive=True))
    assert task.split_rule == "archive-disjoint 70/15/15, seed 3"
    archives, speakers = defaultdict(set), defaultdict(set)
    for clip in task.clips:
        archives[clip.path.parent.parent].add(clip.part)
        speakers[clip.group].add(clip.part)
    assert {len(parts) for parts in archives.values()} == {1}
    assert max(len(parts) for parts in speakers.values()) > 1
    assert task.problems == ()
    there = {(clip.label, clip.part) for clip in task.clips}
    assert there == {(lang, part) for lang in LANGUAGES for part in ("train", "valid", "test")}
    assert LAYOUT.read(Copy(root, 3, by_archive=True)) == task
    assert LAYOUT.read(Copy(root, 4, by_archive=True)).clips != task.clips


@pytest.mark.parametrize("unit", ["speaker", "archive"])
def test_the_split_is_an_option_and_stands_in_the_rows(tmp_path, unit):
    root, out = write_voxforge(tmp_path / "sets/voxforge"), tmp_path / "out"
    option = ["--data-root", str(root.parent), "--voxforge-split", unit]
    looked = CliRunner().invoke(app, ["inspect", *option])
    assert looked.exit_code == 0, looked.output
    assert f"no {unit} in two parts, 70/15/15" in looked.stdout
    arguments = ["run", *option, "--baseline", "logmel", "--probe", "knn", "--limit", "2"]
    result = CliRunner().invoke(app, [*arguments, "--out", str(out)])
    assert result.exit_code == 0, result.output
    (row,) = read_results(out)
    assert row.split == f"{unit}-disjoint 70/15/15, seed 0; limit 2"


def test_given_clips_that_are_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr("evaluate.publishers.base.MAX_SKIPPED", 0.2)
    task = read(write_voxforge(tmp_path))
    rows = [(clip.file_name, clip.label, clip.part) for clip in task.clips[1:]]
    write_csv(tmp_path / "split.csv", [*rows, ("de/gone.wav", "de", "test")], HEADER)
    given = read(tmp_path)
    assert given.clips == task.clips[1:]
    assert given.num_missing == 1
    assert [(p.kind, p.name) for p in given.problems] == [
        ("missing", "de/gone.wav"),
        ("unlisted", str(tmp_path)),
    ]


@pytest.mark.parametrize(
    ("row", "facts"),
    [
        (("de/x.wav", "de", "unknown"), ("value", "split", "unknown")),
        (("de/x.wav", "nl", "train"), ("value", "label", "nl")),
        ((None, "ru", "train"), ("different", "label", "ru")),
    ],
)
def test_a_given_split_that_is_wrong(tmp_path, row, facts):
    first = read(write_voxforge(tmp_path)).clips[1].file_name
    row = tuple(first if field is None else field for field in row)
    path = write_csv(tmp_path / "split.csv", [row], HEADER)
    code, key, value = facts
    with refused(TaskError, code, path, key=key, value=value) as caught:
        read(tmp_path)
    assert row[0] in str(caught.value)


def test_two_given_splits(tmp_path):
    write_voxforge(tmp_path)
    given = [write_csv(tmp_path / name, [], HEADER) for name in ("split.csv", "voxforge.csv")]
    with refused(TaskError, "twice", tmp_path, value=given):
        read(tmp_path)


def test_what_is_no_root(tmp_path):
    write_archive(tmp_path / "one/de/anna-20100101-abc")
    write_archive(tmp_path / "one/nl/anna-20100101-abc")
    write_sound(tmp_path / "speech/de/clips/1.wav", 440.0, 0.02)
    write_sound(tmp_path / "speech/en/clips/1.wav", 440.0, 0.02)
    write_sound(tmp_path / "flat/de/wav/1.wav", 440.0, 0.02)
    write_sound(tmp_path / "flat/en/wav/1.wav", 440.0, 0.02)
    for name in ("one", "speech", "flat", "gone"):
        assert not LAYOUT.is_root(tmp_path / name)


def test_a_large_tree_is_not_searched_to_its_end(tmp_path, monkeypatch):
    for language in ("de", "en"):
        for number in range(300):
            (tmp_path / language / "texts" / f"{number}/a/b").mkdir(parents=True)
    looks: list[Path] = []
    listed = os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: looks.append(folder) or listed(folder))
    assert not LAYOUT.is_root(tmp_path)
    assert len(looks) <= 202


def test_a_link_to_where_it_lies(tmp_path):
    wanted = read(write_voxforge(tmp_path))
    (tmp_path / "de/again").symlink_to(tmp_path / "de", target_is_directory=True)
    assert read(tmp_path).clips == wanted.clips


def test_own_folders_are_the_languages():
    for name in ("de", "De", "DE", "German", "SpeechCorpus"):
        assert any(fnmatch(name, pattern) for pattern in LAYOUT.own_folders)
    assert not any(fnmatch("nl", pattern) for pattern in LAYOUT.own_folders)


def test_listing_many_archives_shows_progress(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(voxforge_archives, "_MANY_ARCHIVES", 7)
    for folder in (write_voxforge(tmp_path) / "it").iterdir():
        pack(folder)
    read(tmp_path)
    assert "voxforge: listing archives: 7/7" in capsys.readouterr().err
