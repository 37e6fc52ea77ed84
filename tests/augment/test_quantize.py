"""Randomized quantization against a loop written from the paper's equations."""

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from byola_rq import RandomizedQuantization
from byola_rq.augment.quantize import QuantizationBins, _quantize_by_index, _quantize_by_lerp
from byola_rq.runtime.rng import draw_keys, sample_keys

KEYS = sample_keys(0, 0, torch.arange(32))
BINS_VALUES_PER = list(
    itertools.product(("random", "uniform"), ("random", "midpoint"), ("channel", "instance"))
)


def quantize_one_by_one(x: Tensor, bins: QuantizationBins) -> Tensor:
    """Eq. 1, element by element over `(B, C, N)`: y = sum over k of value_k * [x in bin k]."""
    result = x.clone()
    num_samples, num_channels, num_positions = x.shape
    for b, c in itertools.product(range(num_samples), range(num_channels)):
        if not bins.is_applied[b]:
            continue
        row = c if bins.edges.shape[1] > 1 or num_channels == 1 else 0
        edges = [-math.inf, *bins.edges[b, row].tolist(), math.inf]
        for n in range(num_positions):
            value = x[b, c, n].item()
            memberships = [k for k in range(len(edges) - 1) if edges[k] <= value < edges[k + 1]]
            assert len(memberships) == 1
            result[b, c, n] = bins.values[b, row, memberships[0]]
    return result


@pytest.mark.parametrize(("bins", "values", "per"), BINS_VALUES_PER)
@pytest.mark.parametrize("num_bins", [1, 2, 5, 30])
def test_equals_the_equations(bins: str, values: str, per: str, num_bins: int) -> None:
    x = torch.randn(3, 1, 6, 20, generator=torch.Generator().manual_seed(2))
    quantization = RandomizedQuantization(num_bins, bins=bins, values=values, per=per)
    drawn = quantization.draw(x, KEYS[:3])
    expected = quantize_one_by_one(x[:, 0], drawn)
    assert torch.equal(quantization.apply(x, drawn)[:, 0], expected)


@pytest.mark.parametrize(("bins", "values", "per"), BINS_VALUES_PER)
def test_drawn_quantizers_obey_the_equations(bins: str, values: str, per: str) -> None:
    x = torch.randn(32, 1, 64, 96, generator=torch.Generator().manual_seed(3))
    drawn = RandomizedQuantization(5, bins=bins, values=values, per=per).draw(x, KEYS)
    rows = x[:, 0] if per == "channel" else x.flatten(1)[:, None]
    low, high = rows.amin(-1, keepdim=True), rows.amax(-1, keepdim=True)
    corners = torch.cat((low, drawn.edges, high), dim=-1)
    assert (corners.diff(dim=-1) >= 0).all()
    assert (drawn.values >= corners[..., :-1]).all()
    assert (drawn.values <= corners[..., 1:]).all()
    # One float32 rounding each of difference, product and sum, at the scale of the range.
    tolerance = {"atol": float(4 * torch.finfo(torch.float32).eps * rows.abs().max()), "rtol": 0}
    if bins == "uniform":
        steps = torch.arange(1, 5) / 5
        torch.testing.assert_close(drawn.edges, low + steps * (high - low), **tolerance)
    if values == "midpoint":
        middle = (corners[..., :-1] + corners[..., 1:]) / 2
        torch.testing.assert_close(drawn.values, middle, **tolerance)


