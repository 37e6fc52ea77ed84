"""DACL and SpecAugment, against loops over samples."""

import math

import pytest
import torch

from byola_rq import DACL, SpecAugment
from byola_rq.augment.dacl import DaclNoise
from byola_rq.augment.spec_augment import Masks
from byola_rq.augment.views import Views
from byola_rq.runtime.rng import fold_in, sample_keys

KEYS = sample_keys(0, 0, torch.arange(16))


def test_dacl_is_the_formula() -> None:
    x = torch.randn(4, 1, 8, 9)
    share, index = torch.tensor([1.0, 0.9, 0.95, 0.5]), torch.tensor([3, 0, 1, 1])
    mixed = DACL().apply(x, DaclNoise(share=share, index=index))
    for row in range(4):
        part = share[row].double()
        expected = part * x[row].double() + (1 - part) * x[index[row]].double()
        # float32: a difference, a product and a sum of values below 8.
        torch.testing.assert_close(mixed[row].double(), expected, atol=3e-6, rtol=0)
    assert torch.equal(mixed[0], x[0])


def test_dacl_draws_shares_and_others() -> None:
    dacl, keys = DACL(0.8), sample_keys(1, 0, torch.arange(4000))
    noise = dacl.draw(torch.randn(4000, 1, 2, 2), keys)
    share = noise.share.double()
    assert 0.8 <= share.min() <= share.max() <= 1
    # Uniform: mean 0.9, standard deviation 0.2 / sqrt(12).
    assert abs(share.mean() - 0.9) < 5 * 0.2 / math.sqrt(12 * 4000)
    place = (noise.index - torch.arange(4000)) % 4000
    assert place.min() > 0
    assert abs(place.double().mean() - 2000) < 5 * 4000 / math.sqrt(12 * 4000)


def test_dacl_leaves_a_sample_alone_as_it_is() -> None:
    x = torch.randn(1, 1, 8, 9)
    assert torch.equal(DACL()(x, KEYS[:1]), x)


def test_dacl_mixes_what_the_chain_has_made() -> None:
    x = torch.randn(16, 1, 8, 9)
    faded = Views({"random_linear_fader": {}}, post_norm=False)(x, KEYS)
    mixed = Views({"random_linear_fader": {}, "dacl": {}}, post_norm=False)(x, KEYS)
    for number, (before, after) in enumerate(zip(faded, mixed, strict=True), start=1):
        assert torch.equal(after, DACL()(before, fold_in(fold_in(KEYS, number), "dacl")))


@pytest.mark.parametrize("shape", [(16, 1, 8, 9), (16, 2, 3, 8, 9), (16, 8, 9)])
def test_masks_are_filled_with_the_mean(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    masks = Masks(
        band=torch.randint(8, (16, 2)),
        num_bands=torch.randint(3, (16, 2)),
        frame=torch.randint(9, (16, 1)),
        num_frames=torch.randint(4, (16, 1)),
    )
    expected = x.clone()
    for row in range(16):
        for first, num in zip(masks.band[row].tolist(), masks.num_bands[row].tolist(), strict=True):
            expected[row, ..., first : first + num, :] = x[row].mean()
        first, num = int(masks.frame[row]), int(masks.num_frames[row])
        expected[row, ..., first : first + num] = x[row].mean()
    torch.testing.assert_close(SpecAugment().apply(x, masks), expected, rtol=0, atol=1e-6)


def test_masks_reach_everywhere_within_their_widths() -> None:
    augmentation = SpecAugment(2, 3, 1, 20)
    masks = augmentation.draw(torch.randn(4000, 1, 8, 9), sample_keys(2, 0, torch.arange(4000)))
    assert masks.band.shape == (4000, 2)
    assert set(masks.num_bands.flatten().tolist()) == {0, 1, 2, 3}
    assert set(masks.num_frames.flatten().tolist()) == set(range(10))  # no wider than the sample
    for first, num, size in (
        (masks.band, masks.num_bands, 8),
        (masks.frame, masks.num_frames, 9),
    ):
        assert (first + num).max() == size
        assert first.min() == 0
        for width in num.unique().tolist():
            starts = first[num == width]
            assert set(starts.tolist()) == set(range(size - width + 1))
    assert not torch.equal(masks.band[:, 0], masks.band[:, 1])


def test_a_row_depends_on_no_other() -> None:
    x = torch.randn(16, 1, 8, 9)
    whole = SpecAugment()(x, KEYS)
    assert torch.equal(whole[5:7], SpecAugment()(x[5:7], KEYS[5:7]))
    assert torch.equal(SpecAugment(0, 4, 0, 4)(x, KEYS), x)
    assert torch.equal(SpecAugment(1, 0, 1, 0)(x, KEYS), x)


def test_what_is_refused() -> None:
    for alpha in (-0.1, 1.1):
        with pytest.raises(ValueError, match="^alpha "):
            DACL(alpha)
    for name in ("num_freq_masks", "freq_width", "num_time_masks", "time_width"):
        with pytest.raises(ValueError, match=f"^{name} "):
            SpecAugment(**{name: -1})
