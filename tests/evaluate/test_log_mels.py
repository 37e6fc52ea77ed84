import dataclasses
import tarfile

import numpy as np
import pytest
import soundfile
import torch

from byola_rq.audio.frontend import LogMelSpectrogram
from byola_rq.audio.io import read_audio
from byola_rq.errors import AudioError
from evaluate.log_mels import LogMels
from evaluate.tasks.labelled_csv import read_labelled_csv
from evaluate.tasks.task import TaskError
from tests.refusal import refused


@pytest.fixture
def task(tmp_path, write_set, split_rows):
    return read_labelled_csv(write_set(tmp_path / "a.csv", split_rows), unit_seconds=0.25)


def make(task, **options):
    return LogMels(task, LogMelSpectrogram(), device="cpu", num_workers=2, **options)


def all_of(log_mels, batch_size=7):
    batches = list(log_mels.batches(range(len(log_mels.task.clips)), batch_size))
    positions = [position for readable, _ in batches for position in readable]
    assert positions == list(range(len(log_mels.task.clips)))
    return torch.cat([log_mel for _, log_mel in batches])


@pytest.mark.parametrize("unit_seconds", [0.25, 0.4])  # the clips have 0.3 s: cropped, padded
def test_clips_are_cropped_from_the_start_and_padded_on_the_right(tmp_path, task, unit_seconds):
    task = read_labelled_csv(task.source, unit_seconds)
    got = all_of(make(task))
    assert got.shape == (30, 1, 64, 1 + round(unit_seconds * 16_000) // 160)
    for clip, log_mel in zip(task.clips, got, strict=True):
        waveform = torch.zeros(round(unit_seconds * 16_000))
        sound = read_audio(clip.path, 16_000)[: len(waveform)]
        waveform[: len(sound)] = sound
        torch.testing.assert_close(log_mel[0], LogMelSpectrogram()(waveform), atol=1e-4, rtol=0)


def test_decoding_anew_gives_what_was_kept(task):
    kept, streamed = make(task), make(task, max_bytes_kept=0)
    assert (kept.is_kept, streamed.is_kept) == (True, False)
    torch.testing.assert_close(all_of(kept), all_of(streamed), atol=1e-4, rtol=0)
    positions = [5, 2, 29, 3]
    for log_mels in (kept, streamed):
        readable, batches = zip(*log_mels.batches(positions, batch_size=3), strict=True)
        assert readable == ([5, 2, 29], [3])
        torch.testing.assert_close(torch.cat(batches), all_of(kept)[positions], atol=1e-4, rtol=0)


def test_kept_clips_are_decoded_once(task):
    log_mels = make(task)
    first = all_of(log_mels)
    for clip in task.clips:
        clip.path.unlink()
    torch.testing.assert_close(all_of(log_mels, batch_size=4), first, atol=0, rtol=0)


def test_bound_on_what_is_kept(task):
    num_bytes = all_of(make(task)).nbytes
    assert make(task, max_bytes_kept=num_bytes).is_kept
    assert not make(task, max_bytes_kept=num_bytes - 1).is_kept


def test_statistics_are_of_the_clips_asked_for(task):
    log_mels = make(task)
    statistics = log_mels.measure_statistics([3, 4], batch_size=1)
    values = all_of(log_mels)[[3, 4]].double()
    assert statistics.mean == pytest.approx(values.mean().item(), abs=1e-6)
    assert statistics.std == pytest.approx(values.std(correction=0).item(), abs=1e-6)


def test_progress_counts_every_clip(task):
    counts = []
    make(task).measure_statistics(range(30), 7, counts.append)
    assert counts == [7, 7, 7, 7, 2]


def spoil_header(path):
    path.write_bytes(b"RIFF")


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-500])


@pytest.mark.parametrize(("spoil", "code"), [(spoil_header, "damaged"), (cut_short, "cut")])
def test_clip_that_cannot_be_used_stops_a_task_that_must_be_whole(task, spoil, code):
    path = task.clips[4].path
    spoil(path)
    with refused(AudioError, code, path):
        all_of(make(task))


@pytest.mark.parametrize("max_bytes_kept", [0, 10**9])
def test_clip_that_cannot_be_used_is_left_out_and_reported(task, max_bytes_kept):
    task = dataclasses.replace(task, max_skipped=0.1)
    spoil_header(task.clips[4].path)
    cut_short(task.clips[8].path)
    log_mels = make(task, max_bytes_kept=max_bytes_kept)
    for _ in range(2):
        readable = [p for each, _ in log_mels.batches(range(30), 4) for p in each]
        assert readable == [p for p in range(30) if p not in (4, 8)]
        assert log_mels.unreadable == {4: "damaged", 8: "cut"}


def test_more_than_a_task_may_lack(task):
    task = dataclasses.replace(task, max_skipped=0.1, num_missing=2)  # of 32: 3 may be skipped
    for position in (4, 8):
        spoil_header(task.clips[position].path)
    with refused(TaskError, "too-many", task.source, value=4) as caught:
        list(make(task).batches(range(30), 4))
    assert str(task.clips[8].path) in str(caught.value)  # the last


def test_windows_and_members_are_read_where_they_are(tmp_path, task):
    """A window of a file, a packed clip and the clip itself give the same log-mel."""
    clip = task.clips[3]
    samples, rate = soundfile.read(clip.path, dtype="int16")
    long = np.concatenate([np.zeros(8000, dtype=np.int16), samples])
    soundfile.write(tmp_path / "long.wav", long, rate)
    with tarfile.open(tmp_path / "speaker.tgz", "w:gz") as archive:
        archive.add(clip.path, "speaker/wav/a.wav")
    clips = (
        clip,
        dataclasses.replace(clip, path=tmp_path / "long.wav", start_seconds=0.5),
        dataclasses.replace(clip, path=tmp_path / "speaker.tgz", member="speaker/wav/a.wav"),
    )
    first, second, third = all_of(make(dataclasses.replace(task, clips=clips)))
    torch.testing.assert_close(second, first, atol=0, rtol=0)
    torch.testing.assert_close(third, first, atol=0, rtol=0)


def test_silent_training_clips(task):
    for clip in task.clips:
        soundfile.write(clip.path, np.zeros(4800), 16_000)
    with refused(TaskError, "value", task.source):
        make(task).measure_statistics([0, 1], batch_size=2)
