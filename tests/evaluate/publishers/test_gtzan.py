import shutil
from collections import Counter

import pytest
import soundfile

from evaluate.log_mels import read_clip
from evaluate.publishers.base import Copy
from evaluate.publishers.gtzan import LAYOUT
from evaluate.tasks.task import Problem, TaskError
from tests.evaluate.conftest import write_sound
from tests.refusal import refused

GENRES = (
    "blues", "classical", "country", "disco", "hiphop", "jazz", "metal", "pop", "reggae", "rock",
)  # fmt: skip
LISTS = {"train": "train_filtered.txt", "valid": "valid_filtered.txt", "test": "test_filtered.txt"}
ALL = [(genre, f"{genre}.{number:05d}") for genre in GENRES for number in range(100)]


@pytest.fixture(scope="session")
def genres(tmp_path_factory):
    """Write all 1,000 clips once, as the publisher's .au and as the .wav of copies."""
    folder = tmp_path_factory.mktemp("gtzan")
    write_sound(folder / "1.wav", 440.0, 0.05)
    waveform, rate = soundfile.read(folder / "1.wav")
    soundfile.write(folder / "1.au", waveform, rate, subtype="PCM_16")
    for suffix in ("wav", "au"):
        for genre in GENRES:
            (folder / suffix / genre).mkdir(parents=True)
        for genre, clip in ALL:
            (folder / suffix / genre / f"{clip}.{suffix}").hardlink_to(folder / f"1.{suffix}")
    return folder


@pytest.fixture
def write_gtzan(tmp_path, genres):
    """A copy whose genres are links to the clips above, but for those to be changed."""

    def write(base="genres", suffix="wav", changed=()):
        (tmp_path / base).mkdir(exist_ok=True)
        for genre in GENRES:
            if genre in changed:
                shutil.copytree(genres / suffix / genre, tmp_path / base / genre)
            else:
                (tmp_path / base / genre).symlink_to(genres / suffix / genre)
        return tmp_path

    return write


def write_lists(root, clips=None):
    """Write lists of every genre: 40 clips to train, 20 to validate, 30 to test; ten in no list."""
    lists = {part: [] for part in LISTS}
    for genre, clip in ALL if clips is None else clips:
        number = int(clip[-5:])
        part = "train" if number < 40 else "valid" if number < 60 else "test"
        if number < 90:
            lists[part].append(f"{genre}/{clip}.wav")
    for part, name in LISTS.items():
        (root / name).write_text("\n".join(lists[part]) + "\n")
    return root


def read(root, seed=0):
    return LAYOUT.read(Copy(root, seed))


@pytest.mark.parametrize(
    ("base", "suffix"), [("genres", "au"), ("genres_original", "wav"), ("", "wav")]
)
def test_reads_the_genres(write_gtzan, base, suffix):
    root = write_gtzan(base, suffix)
    assert LAYOUT.is_root(root)
    task = read(root)
    prefix = f"{base}/" if base else ""
    wanted = [(f"{prefix}{genre}/{clip}.{suffix}", genre) for genre, clip in ALL]
    assert [(clip.file_name, clip.label) for clip in task.clips] == wanted
    assert (task.name, task.unit_seconds, task.classes) == ("gtzan", 30.0, GENRES)
    assert (task.problems, task.warnings) == ((), ())
    assert task.split_rule == "stratified 70/15/15, seed 0"
    assert "artists are in several parts" in task.notes[0]
    assert len(read_clip(task.clips[0], 16_000, 800).unique()) > 700


def test_split_is_stratified_and_seeded(write_gtzan):
    root = write_gtzan()
    task = read(root, 1)
    counts = Counter((clip.label, clip.part) for clip in task.clips)
    shares = {"train": 70, "valid": 15, "test": 15}
    assert counts == {(genre, part): n for genre in GENRES for part, n in shares.items()}
    assert read(root, 1) == task
    assert [c.part for c in read(root, 2).clips] != [c.part for c in task.clips]


