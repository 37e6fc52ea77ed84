import csv
import io
import os
import shutil
import tarfile
from pathlib import Path

import pytest
import soundfile

from evaluate.inspection import (
    Recording,
    check_file,
    describe_groups,
    find_shared_files,
    inspect,
    inspect_task,
)
from evaluate.publishers.layouts import LAYOUTS
from evaluate.tasks.task import Clip, Problem, Task, TaskError
from tests.evaluate.published import (
    NOTES,
    write_nsynth,
    write_speech_commands,
    write_test_archive,
    write_tone,
    write_urbansound,
    write_voxceleb,
)
from tests.refusal import refused


@pytest.fixture
def look(tmp_path):
    """Inspect `tmp_path`, and give the verdict with the rows of the csv."""

    def run(*csv_tasks, data_root=tmp_path, with_digests=False):
        out = tmp_path / "problems.csv"
        is_sound = inspect(
            data_root, csv_tasks, seed=0, num_workers=2, with_digests=with_digests, out=out
        )
        with out.open(encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file)
        assert header == ["task", "kind", "name", "detail"]
        return is_sound, rows

    return run


def cut(path):
    path.write_bytes(path.read_bytes()[:-200])


def test_sound_sets(tmp_path, look, capsys):
    write_nsynth(tmp_path)
    write_urbansound(tmp_path / "UrbanSound8K")
    write_voxceleb(tmp_path / "vox1")
    write_speech_commands(tmp_path / "commands")
    write_test_archive(tmp_path / "commands_test")
    assert look(with_digests=True) == (True, [])
    text = capsys.readouterr().out
    assert f"nsynth in {tmp_path}\n  train 12, valid 4, test 4\n" in text
    assert f"us8k in {tmp_path / 'UrbanSound8K'}\n  fold 1 4, fold 2 4" in text
    assert "fold 9 4, fold 10 4\n" in text
    assert "checked: no recording in two parts, checked over 20\n" in text
    assert "checked: instruments in two parts, of 10: test and valid 2\n" in text
    assert "checked: no speaker in two parts, checked over 4\n" in text  # of the 35 words
    assert "checked: no listed clip is missing\n" in text
    assert "checked: no clip twice\n" in text
    assert "checked: all 20 files open, none is cut short\n" in text
    assert text.count("checked: no two parts share a file, proved by SHA-256\n") == 5
    assert "note: valid and test share 2 instruments, train none\n" in text
    assert "warning: clips differ from the published set: train 12 (published 289,205)" in text
    assert "\x1b" not in text  # plain where stdout is no terminal


def test_sets_that_are_not_there_are_reported(tmp_path, look, capsys):
    write_urbansound(tmp_path)
    look()
    text = capsys.readouterr().out
    lines = [line for line in text.splitlines() if ": not found (" in line]
    absent = [x for x in LAYOUTS if x.name not in ("us8k", "spcv2_12_lists")]
    assert lines == [
        f"{layout.name}: not found ({layout.title}: a folder with {layout.holds})"
        for layout in absent
    ]


def test_nothing_there_is_not_sound(look):
    assert look() == (False, [])


def test_files_that_cannot_be_used_are_reported(tmp_path, look, capsys):
    audio = write_nsynth(tmp_path) / "nsynth-train/audio"
    names = sorted(name for name, _, _ in NOTES["train"])
    cut(audio / f"{names[0]}.wav")
    (audio / f"{names[1]}.wav").write_bytes(b"")
    (audio / f"{names[2]}.wav").write_text("no audio at all")
    is_sound, rows = look()
    assert not is_sound
    assert [row[:3] for row in rows] == [
        ["nsynth", "unreadable", f"nsynth-train/audio/{name}.wav"] for name in names[:3]
    ]
    assert rows[0][3].startswith("cut ")
    assert "0 bytes" in rows[1][3]
    assert "audio file" in rows[2][3]
    assert not any(row[2] in row[3] for row in rows)  # the name stands beside what is wrong
    text = capsys.readouterr().out
    assert "  unreadable: 3\n" in text
    assert "none is cut short" not in text


