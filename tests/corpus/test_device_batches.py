"""Batches reach the device whole and in order, and stay what they are while a step uses them."""

import ctypes
import multiprocessing
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from byola_rq.corpus.decoded_clips import measure_clips
from byola_rq.corpus.device_batches import RING, DeviceBatches
from byola_rq.corpus.loading import load_batches
from byola_rq.corpus.packed_clips import PackedClips
from byola_rq.corpus.segments import SegmentBatch, SegmentCorpus, find_clips
from byola_rq.errors import AudioError
from byola_rq.runtime.pinning import pinned
from tests.hand_packed import pack
from tests.refusal import refused

SEGMENT = 15200
BATCHES = 17  # each place of the ring is used several times
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(scope="module", params=["packed", "decoded"])
def corpus(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, sounds: Path
) -> SegmentCorpus:
    """int16 segments of packed clips, or float32 of clips that are decoded, two of them broken."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "packed":
        generator = np.random.default_rng(0)
        clips = [generator.integers(-32768, 32768, 20000).astype(np.int16) for _ in range(24)]
        opened = PackedClips.open([pack(folder / "corpus", clips, clips_per_shard=5)])
        return SegmentCorpus(opened, segment_samples=SEGMENT, seed=0)
    for number, sound in enumerate(sorted(sounds.glob("*.wav"))):
        soundfile.write(folder / f"{number:02d}.wav", *soundfile.read(sound))
    decoded = measure_clips(find_clips([folder])[0], 16000)
    for number in (3, 8):
        (folder / f"{number:02d}.wav").write_bytes(b"no sound")
    return SegmentCorpus(decoded, segment_samples=SEGMENT, seed=0)


def items_of(corpus: SegmentCorpus, size: int) -> list[np.ndarray]:
    clips = np.random.default_rng(1).integers(0, len(corpus.clips), (BATCHES, size))
    items = [np.stack((np.full(size, step), row), axis=1) for step, row in enumerate(clips)]
    items[-1] = items[-1][:3]  # a smaller batch at the end
    return items


def open_batches(
    corpus: SegmentCorpus, items: list[np.ndarray], num_workers: int, device: torch.device
) -> DeviceBatches:
    loaded = load_batches(
        corpus,
        items,
        batch_size=len(items[0]),
        num_workers=num_workers,
        num_valid=RING if device.type == "cuda" else 0,
        device=device,
    )
    return DeviceBatches(loaded, device)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("name", DEVICES)
def test_batches_arrive_whole_and_in_order(
    name: str, num_workers: int, corpus: SegmentCorpus
) -> None:
    device, items = torch.device(name), items_of(corpus, 8)
    found = []
    with closing(open_batches(corpus, items, num_workers, device)) as batches:
        for batch in batches:
            assert batch.waveform.device.type == batch.key.device.type == name
            if name == "cuda":
                assert batch.waveform.dtype is torch.float32
                # Steps that the device is behind with, while the process asks for more batches.
                torch.cuda._sleep(10_000_000)
            # The batch is read after that, as a step reads it.
            waveform, key, replacements = batch.to(device)
            found.append((waveform.clone(), key.clone(), replacements))
            batches.make_room()
    assert len(found) == len(items)
    for (waveform, key, replacements), each in zip(found, items, strict=True):
        expected = corpus.load(each).to(torch.device("cpu"))
        assert torch.equal(waveform.cpu(), expected.waveform)
        assert torch.equal(key.cpu(), expected.key)
        assert replacements == expected.replacements


@pytest.mark.parametrize("name", DEVICES)
def test_an_error_comes_when_it_is_its_batch_s_turn(name: str, corpus: SegmentCorpus) -> None:
    def loaded() -> Iterator[SegmentBatch]:
        for items in items_of(corpus, 8)[:5]:
            yield corpus.load(items)
        raise AudioError("x.wav: is no sound", code="damaged", path=Path("x.wav"))

    batches = DeviceBatches(loaded(), torch.device(name))
    num = 0
    with refused(AudioError, "damaged", Path("x.wav")):
        for _ in batches:
            num += 1
    assert num == 5
    batches.close()


@pytest.mark.parametrize("name", DEVICES)
def test_closed_in_the_middle_no_process_is_left(name: str, corpus: SegmentCorpus) -> None:
    before = set(multiprocessing.active_children())
    batches = open_batches(corpus, items_of(corpus, 8), 2, torch.device(name))
    next(batches)
    assert len(set(multiprocessing.active_children()) - before) == 2
    batches.close()
    assert set(multiprocessing.active_children()) <= before
    assert next(batches, None) is None or name == "cuda"  # what had arrived may still be given


@pytest.mark.gpu
def test_memory_is_pinned_where_it_lies() -> None:
    memory = multiprocessing.RawArray(ctypes.c_byte, 3 * 2**20)
    tensor = torch.from_numpy(np.ctypeslib.as_array(memory))
    with pinned(memory, torch.device("cuda")):
        assert tensor.is_pinned()
    assert not tensor.is_pinned()


@pytest.mark.gpu
def test_where_pinning_is_refused_batches_arrive_all_the_same(
    capsys: pytest.CaptureFixture[str],
) -> None:
    device = torch.device("cuda")
    memory = multiprocessing.RawArray(ctypes.c_byte, 2**20)
    with pinned(memory, device):
        with pinned(memory, device):  # refused: it is pinned already
            assert torch.ones(2, device=device).sum().item() == 2  # the error is not that of others
        assert torch.from_numpy(np.ctypeslib.as_array(memory)).is_pinned()  # as it was
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.gpu
def test_nothing_is_allocated_for_a_batch(corpus: SegmentCorpus) -> None:
    device = torch.device("cuda")
    with closing(open_batches(corpus, items_of(corpus, 8), 0, device)) as batches:
        for number, _ in enumerate(batches):
            if number == 1:
                before = torch.cuda.memory_stats(device)["allocation.all.allocated"]
    assert torch.cuda.memory_stats(device)["allocation.all.allocated"] == before
