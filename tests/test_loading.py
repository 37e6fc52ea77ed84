"""Batches that processes read ahead are those that one process would read."""

import multiprocessing
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from byola_rq import AudioError
from byola_rq.corpus import SegmentCorpus, find_clips, open_packed_clips
from byola_rq.decoded_clips import measure_clips
from byola_rq.loading import default_num_workers, load_batches
from byola_rq.order import ClipOrder, StepSampler
from tests.hand_packed import pack

SEGMENT = 15200


def decoded(folder: Path) -> SegmentCorpus:
    clips = measure_clips(find_clips([folder])[0], 16000)
    return SegmentCorpus(clips, segment_samples=SEGMENT, seed=0)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> SegmentCorpus:
    generator = np.random.default_rng(0)
    clips = [
        generator.integers(-30000, 30000, 14000 + 300 * number).astype(np.int16)
        for number in range(24)
    ]
    folder = pack(tmp_path_factory.mktemp("packed") / "corpus", clips, clips_per_shard=5)
    opened = open_packed_clips([folder], 16000)
    assert opened is not None
    return SegmentCorpus(opened, segment_samples=SEGMENT, seed=0)


@pytest.mark.parametrize("num_workers", [0, 1, 2])
@pytest.mark.parametrize("form", ["packed", "decoded"])
def test_workers_change_nothing(
    form: str, num_workers: int, packed: SegmentCorpus, sounds: Path
) -> None:
    corpus = packed if form == "packed" else decoded(sounds)
    order = ClipOrder(len(corpus.clips), seed=0)
    # More steps than slots, so that every slot is filled again.
    samples = list(StepSampler(order, 8, first_step=0, num_steps=14))
    samples.append(samples[0][:3])  # a smaller batch at the end
    # Kept, all of them: a batch must not change when its slot is filled again.
    batches = list(load_batches(corpus, samples, batch_size=8, num_workers=num_workers))
    assert len(batches) == len(samples)
    for items, batch in zip(samples, batches, strict=True):
        expected = corpus.load(items)
        assert batch.waveform.dtype == expected.waveform.dtype
        assert torch.equal(batch.waveform, expected.waveform)
        assert torch.equal(batch.key, expected.key)


def test_a_started_process_is_sent_what_it_needs(packed: SegmentCorpus) -> None:
    """With spawn, nothing is inherited."""
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    try:
        samples = [np.array([[step, 3], [step, 4 + step]]) for step in range(6)]
        batches = load_batches(packed, samples, batch_size=2, num_workers=1)
        for items, batch in zip(samples, batches, strict=True):
            assert torch.equal(batch.waveform, packed.load(items).waveform)
    finally:
        multiprocessing.set_start_method(before, force=True)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_bad_clip_is_one_line(tmp_path: Path, num_workers: int) -> None:
    soundfile.write(tmp_path / "a.wav", np.full(20000, np.nan), 16000, subtype="FLOAT")
    batches = load_batches(
        decoded(tmp_path), [np.array([[0, 0]])], batch_size=1, num_workers=num_workers
    )
    with pytest.raises(AudioError, match=r"^\S*a\.wav: samples must be finite") as caught:
        list(batches)
    assert "\n" not in str(caught.value)


def test_no_more_is_read_ahead_than_there_are_slots(packed: SegmentCorpus) -> None:
    taken = 0

    def samples() -> Iterator[np.ndarray]:
        nonlocal taken
        for step in range(100):
            taken += 1
            yield np.array([[step, 0]])

    batches = load_batches(packed, samples(), batch_size=1, num_workers=2)
    for given in range(1, 20):
        next(batches)
        assert taken <= given + 4
    batches.close()


def test_decoding_takes_the_cores_slices_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    for cores, expected in ((1, (0, 0, 0, 0)), (2, (1, 1, 0, 1)), (64, (1, 16, 0, 2))):
        monkeypatch.setattr("os.sched_getaffinity", lambda _, cores=cores: set(range(cores)))
        found = (
            default_num_workers(cpu, is_decoding=True),
            default_num_workers(cuda, is_decoding=True),
            default_num_workers(cpu, is_decoding=False),
            default_num_workers(cuda, is_decoding=False),
        )
        assert found == expected
