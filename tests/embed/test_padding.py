"""Clips of unequal length in one batch: each as if it were alone."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from byola_rq import Embedder, LogMelSpectrogram
from byola_rq.audio.frontend import Statistics
from byola_rq.embed import padding
from byola_rq.embed.padding import group_by_length
from byola_rq.errors import MissingPackageError

TOLERANCE = 1e-6  # of the largest number in an embedding

# Around every border there is: of the shortest clip, of hops, of a block's pooling, of seconds.
LENGTHS = [1600, 1601, 1759, 1760, 2400, 4000, 4001, 8123, 15999, 16000, 16001, 17000, 33333, 40000]


def build(encoder: str, backend: str = "torch") -> Embedder:
    """An embedder whose batch norms do something, so that zeros do not stay zeros."""
    dim = {"audio_ntt_2020": 64, "audio_ntt_2022": 1088}[encoder]
    frontend = LogMelSpectrogram(backend=backend)
    embedder = Embedder.untrained(encoder, dim=dim, seed=3, frontend=frontend)
    generator = torch.Generator().manual_seed(0)
    for module in embedder.encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.bias.normal_(generator=generator)
            module.weight.uniform_(0.5, 2.0, generator=generator)
            module.running_mean.normal_(generator=generator)
    return embedder.with_statistics(Statistics(-7.5, 4.5))


@pytest.fixture(scope="module")
def clips() -> list[Tensor]:
    """Loud to the last sample, so that what is behind the end would be heard."""
    time = torch.arange(40000) / 16000
    sound = 0.3 * torch.sin(2 * torch.pi * (300 * time + 500 * time**2))
    sound += 0.2 * torch.randn(40000, generator=torch.Generator().manual_seed(1))
    return [sound[:length] for length in LENGTHS]


@pytest.fixture
def all_in_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(padding, "LONGEST_TO_SHORTEST", 1e9)


@pytest.mark.usefixtures("all_in_one_batch")
@pytest.mark.parametrize("encoder", ["audio_ntt_2020", "audio_ntt_2022"])
def test_padding_changes_no_embedding(encoder: str, clips: list[Tensor]) -> None:
    embedder = build(encoder)
    batches: list[tuple[int, ...]] = []
    embedder.frontend.register_forward_hook(lambda m, i, o: batches.append(tuple(i[0].shape)))
    together = embedder(clips, 16000)
    assert batches == [(len(clips), 40000 + 512)], "they were not padded"
    alone = torch.cat([embedder(clip, 16000) for clip in clips])
    assert (together - alone).abs().max() <= TOLERANCE * alone.abs().max()
    frames, seconds = embedder.frames(clips, 16000)
    assert frames.shape[:2] == (len(clips), len(seconds))
    for row, clip in zip(frames, clips, strict=True):
        expected, times = embedder.frames(clip, 16000)
        count = expected.shape[1]
        assert (row[:count] - expected[0]).abs().max() <= TOLERANCE * alone.abs().max()
        assert torch.equal(seconds[:count], times)
        assert torch.isnan(row[count:]).all()


@pytest.mark.usefixtures("all_in_one_batch")
@pytest.mark.parametrize("behind", [0.0, 1.0, torch.nan, -1e4])
def test_what_stands_behind_a_clip_has_no_say(clips: list[Tensor], behind: float) -> None:
    embedder = build("audio_ntt_2020")
    padded = torch.full((len(clips), 50000), behind)
    for row, clip in zip(padded, clips, strict=True):
        row[: len(clip)] = clip
    expected = embedder(clips, 16000)
    for lengths in (LENGTHS, torch.tensor(LENGTHS), np.array(LENGTHS, np.int32)):
        assert torch.equal(embedder(padded, 16000, lengths=lengths), expected)
    frames, _ = embedder.frames(padded, 16000, lengths=LENGTHS)
    assert torch.equal(frames.isnan(), embedder.frames(clips, 16000)[0].isnan())


@pytest.mark.usefixtures("all_in_one_batch")
@pytest.mark.parametrize("backend", ["torchaudio", "librosa", "nnaudio"])
def test_with_every_frontend(clips: list[Tensor], backend: str) -> None:
    try:
        embedder = build("audio_ntt_2020", backend)
    except MissingPackageError as error:
        pytest.skip(str(error))
    some = [clips[2], clips[7], clips[10]]
    alone = torch.cat([embedder(clip, 16000) for clip in some])
    # Their spectrograms round more than ours, here and there.
    torch.testing.assert_close(embedder(some, 16000), alone, atol=1e-5, rtol=1e-5)


@pytest.mark.usefixtures("all_in_one_batch")
def test_a_mask_that_is_wrong_would_be_seen(
    clips: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Remove each precaution: embeddings then differ by far more than rounding."""
    embedder = build("audio_ntt_2020")
    alone = torch.cat([embedder(clip, 16000) for clip in clips])
    monkeypatch.setattr(padding, "_blank_behind", lambda features, num_frames: features)
    assert (embedder(clips, 16000) - alone).abs().max() > 1000 * TOLERANCE * alone.abs().max()


def test_other_rates_and_kinds_of_batches(clips: list[Tensor]) -> None:
    embedder = build("audio_ntt_2020")
    some = [clip.numpy() for clip in clips[5:12]]
    alone = torch.cat([embedder(clip, 22050) for clip in some])
    for batch in (some, tuple(some), [clip.tolist() for clip in some]):
        torch.testing.assert_close(embedder(batch, 22050), alone, atol=1e-5, rtol=1e-5)
    same = [clips[9], clips[9].flip(0)]
    assert torch.equal(embedder(same, 16000), embedder(torch.stack(same), 16000))


def test_half_precision_batches(clips: list[Tensor]) -> None:
    embedder = build("audio_ntt_2020").to(torch.bfloat16)
    alone = torch.cat([embedder(clip, 16000) for clip in clips])
    together = embedder(clips, 16000)
    assert together.dtype == torch.float32
    assert (together - alone).norm() < 0.01 * alone.norm()


def test_groups_are_alike_and_have_room() -> None:
    generator = np.random.default_rng(0)
    lengths = np.exp(generator.uniform(np.log(1600), np.log(4e6), 300)).astype(int).tolist()
    groups = group_by_length(lengths, 1_000_000)
    assert sorted(place for group in groups for place in group) == list(range(300))
    assert len(groups) < 200
    for group in groups:
        own = [lengths[place] for place in group]
        assert len(group) == 1 or len(group) * max(own) <= 1_000_000
        assert max(own) <= 1.25 * min(own)
    assert group_by_length([], 10) == []
