"""Batches that processes read ahead are those that one process would read."""

import contextlib
import multiprocessing
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from byola_rq import AudioError
from byola_rq.corpus import loading
from byola_rq.corpus.decoded_clips import measure_clips
from byola_rq.corpus.loading import default_num_workers, load_batches
from byola_rq.corpus.order import ClipOrder, StepSampler
from byola_rq.corpus.segments import SegmentBatch, SegmentCorpus, find_clips, open_packed_clips
from tests.hand_packed import pack
from tests.refusal import refused

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
    """Start with spawn, where nothing is inherited."""
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
def test_samples_are_awaited_with_signals_and_closed(
    packed: SegmentCorpus, num_workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the first samples whole files may be read: a stop does not wait for them."""
    is_blocked = is_closed = False

    @contextlib.contextmanager
    def blocked() -> Iterator[None]:
        nonlocal is_blocked
        is_blocked = True
        yield
        is_blocked = False

    def samples() -> Iterator[np.ndarray]:
        nonlocal is_closed
        try:
            for step in range(20):
                assert not is_blocked
                yield np.array([[step, 3]])
        finally:
            is_closed = True

    monkeypatch.setattr(loading, "signals_blocked", blocked)
    wanted = samples()
    batches = load_batches(packed, wanted, batch_size=1, num_workers=num_workers)
    next(batches)
    assert not is_closed
    batches.close()
    assert is_closed


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_bad_clip_is_one_line(tmp_path: Path, num_workers: int) -> None:
    soundfile.write(tmp_path / "a.wav", np.full(20000, np.nan), 16000, subtype="FLOAT")
    batches = load_batches(
        decoded(tmp_path), [np.array([[0, 0]])], batch_size=1, num_workers=num_workers
    )
    with refused(AudioError, "not-finite", tmp_path / "a.wav"):
        list(batches)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory, sounds: Path) -> SegmentCorpus:
    """Clips of all forms, of which half are broken after the start: some of these at the end."""
    folder = tmp_path_factory.mktemp("damaged")
    paths = []
    for number, sound in enumerate(sorted(sounds.glob("*.wav"))[:12]):
        paths.append(folder / f"{number:02d}.{('wav', 'flac', 'ogg', 'mp3')[number % 4]}")
        soundfile.write(paths[-1], np.resize(soundfile.read(sound)[0], 64000), 16000)
    corpus = decoded(folder)
    for path in paths[5:8]:
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])
    paths[3].write_bytes(b"no sound")
    paths[4].unlink()
    paths[11].write_bytes(b"")
    return corpus


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_what_takes_the_place_of_broken_clips_is_the_same(
    num_workers: int, damaged: SegmentCorpus
) -> None:
    """Whatever the number of processes, and from whatever step a run goes on."""
    order = ClipOrder(len(damaged.clips), seed=0)
    samples = list(StepSampler(order, 6, first_step=0, num_steps=14))
    expected = [damaged.load(items) for items in samples]
    assert {each.clip_index for batch in expected for each in batch.replacements} > {3, 4, 5, 11}
    for first_step in (0, 9):
        rest = StepSampler(order, 6, first_step=first_step, num_steps=14)
        batches = list(load_batches(damaged, rest, batch_size=6, num_workers=num_workers))
        assert len(batches) == 14 - first_step
        for batch, other in zip(batches, expected[first_step:], strict=True):
            assert torch.equal(batch.waveform, other.waveform)
            assert torch.equal(batch.key, other.key)
            assert batch.replacements == other.replacements
            assert batch.to(torch.device("cpu")).replacements == other.replacements


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_the_newest_batches_are_held_and_their_memory_used_again(
    num_workers: int, packed: SegmentCorpus
) -> None:
    samples = list(StepSampler(ClipOrder(24, seed=0), 8, first_step=0, num_steps=20))
    samples.append(samples[0][:3])
    batches = load_batches(packed, samples, batch_size=8, num_workers=num_workers, num_valid=3)
    newest: deque[SegmentBatch] = deque(maxlen=3)
    places = set()
    for number, batch in enumerate(batches):
        newest.append(batch)
        places.add(batch.waveform.data_ptr())
        for items, each in zip(samples[: number + 1][-3:], newest, strict=True):
            expected = packed.load(items)
            assert torch.equal(each.waveform, expected.waveform)
            assert torch.equal(each.key, expected.key)
    assert number == 20
    assert len(places) == 3 + 2 * num_workers


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
    monkeypatch.setenv("WORLD_SIZE", "16")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")  # of 64 cores, 8 for each
    assert default_num_workers(cuda, is_decoding=True) == 7
