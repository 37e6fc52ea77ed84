import csv
import hashlib
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import soundfile

from byola_rq.synthesis import KINDS, TASKS, make_clip, write_corpus, write_tasks

SAMPLES_OF_KINDS = (
    "voice-ru", "word-yes", "note-brass", "phrase-guitar", "event-siren", "background-babble",
    "mixture-voice", "mixture-music", "mixture-street",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_sounds_and_is_clean(kind):
    waveform = make_clip(kind, seed=11, seconds=0.8)
    assert waveform.dtype == np.float32
    assert waveform.shape == (12800,)
    assert np.isfinite(waveform).all()
    assert np.abs(waveform).max() <= 0.951
    assert waveform.std() > 1e-3
    assert np.abs(waveform[[0, -1]]).max() < 1e-6
    step = np.abs(np.diff(waveform[:32])).max()
    assert step < 0.1 * np.abs(waveform).max()  # nothing clicks at the start
    assert abs(waveform.mean()) < 0.02 * waveform.std() + 1e-4


@pytest.mark.parametrize("kind", SAMPLES_OF_KINDS)
@pytest.mark.parametrize("seconds", [0.1, 0.33333, 2.0])
def test_clips_are_exactly_as_long_as_asked(kind, seconds):
    assert make_clip(kind, seed=1, seconds=seconds).shape == (round(seconds * 16000),)


@pytest.mark.parametrize("kind", SAMPLES_OF_KINDS)
def test_a_seed_decides(kind):
    first, again, other = (make_clip(kind, seed=seed, seconds=1.0) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert abs(np.corrcoef(first, other)[0, 1]) < 0.5


def test_another_process_makes_the_same_bits():
    program = (
        "import hashlib; from byola_rq.synthesis import make_clip\n"
        f"for kind in {SAMPLES_OF_KINDS!r}:\n"
        "    clip = make_clip(kind, seed=5, seconds=0.7)\n"
        "    print(hashlib.sha256(clip.tobytes()).hexdigest())"
    )
    root = Path(__file__).parent.parent
    command = [sys.executable, "-c", program]
    out = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    here = [make_clip(kind, seed=5, seconds=0.7).tobytes() for kind in SAMPLES_OF_KINDS]
    assert out.split() == [hashlib.sha256(clip).hexdigest() for clip in here]


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match=r"kind must be one of .*; got 'voice-tlh'"):
        make_clip("voice-tlh", seed=0, seconds=1.0)
    with pytest.raises(ValueError, match=r"seconds must be positive; got -1"):
        make_clip("voice-de", seed=0, seconds=-1.0)


def test_a_corpus_is_a_folder_of_mixed_clips(tmp_path):
    counts = []
    paths = write_corpus(
        tmp_path / "a", num_clips=25, seed=3, seconds=(0.4, 0.9), on_clip=counts.append
    )
    assert counts == list(range(1, 26))
    assert sorted((tmp_path / "a").iterdir()) == sorted(paths)
    assert len({path.stem.split("_")[1].split("-")[0] for path in paths}) >= 4
    assert all(path.stem.split("_", 1)[1] in KINDS for path in paths)
    lengths = set()
    for path in paths:
        info = soundfile.info(path)
        assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16")
        assert 0.4 <= info.duration <= 0.9
        lengths.add(info.frames)
    assert len(lengths) > 15
    shorter = write_corpus(tmp_path / "b", num_clips=4, seed=3, seconds=(0.4, 0.9))
    assert [p.name for p in shorter] == [p.name for p in paths[:4]]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(shorter, paths, strict=False))


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    return {path.parent.name: path for path in write_tasks(folder, seed=1, clips_per_class=4)}


def read_rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def by_part(path, group_of):
    """Which groups of clips each split or fold holds."""
    groups = defaultdict(set)
    for row in read_rows(path):
        groups[row.get("split") or row["fold"]].add(group_of(Path(row["file_name"]).stem))
    return groups


def are_disjoint(groups):
    return sum(map(len, groups.values())) == len(set().union(*groups.values()))


def test_tasks_are_csv_files_beside_their_clips(tasks):
    assert list(tasks) == list(TASKS)
    for task, path in tasks.items():
        rows = read_rows(path)
        part = "fold" if task == "events" else "split"
        assert list(rows[0]) == ["file_name", "label", part]
        assert len({row["file_name"] for row in rows}) == len(rows)
        parts = {"1", "2", "3"} if task == "events" else {"train", "valid", "test"}
        labels = {row["label"] for row in rows}
        assert len(labels) == 8
        assert {(row["label"], row[part]) for row in rows} == {
            (x, y) for x in labels for y in parts
        }
        files = {path.parent / row["file_name"] for row in rows}
        assert files == set((path.parent / "clips").iterdir())
        assert {soundfile.info(file).samplerate for file in files} == {16000}


def test_nobody_speaks_in_two_splits_of_the_words(tasks):
    groups = by_part(tasks["words"], lambda name: name.split("_speaker")[1])
    assert are_disjoint(groups)
    assert len(groups["train"]) == 4


def test_no_instrument_plays_in_two_splits_of_the_families(tasks):
    assert are_disjoint(by_part(tasks["families"], lambda name: name.rsplit("_", 1)[0]))


def test_speakers_say_other_sentences_in_test_than_in_train(tasks):
    assert are_disjoint(by_part(tasks["speakers"], lambda name: name.split("_sentence")[1]))


def test_slices_of_one_recording_are_in_one_fold(tasks):
    groups = by_part(tasks["events"], lambda name: name.split("_slice")[0])
    assert are_disjoint(groups)
    rows = read_rows(tasks["events"])
    assert len(rows) > sum(map(len, groups.values()))  # some recordings do have two slices


def test_tasks_are_a_function_of_their_seed(tasks):
    again, other = (list(TASKS["words"](seed, 1)) for seed in (1, 2))
    clips = tasks["words"].parent / "clips"
    for example in again[:3]:
        written, _rate = soundfile.read(clips / f"{example.name}.wav", dtype="float32")
        np.testing.assert_allclose(written, example.waveform, atol=2 / 32768)
    assert not {example.name for example in again} & {example.name for example in other}