@pytest.mark.parametrize("suffix", ["wav", "au"])
def test_the_fault_filtered_lists_are_used(write_gtzan, suffix):
    task = read(write_lists(write_gtzan(suffix=suffix)))
    counts = Counter((clip.label, clip.part) for clip in task.clips)
    shares = {"train": 40, "valid": 20, "test": 30}
    assert counts == {(genre, part): n for genre in GENRES for part, n in shares.items()}
    assert task.split_rule == "fault-filtered"
    assert task.notes == (f"split: {', '.join(LISTS.values())}; 100 clips left out",)
    assert task.problems == ()
    assert task.warnings == (
        "clips differ from the published set: train 400 (published 443), "
        "valid 200 (published 197), test 300 (published 290)",
    )


def test_published_counts_sum_to_the_filtered_set(write_gtzan):
    """443 + 197 + 290 clips, as Kereliuk et al. give them."""
    root = write_gtzan()
    starts = {"train": 0, "valid": 443, "test": 640}
    for part, count in (("train", 443), ("valid", 197), ("test", 290)):
        chosen = ALL[starts[part] : starts[part] + count]
        (root / LISTS[part]).write_text("\n".join(f"{g}/{c}.wav" for g, c in chosen))
    assert not any("clips differ" in warning for warning in read(root).warnings)


def test_a_missing_clip_is_reported(write_gtzan):
    """The common copy lacks jazz.00054, or has it broken: within what may be missing."""
    root = write_gtzan(changed=["jazz"])
    (root / "genres/jazz/jazz.00054.wav").unlink()
    task = read(root)
    assert task.problems == (Problem("missing", "jazz/jazz.00054.wav", "listed, not on disk"),)
    assert (task.num_missing, len(task.clips)) == (1, 999)
    assert task.warnings == ("clips differ from the published set: all 999 (published 1,000)",)


def test_a_genre_missing(write_gtzan):
    root = write_gtzan(changed=["pop"])
    shutil.rmtree(root / "genres/pop")
    assert LAYOUT.is_root(root)
    missing = [f"pop/pop.{number:05d}.wav" for number in range(100)]
    with refused(TaskError, "missing", root, value=missing):
        read(root)


def test_a_list_missing(write_gtzan):
    root = write_lists(write_gtzan())
    (root / LISTS["valid"]).unlink()
    with refused(TaskError, "missing", root, value=[LISTS["valid"]]):
        read(root)


@pytest.mark.parametrize("line", ["13", "blues/blues.29.wav", "folk/folk.00001.wav"])
def test_a_list_of_other_names(write_gtzan, line):
    root = write_lists(write_gtzan())
    (root / LISTS["test"]).write_text(line)
    with refused(TaskError, "malformed", root / LISTS["test"], value=line):
        read(root)


def test_a_clip_in_two_lists(write_gtzan):
    root = write_lists(write_gtzan())
    (root / LISTS["test"]).write_text("blues/blues.00000.wav\n")
    with refused(TaskError, "twice", root / LISTS["test"], value="blues.00000") as caught:
        read(root)
    assert LISTS["train"] in str(caught.value)


def test_a_clip_in_two_formats_counts_once(write_gtzan, genres):
    root = write_gtzan(changed=["rock"])
    shutil.copy(genres / "1.au", root / "genres/rock/rock.00007.au")
    task = read(root)
    assert len(task.clips) == 1_000
    detail = "genres/rock/rock.00007.wav is read"
    assert task.problems == (Problem("duplicate", "genres/rock/rock.00007.au", detail),)


def test_a_music_library_is_no_root(tmp_path):
    for genre in GENRES:
        write_sound(tmp_path / "genres" / genre / "some song.wav", 440.0, 0.02)
    assert not LAYOUT.is_root(tmp_path)
    assert not LAYOUT.is_root(tmp_path / "genres")
    assert not LAYOUT.is_root(tmp_path / "gone")
