"""The corpus: what is found, in which order, and which samples a key gives."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from byola_rq import AudioError
from byola_rq.audio import read_audio
from byola_rq.corpus import (
    Clips,
    SegmentBatch,
    SegmentCorpus,
    StepSampler,
    find_clips,
    load_batches,
    measure_clips,
)
from byola_rq.errors import CorpusError

SEGMENT = 15200


def corpus_of(folder: Path, seed: int = 0) -> SegmentCorpus:
    clips = measure_clips(find_clips([folder]), 16000)
    return SegmentCorpus(clips, segment_samples=SEGMENT, seed=seed)


def test_folders_are_searched_in_depth_and_in_order(tmp_path: Path, sounds: Path) -> None:
    source = sorted(sounds.glob("*.wav"))[0].read_bytes()
    for name in ("b/2.wav", "a/x/1.WAV", "b/1.wav", ".hidden.wav", "notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source)
    found = [str(path.relative_to(tmp_path)) for path in find_clips([tmp_path])]
    assert found == ["a/x/1.WAV", "b/1.wav", "b/2.wav"]
    # A clip named twice is kept once.
    assert len(find_clips([tmp_path, tmp_path / "b", tmp_path / "b" / "1.wav"])) == 3


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("m.csv", "path,label\nb.wav,x\na.wav,y\n"),
        ("m.csv", 'label,file_name\n"x, y",b.wav\ny,a.wav\n'),
        ("m.tsv", "path\tlabel\nb.wav\tx\na.wav\ty\n"),
    ],
)
def test_manifests_keep_their_order(tmp_path: Path, name: str, text: str) -> None:
    for clip in ("a.wav", "b.wav"):
        soundfile.write(tmp_path / clip, np.zeros(100), 16000)
    (tmp_path / name).write_text(text)
    assert [path.name for path in find_clips([tmp_path / name])] == ["b.wav", "a.wav"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("m.csv", "path\na.wav\ngone.wav\n", "m.csv: row 3: no such file: 'gone.wav'"),
        ("m.csv", "name\na.wav\n", "must have a column path; its columns are name"),
        ("m.csv", "path\n", "no clip listed"),
        ("m.csv", "", "no clip listed"),
        ("m.txt", "path\n", "must be a folder, a .csv or .tsv manifest, or an audio file"),
    ],
)
def test_bad_manifests_are_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(100), 16000)
    (tmp_path / name).write_text(text)
    with pytest.raises(CorpusError, match=message):
        find_clips([tmp_path / name])


def test_nothing_to_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no such file or folder"):
        find_clips([tmp_path / "gone"])
    with pytest.raises(CorpusError, match="no audio file in this folder"):
        find_clips([tmp_path])
    with pytest.raises(CorpusError, match=r"data\.source must name"):
        find_clips([])


def test_unreadable_clips_are_named_and_counted(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(100), 16000)
    for name in ("b.wav", "c.wav", "d.wav"):
        (tmp_path / name).write_text("no sound")
    with pytest.raises(AudioError, match=r"b\.wav: not an audio file .*and 2 more clips"):
        measure_clips(find_clips([tmp_path]), 16000)


def test_digest_tells_corpora_apart() -> None:
    first = Clips([Path("/x/a.wav"), Path("/x/b.wav")], [5, 6], 16000)
    moved = Clips([Path("/y/a.wav"), Path("/y/b.wav")], [5, 6], 16000)
    longer = Clips([Path("/x/a.wav"), Path("/x/b.wav")], [5, 7], 16000)
    assert first.digest == moved.digest != longer.digest


def test_segments_are_stretches_of_their_clips(sounds: Path) -> None:
    corpus = corpus_of(sounds)
    items = [(epoch, index) for epoch in range(3) for index in range(len(corpus.clips))]
    batch = corpus.load(items)
    assert batch.waveform.shape == (len(items), SEGMENT)
    starts = set()
    for (_, index), segment in zip(items, batch.waveform, strict=True):
        whole = read_audio(corpus.clips.paths[index], 16000)
        places = [
            start
            for start in range(len(whole) - SEGMENT + 1)
            if whole[start] == segment[0] and torch.equal(whole[start : start + SEGMENT], segment)
        ]
        assert places, corpus.clips.paths[index]
        starts.add(places[0])
    assert len(starts) > len(items) / 2
    # Of the same clip, another place in another epoch.
    assert not torch.equal(batch.waveform[0], batch.waveform[len(corpus.clips)])


def test_a_segment_depends_on_seed_epoch_and_clip_alone(sounds: Path) -> None:
    corpus = corpus_of(sounds)
    whole = corpus.load([(0, 3), (1, 5), (0, 7)])
    alone = corpus.load([(1, 5)])
    assert torch.equal(whole.waveform[1], alone.waveform[0])
    assert whole.key[1] == alone.key[0]
    assert corpus_of(sounds, seed=1).load([(1, 5)]).key != alone.key


def test_short_clips_are_padded_at_both_ends(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.full(1600, 0.5), 16000)
    segment = corpus_of(tmp_path).load([(0, 0)]).waveform[0]
    assert (segment[6800:8400] == 0.5).all()
    assert segment[:6800].abs().sum() == segment[8400:].abs().sum() == 0


def test_resampled_clips_fill_their_segments(tmp_path: Path) -> None:
    rate = 44100
    t = np.arange(2 * rate) / rate
    soundfile.write(tmp_path / "a.wav", 0.5 * np.sin(2 * np.pi * 440 * t), rate)
    segment = corpus_of(tmp_path).load([(0, 0)]).waveform[0]
    assert len(segment) == SEGMENT
    spectrum = torch.fft.rfft(segment * torch.hann_window(SEGMENT)).abs()
    assert spectrum.argmax() * 16000 / SEGMENT == pytest.approx(440, abs=16000 / SEGMENT)


def test_steps_take_the_epochs_permutations_one_after_the_other() -> None:
    sampler = StepSampler(10, 4, seed=0, first_step=0, num_steps=5)
    samples = [item for step in sampler for item in step]
    assert len(samples) == 20
    for epoch in (0, 1):
        clips = [clip for e, clip in samples if e == epoch]
        assert sorted(clips) == list(range(10))
    resumed = list(StepSampler(10, 4, seed=0, first_step=3, num_steps=5))
    assert resumed == list(sampler)[3:]
    assert len(sampler) == 5
    other = [
        item for step in StepSampler(10, 4, seed=1, first_step=0, num_steps=5) for item in step
    ]
    assert samples != other


def test_a_batch_may_be_larger_than_the_corpus() -> None:
    (step,) = StepSampler(3, 8, seed=0, first_step=0, num_steps=1)
    assert sorted(step) == sorted(set(step))
    assert [epoch for epoch, _ in step] == [0, 0, 0, 1, 1, 1, 2, 2]


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_workers_change_nothing(sounds: Path, num_workers: int) -> None:
    corpus = corpus_of(sounds)
    sampler = StepSampler(len(corpus.clips), 8, seed=0, first_step=0, num_steps=4)
    for step, batch in zip(
        sampler, load_batches(corpus, sampler, num_workers=num_workers), strict=True
    ):
        assert isinstance(batch, SegmentBatch)
        expected = corpus.load(step)
        assert torch.equal(batch.waveform, expected.waveform)
        assert torch.equal(batch.key, expected.key)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_bad_clip_in_a_loader_is_one_line(tmp_path: Path, num_workers: int) -> None:
    soundfile.write(tmp_path / "a.wav", np.full(20000, np.nan), 16000, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"^\S*a\.wav: samples must be finite") as caught:
        list(load_batches(corpus_of(tmp_path), [[(0, 0)]], num_workers=num_workers))
    assert "\n" not in str(caught.value)
