"""Segments of clips that lie on a device are those that are read, to the last bit."""

from pathlib import Path

import numpy as np
import pytest
import torch

from byola_rq.corpus.decoded_clips import measure_clips
from byola_rq.corpus.device_batches import DeviceBatches
from byola_rq.corpus.order import ClipOrder, StepSampler
from byola_rq.corpus.packed_clips import PackedClips
from byola_rq.corpus.resident_clips import ResidentClips, count_resident_bytes, place_clips
from byola_rq.corpus.segments import SegmentCorpus, find_clips
from byola_rq.errors import ConfigError, CorpusError
from tests.hand_packed import pack
from tests.refusal import refused

SEGMENT = 1520
CPU = torch.device("cpu")


def noise(num_samples: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-32768, 32768, num_samples).astype(np.int16)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two corpora, with clips shorter than a segment, as long as one, and longer."""
    place = tmp_path_factory.mktemp("packed")
    lengths = [1, 2, 700, 1519, 1520, 1521, 4000, 9999, 3, 1520, 5000]
    first = [noise(length, seed) for seed, length in enumerate(lengths)]
    second = [noise(length, 100 + length) for length in (2500, 8, 16000)]
    return [
        pack(place / "a", first, clips_per_shard=4),
        pack(place / "b", second, clips_per_shard=2),
    ]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize(("first_step", "part"), [(0, (0, 1)), (3, (0, 1)), (0, (1, 2))])
def test_segments_are_those_that_are_read(
    folders: list[Path], device: str, first_step: int, part: tuple[int, int]
) -> None:
    """Compare in every epoch, from its middle on, and for every rank."""
    corpus = SegmentCorpus(PackedClips.open(folders), segment_samples=SEGMENT, seed=3)
    assert isinstance(corpus.clips, PackedClips)
    resident = ResidentClips(corpus.clips, SEGMENT, torch.device(device))
    order = ClipOrder(len(corpus.clips), seed=3)
    sampler = StepSampler(order, 6, first_step=first_step, num_steps=14, part=part)
    loaded = resident.load_batches(corpus, sampler)
    batches = DeviceBatches(loaded, torch.device(device), resident=resident)
    num = 0
    for items, batch in zip(sampler, batches, strict=True):
        expected = corpus.load(items).to(CPU)
        found = batch.to(CPU)
        assert torch.equal(found.waveform, expected.waveform)
        assert torch.equal(found.key, expected.key)
        assert found.replacements == ()
        num += 1
    assert num == 14 - first_step


def test_the_memory_is_that_of_the_samples_and_of_short_clips_once_more(
    folders: list[Path],
) -> None:
    clips = PackedClips.open(folders)
    num_samples = int(clips.num_samples.sum()) + 6 * SEGMENT
    assert count_resident_bytes(clips, SEGMENT) == 2 * num_samples
    assert ResidentClips(clips, SEGMENT, CPU).num_bytes == 2 * num_samples


def test_a_shard_cut_since_it_was_opened_is_refused(tmp_path: Path) -> None:
    folder = pack(tmp_path / "corpus", [noise(3000, 0), noise(3000, 1)], clips_per_shard=1)
    clips = PackedClips.open([folder])
    shard = folder / "pcm-00001.npy"
    shard.write_bytes(shard.read_bytes()[:-1000])
    with refused(CorpusError, "unreadable", shard):
        ResidentClips(clips, SEGMENT, CPU)


def test_what_cannot_lie_there_is_refused_or_read(
    folders: list[Path], sounds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = PackedClips.open(folders)
    decoded = measure_clips(find_clips([sounds])[0], 16000)
    cuda = torch.device("cuda", 0)
    total = 10 * count_resident_bytes(packed, SEGMENT) - 1
    for clips, device, free, code in (
        (packed, CPU, total, "missing"),
        (decoded, cuda, total, "unsupported"),
        (packed, cuda, total // 10, "too-large"),
    ):
        monkeypatch.setattr("torch.cuda.mem_get_info", lambda _, free=free: (free, total))
        options = {"segment_samples": SEGMENT, "device": device, "source": folders[0]}
        with refused(ConfigError, code, folders[0], key="data.resident", value=True):
            place_clips(clips, resident=True, **options)
        for resident in ("auto", False):
            assert place_clips(clips, resident=resident, **options) is None
    # Unasked, they take a tenth at most, even where more is free.
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda _: (total, total))
    assert place_clips(packed, resident="auto", **options) is None


@pytest.mark.gpu
def test_few_clips_lie_there_unasked(folders: list[Path]) -> None:
    for resident in ("auto", True):
        placed = place_clips(
            PackedClips.open(folders),
            resident=resident,
            segment_samples=SEGMENT,
            device=torch.device("cuda"),
            source=folders[0],
        )
        assert placed is not None