def test_first_ten_are_shown_and_all_written(tmp_path, look, capsys):
    audio = write_nsynth(tmp_path) / "nsynth-train/audio"
    for path in audio.iterdir():
        cut(path)
    _, rows = look()
    assert len(rows) == 12
    text = capsys.readouterr().out
    assert text.count(": cut short") == 10
    assert "and 2 more (--out FILE lists all)" in text


def test_missing_and_doubled_and_shared(tmp_path, look, capsys):
    notes = NOTES | {
        "train": [*NOTES["train"]]
        + [(f"bass_synthetic_{n}-060-100", "bass", f"bass_{n}") for n in range(100, 200)],
        "test": [*NOTES["test"], ("bass_acoustic_000-070-025", "bass", "bass_000")],
    }
    write_nsynth(tmp_path, notes)
    (tmp_path / "nsynth-train/audio/bass_synthetic_150-060-100.wav").unlink()
    is_sound, rows = look()
    assert not is_sound
    name = "nsynth-train/audio/bass_synthetic_150-060-100.wav"
    assert rows == [
        ["nsynth", "overlap", "bass_000", "in train and valid or test"],
        ["nsynth", "missing", name, "listed, not on disk"],
    ]
    text = capsys.readouterr().out
    assert "checked: no listed clip is missing" not in text
    assert "instruments in two parts, of 109: test and train 1, test and valid 2" in text


def test_file_that_no_list_names_does_no_harm(tmp_path, look):
    write_urbansound(tmp_path)
    write_tone(tmp_path / "audio/fold1/extra.wav")
    is_sound, rows = look()
    assert is_sound
    assert [row[1] for row in rows] == ["unlisted"]


def test_same_bytes_in_two_parts(tmp_path, look):
    root = write_urbansound(tmp_path)
    shutil.copy(root / "audio/fold1/100-0-0-0.wav", root / "audio/fold7/701-1-0-1.wav")
    shutil.copy(root / "audio/fold2/200-0-0-0.wav", root / "audio/fold2/200-0-0-1.wav")
    assert look() == (True, [])
    is_sound, rows = look(with_digests=True)
    assert not is_sound
    detail = "in 7, the same bytes as audio/fold1/100-0-0-0.wav in 1"
    assert rows == [["us8k", "overlap", "audio/fold7/701-1-0-1.wav", detail]]


def test_windows_share_their_file(tmp_path):
    write_tone(tmp_path / "noise.wav", 2.0)
    clips = [
        Clip(tmp_path / "noise.wav", f"noise.wav@{start}", "a", part, start_seconds=start)
        for part, start in (("train", 0.0), ("valid", 0.5))
    ]
    recording = check_file(clips, with_digest=True)
    assert (recording.name, recording.seconds, len(recording.digest)) == ("noise.wav", 2.0, 64)
    assert find_shared_files([recording]) == []


def test_broken_set_does_not_hide_the_others(tmp_path, look, capsys):
    write_urbansound(tmp_path / "a")
    write_urbansound(tmp_path / "b")
    write_voxceleb(tmp_path / "vox1")
    is_sound, rows = look()
    assert not is_sound
    ((task, kind, _, detail),) = rows
    assert (task, kind) == ("us8k", "error")
    assert f"{tmp_path / 'a'}, {tmp_path / 'b'}" in detail
    assert "all 18 files open" in capsys.readouterr().out


def test_labelled_csv(tmp_path, look, write_set, split_rows, capsys):
    birds = write_set(tmp_path / "birds.csv", split_rows)
    assert look(birds, data_root=None) == (True, [])
    assert "not found" not in capsys.readouterr().out
    lone = write_set(tmp_path / "lone.csv", [*split_rows, ("one.wav", "alone", "train")])
    cut(tmp_path / split_rows[0][0])
    is_sound, rows = look(birds, lone, data_root=None)
    assert not is_sound
    assert [row[:2] for row in rows] == [["birds", "unreadable"], ["lone", "error"]]
    assert "'alone' has 1" in rows[1][3]


