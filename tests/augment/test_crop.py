"""Random resized crop against `F.interpolate` on the box cut out of a canvas."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from byola_rq import RandomResizedCrop
from byola_rq.augment.crop import CropBoxes
from byola_rq.runtime.rng import sample_keys

KEYS = sample_keys(0, 0, torch.arange(64))


def crop_one_by_one(x: Tensor, boxes: CropBoxes) -> Tensor:
    """The definition, sample by sample: canvas, cut, bicubic resize."""
    num_bands, num_frames = x.shape[-2:]
    canvas = torch.zeros(*x.shape[:2], *boxes.canvas, dtype=x.dtype)
    top = (boxes.canvas[0] - num_bands) // 2
    left = (boxes.canvas[1] - num_frames) // 2
    canvas[..., top : top + num_bands, left : left + num_frames] = x
    rows = []
    for i in range(len(x)):
        y0, x0 = int(boxes.top[i]), int(boxes.left[i])
        y1, x1 = y0 + int(boxes.height[i]), x0 + int(boxes.width[i])
        cut = canvas[i : i + 1, :, y0:y1, x0:x1]
        rows.append(
            F.interpolate(cut, size=(num_bands, num_frames), mode="bicubic", align_corners=True)
        )
    return torch.cat(rows)


@pytest.mark.parametrize("shape", [(64, 1, 64, 96), (64, 1, 7, 13), (64, 2, 64, 95), (64, 1, 1, 9)])
@pytest.mark.parametrize("canvas", [(1.0, 1.5), (1.0, 1.0), (1.25, 2.0)])
def test_equals_interpolation_of_the_cut_out(
    shape: tuple[int, ...], canvas: tuple[float, float]
) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    crop = RandomResizedCrop(canvas=canvas)
    boxes = crop.draw(x, KEYS)
    torch.testing.assert_close(crop.apply(x, boxes), crop_one_by_one(x, boxes), atol=1e-4, rtol=0)


def test_boxes_follow_their_distribution() -> None:
    x = torch.zeros(20_000, 1, 64, 96)
    boxes = RandomResizedCrop().draw(x, sample_keys(1, 0, torch.arange(20_000)))
    assert boxes.canvas == (64, 144)
    # floor(U(0.6, 1.5) * 64) clipped to 64: P(64) = 0.5 / 0.9, the smallest is 38.
    full = (boxes.height == 64).double().mean()
    assert abs(full - 5 / 9) < 5 * (5 / 9 * 4 / 9 / 20_000) ** 0.5
    assert boxes.height.min() == 38
    # floor(U(0.6, 1.5) * 96): 57 to 143, uniform but for the ends.
    assert boxes.width.min() == 57
    assert boxes.width.max() == 143
    expected = torch.linspace(57.6, 144, 2_000_001, dtype=torch.float64)[:-1].floor().mean()
    assert abs(boxes.width.double().mean() - expected) < 5 * 25 / 20_000**0.5
    assert (boxes.top >= 0).all()
    assert (boxes.top + boxes.height <= 64).all()
    assert (boxes.left >= 0).all()
    assert (boxes.left + boxes.width <= 144).all()
    # Places are uniform among those that fit: both ends are met.
    assert (boxes.left == 0).any()
    assert (boxes.left + boxes.width == 144).any()


def test_size_and_place_are_independent() -> None:
    crop = RandomResizedCrop((1.5, 1.5), freq_scale=(0.5, 1.0), time_scale=(0.5, 1.0))
    boxes = crop.draw(torch.zeros(20_000, 1, 64, 96), sample_keys(2, 0, torch.arange(20_000)))
    places = (boxes.top / (96 - boxes.height), boxes.left / (144 - boxes.width))
    numbers = torch.stack((boxes.height, boxes.width, *places)).double()
    # A sample correlation of independent numbers has standard deviation 1 / sqrt(n).
    assert (torch.corrcoef(numbers) - torch.eye(4)).abs().max() < 5 / 20_000**0.5


def test_whole_segment_is_the_identity() -> None:
    x = torch.randn(3, 1, 64, 96)
    crop = RandomResizedCrop(canvas=(1, 1), freq_scale=(1, 1), time_scale=(1, 1))
    torch.testing.assert_close(crop(x), x, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [1, 3, 17])
def test_result_does_not_depend_on_the_batch(size: int) -> None:
    x = torch.randn(64, 1, 64, 96)
    crop = RandomResizedCrop()
    whole = crop(x, KEYS)
    assert torch.equal(whole[40 : 40 + size], crop(x[40 : 40 + size], KEYS[40 : 40 + size]))


def test_gradient_is_that_of_the_interpolation() -> None:
    x = torch.randn(4, 1, 16, 24, requires_grad=True)
    crop = RandomResizedCrop()
    boxes = crop.draw(x, KEYS[:4])
    weights = torch.randn(4, 1, 16, 24)
    ours = torch.autograd.grad((crop.apply(x, boxes) * weights).sum(), x)[0]
    expected = torch.autograd.grad((crop_one_by_one(x, boxes) * weights).sum(), x)[0]
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_type_is_kept(dtype: torch.dtype) -> None:
    x = torch.randn(8, 1, 64, 96)
    crop = RandomResizedCrop()
    result = crop(x.to(dtype), KEYS[:8])
    assert result.dtype == dtype
    expected = crop(x.to(dtype).float(), KEYS[:8])
    if dtype == torch.float64:
        # Float32 has the places of the taps to 144 * 2^-23 frames; the slopes of the four weights
        # add up to less than 4, in both directions.
        atol, rtol = float(2 * 4 * x.abs().max() * 144 * 2**-23), 0.0
    else:  # computed in float32 and rounded once
        rtol = torch.finfo(dtype).eps
        atol = rtol / 4
    torch.testing.assert_close(result.float(), expected, atol=atol, rtol=rtol)


def test_gradient_of_planes_side_by_side() -> None:
    x = torch.randn(3, 2, 9, 14, dtype=torch.float64, requires_grad=True)
    crop = RandomResizedCrop()
    boxes = crop.draw(x, KEYS[:3])
    assert torch.autograd.gradcheck(lambda x: crop.apply(x, boxes), x)
    together = crop.apply(x, boxes)
    for plane in range(2):
        assert torch.equal(together[:, plane], crop.apply(x[:, plane : plane + 1], boxes)[:, 0])


def test_shapes_eval_and_non_contiguous_input() -> None:
    crop = RandomResizedCrop()
    x = torch.randn(8, 1, 96, 64).transpose(-1, -2)
    assert torch.equal(crop(x, KEYS[:8]), crop(x.contiguous(), KEYS[:8]))
    single = torch.randn(64, 96)
    assert crop(single).shape == single.shape
    crop.eval()
    assert crop(x) is x


@pytest.mark.parametrize(
    "options", [{"canvas": (0.5, 1.5)}, {"freq_scale": (0, 1)}, {"time_scale": (1.5, 0.6)}]
)
def test_wrong_options_are_refused(options: dict[str, tuple[float, float]]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(options))} "):
        RandomResizedCrop(**options)
