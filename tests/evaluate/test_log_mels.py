import numpy as np
import pytest
import torch

from byola_rq.audio import read_audio
from byola_rq.errors import AudioError
from byola_rq.frontend import LogMelSpectrogram
from evaluate.labelled_csv import read_labelled_csv
from evaluate.log_mels import LogMels
from evaluate.tasks import TaskError


@pytest.fixture
def task(tmp_path, write_set, split_rows):
    return read_labelled_csv(write_set(tmp_path / "a.csv", split_rows), unit_seconds=0.25)


def make(task, **options):
    return LogMels(task, LogMelSpectrogram(), device="cpu", num_workers=2, **options)


def all_of(log_mels, batch_size=7):
    return torch.cat(list(log_mels.batches(range(len(log_mels.task.clips)), batch_size)))


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
    positions = [5, 2, 29, 2]
    for log_mels in (kept, streamed):
        batches = list(log_mels.batches(positions, batch_size=3))
        assert [len(batch) for batch in batches] == [3, 1]
        torch.testing.assert_close(torch.cat(batches), all_of(kept)[positions], atol=1e-4, rtol=0)


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
    make(task, on_progress=counts.append)
    assert sum(counts) == 30


def test_clip_that_breaks_after_its_header(task):
    path = task.clips[4].path
    path.write_bytes(b"RIFF")
    with pytest.raises(AudioError, match=path.name):
        make(task)


def test_silent_training_clips(task):
    import soundfile

    for clip in task.clips:
        soundfile.write(clip.path, np.zeros(4800), 16_000)
    with pytest.raises(TaskError, match=r"a\.csv: training clips: .*constant"):
        make(task).measure_statistics([0, 1], batch_size=2)