def test_clips_in_an_archive(tmp_path):
    sounds = {}
    for number in range(3):
        write_tone(tmp_path / f"{number}.wav", 0.25)
        sounds[f"ralf-1/wav/{number}.wav"] = (tmp_path / f"{number}.wav").read_bytes()
    sounds["ralf-1/wav/1.wav"] = sounds["ralf-1/wav/1.wav"][:-300]
    sounds["ralf-1/wav/2.wav"] = sounds["ralf-1/wav/0.wav"]
    archive = tmp_path / "ralf-1.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        for name, data in sounds.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    names = [*sounds, "ralf-1/wav/3.wav"]
    clips = tuple(
        Clip(archive, name, "ab"[n % 2], ("train", "test")[n // 2], member=name)
        for n, name in enumerate(names)
    )
    task = Task("voices", tmp_path, clips, False, 1.0)
    finding = inspect_task(task, num_workers=2, with_digests=True)
    assert {(p.kind, p.name) for p in finding.problems} == {
        ("unreadable", names[1]),
        ("unreadable", names[3]),
        ("overlap", names[2]),
    }
    details = {p.name: p.detail for p in finding.problems}
    assert details[names[1]].startswith("cut ")
    assert repr(names[3]) in details[names[3]]
    assert finding.hours * 3600 == pytest.approx(2 * 0.25)  # what is cut is not counted


def test_hours_are_those_of_the_files(tmp_path):
    soundfile.write(tmp_path / "a.wav", [[0.0, 0.1]] * 44_100, 44_100)
    soundfile.write(tmp_path / "b.wav", [0.1] * 4_000, 8_000)
    clips = tuple(Clip(tmp_path / f"{x}.wav", f"{x}.wav", x, "train") for x in "ab")
    task = Task("two", tmp_path, clips, False, 1.0)
    finding = inspect_task(task, num_workers=1, with_digests=False)
    assert finding.hours * 3600 == pytest.approx(1.5)


def test_names_that_are_no_text(tmp_path, look, capsys):
    write_urbansound(tmp_path)
    name = os.fsdecode(b"b\xfcrste.wav")
    (tmp_path / "audio/fold1" / name).write_bytes(b"")
    is_sound, rows = look()
    assert is_sound
    assert "b\\xfcrste.wav" in rows[0][3]
    assert "b\\xfcrste.wav" in capsys.readouterr().out


def test_csv_that_cannot_be_written(tmp_path):
    write_urbansound(tmp_path)
    out = tmp_path / "no/where.csv"
    with refused(TaskError, "unwritable", out):
        inspect(tmp_path, (), seed=0, num_workers=1, with_digests=False, out=out)


@pytest.mark.parametrize(
    ("groups", "sentence"),
    [
        ("", ""),
        ("a:train a:train b:test", "no speaker in two parts, checked over 2"),
        (
            "a:train a:test a:valid b:train b:test c:test",
            "speakers in two parts, of 3: test and train 2, test and valid 1, train and valid 1",
        ),
    ],
)
def test_groups_are_counted(tmp_path, groups, sentence):
    clips = tuple(
        Clip(tmp_path, text, "x", text.split(":")[1], group=text.split(":")[0])
        for text in groups.split()
    )
    assert describe_groups(Task("t", tmp_path, clips, False, 1.0), "speaker") == sentence


def test_first_of_a_digest_is_named_once():
    recordings = [
        Recording(name, (Clip(Path(name), name, "x", part),), digest=digest)
        for name, part, digest in (
            ("a", "train", "1"),
            ("b", "train", "1"),
            ("c", "test", "1"),
            ("d", "test", "2"),
            ("e", "test", ""),
            ("f", "train", ""),
        )
    ]
    assert find_shared_files(recordings) == [
        Problem("overlap", "c", "in test, the same bytes as a in train")
    ]