@pytest.mark.parametrize(
    ("num_samples", "num_channels", "num_positions"),
    [(1, 1, 1), (7, 3, 5), (90, 64, 96), (3, 2, 300_000), (43, 64, 96)],
)
@pytest.mark.parametrize("per", ["channel", "instance"])
@pytest.mark.parametrize("num_bins", [1, 2, 5, 17])
def test_bins_by_edge_and_by_index_are_the_same_bits(
    num_samples: int, num_channels: int, num_positions: int, per: str, num_bins: int
) -> None:
    if num_positions > 1000 and num_bins > 5:
        num_positions //= 10
    shape = (num_samples, num_channels, num_positions)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(num_bins)).round(decimals=1)
    quantization = RandomizedQuantization(num_bins, per=per, channel_dim=1)
    drawn = quantization.draw(x, sample_keys(2, 0, torch.arange(num_samples)))
    # Elements that lie on edges, and values in any order.
    edges = drawn.edges.round(decimals=1)
    values = drawn.values.flip(-1)
    by_edge = _quantize_by_lerp(x, edges, values)
    assert torch.equal(by_edge, _quantize_by_index(x, edges, values))


@pytest.mark.parametrize("num_bins", [5, 70])
def test_gradient_reaches_the_input_through_the_values(num_bins: int) -> None:
    x = torch.randn(4, 1, 8, 20, requires_grad=True)
    quantization = RandomizedQuantization(num_bins, values="midpoint", bins="uniform", p=0.5)
    result = quantization(x, KEYS[:4])
    assert torch.equal(result, quantization(x.detach(), KEYS[:4]))
    # Every value is a mixture of the band's least and greatest, where the sample is quantized.
    total = torch.autograd.grad(result.sum(), x)[0].sum(dim=-1)
    torch.testing.assert_close(total, torch.full_like(total, 20.0))


def kolmogorov_smirnov(sample: Tensor, cumulative: Tensor | None = None) -> float:
    """Largest distance of the sample's distribution from U(0, 1), or from given values of F."""
    n = len(sample)
    ordered = (sample if cumulative is None else cumulative).double().sort().values
    return float((ordered - (torch.arange(n) + 0.5) / n).abs().max() + 0.5 / n)


def test_distribution_of_edges_and_values() -> None:
    x = torch.randn(500, 1, 64, 96, generator=torch.Generator().manual_seed(4))
    keys = sample_keys(9, 0, torch.arange(500))
    drawn = RandomizedQuantization().draw(x, keys)  # five bins, as in the paper
    low, high = x[:, 0].amin(-1, keepdim=True), x[:, 0].amax(-1, keepdim=True)
    fractions = (drawn.edges - low) / (high - low)  # (B, C, 4), sorted
    # The false alarm rate of each bound below is 1e-6 (Kolmogorov-Smirnov).
    bound = math.sqrt(-math.log(1e-6 / 2) / 2)
    # Unsorted, the four edges are uniform: one of them picked at random is.
    picked = fractions.flatten(0, 1)
    picked = picked[torch.arange(len(picked)), torch.arange(len(picked)) % 4]
    assert kolmogorov_smirnov(picked) < bound / math.sqrt(len(picked))
    # Sorted, the j-th of four uniforms is Beta(j, 5 - j): P(smallest <= t) = 1 - (1 - t)^4.
    smallest = fractions[..., 0].flatten().double()
    cumulative = 1 - (1 - smallest) ** 4
    assert kolmogorov_smirnov(smallest, cumulative) < bound / math.sqrt(len(smallest))
    # Values are uniform in their own bin.
    corners = torch.cat((low, drawn.edges, high), dim=-1)
    width = corners.diff(dim=-1)
    within = ((drawn.values - corners[..., :-1]) / width)[width > 1e-3]
    # float32 carries a place in a bin of width 1e-3 to 1e-3 of it; half the K-S bound and more.
    assert kolmogorov_smirnov(within) < bound / math.sqrt(len(within)) + 1e-3


def test_edges_values_and_choice_are_independent() -> None:
    x = torch.tensor([0.0, 1.0]).expand(4000, 1, 2)
    drawn = RandomizedQuantization(2, p=0.5).draw(x, sample_keys(5, 0, torch.arange(4000)))
    (edge,), (first, second) = drawn.edges[:, 0].double().T, drawn.values[:, 0].double().T
    places = (first / edge, (second - edge) / (1 - edge))
    correlation = torch.corrcoef(torch.stack((edge, *places, drawn.is_applied.double())))
    # A sample correlation of independent numbers has standard deviation 1 / sqrt(n).
    assert (correlation - torch.eye(4)).abs().max() < 5 / math.sqrt(4000)


def test_the_widest_range_is_not_left() -> None:
    x = torch.tensor([-3e38, 0.0, 3e38]).expand(32, 1, 3)  # its width is no float32
    result = RandomizedQuantization(5)(x, KEYS)
    assert result.abs().max() <= 3e38


def test_bins_include_their_outer_ends_and_open_at_inner_ones() -> None:
    x = torch.tensor([[[0.0, 0.25, 0.5, 0.75, 1.0]]])
    bins = QuantizationBins(
        edges=torch.tensor([[[0.5]]]),
        values=torch.tensor([[[10.0, 20.0]]]),
        is_applied=torch.tensor([True]),
    )
    result = RandomizedQuantization(2).apply(x, bins)
    assert result.tolist() == [[[10.0, 10.0, 20.0, 20.0, 20.0]]]


@pytest.mark.parametrize("num_bins", [1, 2, 5])
@pytest.mark.parametrize("constant", [0.0, 0.1, -7.3, 1e30])
def test_constant_band_stays_as_it_is(num_bins: int, constant: float) -> None:
    x = torch.full((2, 1, 4, 9), constant)
    x[:, :, 1] = torch.randn(2, 1, 9)
    result = RandomizedQuantization(num_bins)(x)
    assert torch.equal(result[:, :, [0, 2, 3]], x[:, :, [0, 2, 3]])


def test_one_bin_withholds_the_whole_band() -> None:
    x = torch.randn(4, 1, 8, 50)
    result = RandomizedQuantization(1)(x)
    assert (result == result[..., :1]).all()
    assert (result >= x.amin(-1, keepdim=True)).all()
    assert (result <= x.amax(-1, keepdim=True)).all()


def test_bins_bound_the_number_of_values_and_keep_order() -> None:
    x = torch.randn(8, 1, 16, 96)
    result = RandomizedQuantization(5)(x)
    for row, original in zip(result.reshape(-1, 96), x.reshape(-1, 96), strict=True):
        assert len(row.unique()) <= 5
        assert (row[original.argsort()].diff() >= 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_type_is_kept_and_computed_in_float32(dtype: torch.dtype) -> None:
    x = torch.randn(8, 1, 64, 96).to(dtype)
    quantization = RandomizedQuantization(5)
    result = quantization(x, KEYS[:8])
    assert result.dtype == dtype
    drawn = quantization.draw(x.to(torch.promote_types(dtype, torch.float32)), KEYS[:8])
    assert torch.equal(result, quantization.apply(x, drawn))
    assert all(len(row.unique()) <= 5 for row in result.reshape(-1, 96))


@pytest.mark.parametrize("size", [1, 3, 17])
def test_result_does_not_depend_on_the_batch(size: int) -> None:
    x = torch.randn(32, 1, 64, 96)
    quantization = RandomizedQuantization(5, p=0.5)
    whole = quantization(x, KEYS)
    assert torch.equal(whole[9 : 9 + size], quantization(x[9 : 9 + size], KEYS[9 : 9 + size]))


def test_non_contiguous_input_gives_the_same() -> None:
    x = torch.randn(8, 1, 96, 64).transpose(-1, -2)
    quantization = RandomizedQuantization(5)
    assert torch.equal(quantization(x, KEYS[:8]), quantization(x.contiguous(), KEYS[:8]))


def test_probability_chooses_samples() -> None:
    x = torch.randn(4000, 1, 2, 8)
    result = RandomizedQuantization(3, p=0.3)(x, sample_keys(0, 0, torch.arange(4000)))
    untouched = (result == x).flatten(1).all(dim=1).double().mean()
    assert abs(untouched - 0.7) < 5 * math.sqrt(0.3 * 0.7 / 4000)
    assert torch.equal(RandomizedQuantization(3, p=0.0)(x), x)


@pytest.mark.parametrize(
    ("shape", "channel_dim"),
    [((5, 3, 8, 9), 1), ((5, 40, 3), -1), ((5, 1, 6, 20), -2), ((5, 3, 8, 9), -3), ((5, 7, 4), 2)],
)
def test_any_channel_dimension(shape: tuple[int, ...], channel_dim: int) -> None:
    x = torch.randn(shape)
    quantization = RandomizedQuantization(4, channel_dim=channel_dim)
    drawn = quantization.draw(x, KEYS[:5])
    rows = x.movedim(channel_dim, 1).flatten(2)
    result = quantization.apply(x, drawn)
    assert result.shape == x.shape
    assert torch.equal(result.movedim(channel_dim, 1).flatten(2), quantize_one_by_one(rows, drawn))


def test_keys_and_generators_decide_everything() -> None:
    x = torch.randn(4, 1, 8, 20)
    quantization = RandomizedQuantization(5)
    assert torch.equal(quantization(x, KEYS[:4]), quantization(x, KEYS[:4]))
    seeded = [quantization(x, generator=torch.Generator().manual_seed(6)) for _ in range(2)]
    assert torch.equal(seeded[0], seeded[1])
    torch.manual_seed(6)
    first = quantization(x)
    torch.manual_seed(6)
    assert torch.equal(first, quantization(x))
    assert not torch.equal(first, quantization(x))
    keys = draw_keys(4, torch.device("cpu"), torch.Generator().manual_seed(6))
    assert torch.equal(seeded[0], quantization(x, keys))


def test_is_a_module_and_the_identity_in_eval() -> None:
    x = torch.randn(2, 1, 8, 20)
    quantization = RandomizedQuantization(5)
    assert not torch.equal(quantization(x), x)
    assert quantization.eval()(x) is x
    visited: list[nn.Module] = []
    nn.Sequential(quantization, nn.Flatten()).apply(visited.append)
    assert quantization in visited


@pytest.mark.parametrize(
    ("x", "error", "value"),
    [
        (torch.tensor([[[1.0, math.nan]]]), ValueError, "1 of its 2"),
        (torch.tensor([[[math.inf, math.inf]]]), ValueError, "2 of its 2"),
        (torch.ones(2, 3, 4, dtype=torch.int64), TypeError, "int64"),
        (torch.ones(5), ValueError, r"\(5,\)"),
        (torch.ones(0, 1, 4, 4), ValueError, r"\(0, 1, 4, 4\)"),
    ],
)
def test_wrong_input_is_refused(x: Tensor, error: type[Exception], value: str) -> None:
    with pytest.raises(error, match=f"^input .*{value}"):
        RandomizedQuantization(5)(x)


def test_wrong_keys_are_refused() -> None:
    x = torch.ones(2, 1, 4, 4)
    with pytest.raises(ValueError, match=r"^key .*\(3,\)"):
        RandomizedQuantization(5)(x, KEYS[:3])
    with pytest.raises(TypeError, match="^key "):
        RandomizedQuantization(5)(x, torch.ones(2))


@pytest.mark.parametrize(
    "options",
    [
        {"num_bins": 0},
        {"bins": "log"},
        {"values": "mean"},
        {"per": "batch"},
        {"p": 1.5},
        {"p": -0.1},
    ],
)
def test_wrong_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(options))} "):
        RandomizedQuantization(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("channel_dim", [0, -3])
def test_channel_dimension_must_not_be_the_samples(channel_dim: int) -> None:
    with pytest.raises(ValueError, match="channel_dim"):
        RandomizedQuantization(channel_dim=channel_dim)(torch.ones(2, 3, 4))
