"""Randomized quantization of images, points and tokens, against the paper's equations."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from byola_rq import RandomizedQuantization
from byola_rq.augment.quantize_along import QuantizeAlong
from byola_rq.runtime.rng import draw_keys, sample_keys

sklearn_datasets = pytest.importorskip("sklearn.datasets")


@pytest.fixture(scope="module")
def digits() -> Tensor:
    """Scikit-learn's scanned digits as images: `(B, 1, 8, 8)` in [0, 1]."""
    images = sklearn_datasets.load_digits().images[:64]
    return torch.from_numpy(images).float()[:, None] / 16


def color(digits: Tensor) -> Tensor:
    """Digits on three channels of different ranges, `(B, 3, 8, 8)`."""
    return torch.cat((digits, 1 - digits, 10 * digits - 3), dim=1)


@pytest.fixture(scope="module")
def points() -> Tensor:
    """Points on the surface of spheres and tori, `(B, N, 3)`."""
    generator = torch.Generator().manual_seed(0)
    angle, height = torch.rand(2, 6, 200, generator=generator) * 2 * torch.pi
    radius = torch.tensor([2.0, 0, 3, 0, 4, 0])[:, None] + height.cos()
    return torch.stack((radius * angle.cos(), radius * angle.sin(), height.sin()), dim=-1)


@pytest.fixture(scope="module")
def tokens() -> Tensor:
    """Embeddings of words, `(B, T, D)`."""
    table = torch.randn(50, 12, generator=torch.Generator().manual_seed(1))
    text = torch.randint(50, (4, 20), generator=torch.Generator().manual_seed(2))
    return table[text]


def one_channel_by_the_equations(
    x: np.ndarray, edges: np.ndarray, values: np.ndarray
) -> np.ndarray:
    """Eq. 1 over one channel: the value of the only bin that x lies in."""
    corners = np.concatenate(([x.min()], edges, [x.max()]))
    result = np.full_like(x, np.nan)
    for place in np.ndindex(x.shape):
        for k in range(len(values)):
            is_last = k == len(values) - 1
            above = corners[k] <= x[place]
            below = x[place] <= corners[k + 1] if is_last else x[place] < corners[k + 1]
            if above and below:
                result[place] = values[k]
    return result


def case(name: str, digits: Tensor, points: Tensor, tokens: Tensor) -> tuple[Tensor, QuantizeAlong]:
    return {
        "images": (color(digits)[:5], QuantizeAlong(8, channel_dim=-3, sample_ndim=3)),
        "points": (points, QuantizeAlong(30, channel_dim=-1, sample_ndim=2)),
        "tokens": (tokens, QuantizeAlong(4, channel_dim=-1, sample_ndim=2)),
        "rows of images": (color(digits)[:5], QuantizeAlong(3, channel_dim=-2, sample_ndim=3)),
    }[name]


CASES = pytest.mark.parametrize("name", ["images", "points", "tokens", "rows of images"])


@CASES
def test_equals_the_equations(name: str, digits: Tensor, points: Tensor, tokens: Tensor) -> None:
    x, quantize = case(name, digits, points, tokens)
    keys = sample_keys(3, 0, torch.arange(len(x)))
    dim = quantize.quantization.channel_dim
    bins = quantize.quantization.draw(x, keys)
    found = quantize(x, keys).movedim(dim, 1).numpy()
    channels = x.movedim(dim, 1).numpy()
    for b, c in np.ndindex(channels.shape[:2]):
        edges, values = bins.edges[b, c].numpy(), bins.values[b, c].numpy()
        low, high = channels[b, c].min(), channels[b, c].max()
        corners = np.concatenate(([low], edges, [high]))
        # Eq. 2-4: edges in order within the range, each value inside its bin.
        assert (np.diff(corners) >= 0).all()
        assert ((corners[:-1] <= values) & (values <= corners[1:])).all()
        expected = one_channel_by_the_equations(channels[b, c], edges, values)
        assert np.array_equal(found[b, c], expected), (b, c)


@CASES
def test_a_sample_is_the_same_alone_and_in_any_batch(
    name: str, digits: Tensor, points: Tensor, tokens: Tensor
) -> None:
    x, quantize = case(name, digits, points, tokens)
    keys = sample_keys(0, 1, torch.arange(len(x)))
    together = quantize(x, keys)
    assert together.shape == x.shape
    assert not torch.equal(together, x)
    assert not torch.equal(together, quantize(x, keys + 1))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    assert torch.equal(quantize(x[order], keys[order]), together[order])
    for i in range(len(x)):
        assert torch.equal(quantize(x[i], keys[i]), together[i])
        assert torch.equal(quantize(x[i], int(keys[i])), together[i])


def test_equals_the_base_class_and_its_batch_layout(digits: Tensor) -> None:
    x, keys = color(digits), sample_keys(0, 0, torch.arange(64))
    ours = QuantizeAlong(8, channel_dim=-3, sample_ndim=3)(x, keys)
    assert torch.equal(ours, RandomizedQuantization(8, channel_dim=1)(x, keys))
    # Channels last is the same image.
    last = QuantizeAlong(8, channel_dim=-1, sample_ndim=3)(x.movedim(1, -1), keys)
    assert torch.equal(last.movedim(-1, 1), ours)


def test_bins_and_order_of_values_per_channel(digits: Tensor) -> None:
    x = color(digits)
    quantized = QuantizeAlong(3, channel_dim=-3, sample_ndim=3)(x)
    for image, before in zip(quantized.flatten(0, 1), x.flatten(0, 1), strict=True):
        assert len(image.unique()) <= 3
        order = before.flatten().argsort()
        assert (image.flatten()[order].diff() >= 0).all()
    shared = QuantizeAlong(3, channel_dim=-3, sample_ndim=3, per="instance")(x)
    assert all(len(image.unique()) <= 3 for image in shared)
    assert max(len(image.unique()) for image in quantized) > 3


def test_the_straight_through_gradient_is_the_identity(tokens: Tensor) -> None:
    keys = sample_keys(0, 0, torch.arange(len(tokens)))
    options = {"channel_dim": -1, "sample_ndim": 2}
    through = QuantizeAlong(4, **options, straight_through=True)
    plain = QuantizeAlong(4, **options)
    weights = torch.randn(tokens.shape, generator=torch.Generator().manual_seed(5))
    x = tokens.clone().requires_grad_()
    (weights * through(x, keys)).sum().backward()
    assert torch.equal(x.grad, weights)
    y = tokens.clone().requires_grad_()
    result = plain(y, keys)
    assert torch.equal(through(x, keys), result)
    (weights * result).sum().backward()
    # As the docstring says: nothing but the ends of each channel's range is reached.
    ends = (tokens == tokens.amin(1, keepdim=True)) | (tokens == tokens.amax(1, keepdim=True))
    assert (y.grad[~ends] == 0).all()
    assert (y.grad[ends] != 0).any()


def test_learned_embeddings_learn_through_it() -> None:
    torch.manual_seed(0)
    embed = nn.Embedding(10, 6)
    network = nn.Sequential(
        embed, QuantizeAlong(4, channel_dim=-1, sample_ndim=2, straight_through=True)
    )
    network(torch.arange(10).reshape(2, 5)).square().sum().backward()
    assert (embed.weight.grad.abs().sum(dim=1) > 0).all()


class Compose:
    """Apply transforms in order, like torchvision's Compose."""

    def __init__(self, steps: list) -> None:
        self.steps = steps

    def __call__(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = step(x)
        return x


class Digits(torch.utils.data.Dataset):
    def __init__(self, images: Tensor, transform: Compose) -> None:
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.transform(self.images[index])


def test_a_step_in_a_pipeline_of_a_loader_with_workers(digits: Tensor) -> None:
    quantize = QuantizeAlong(8, channel_dim=-3, sample_ndim=3)
    twice = digits[:1].expand(64, -1, -1, -1)  # the same image, so that only the draws differ
    transform = Compose([lambda x: x.flip(-1), quantize])
    torch.manual_seed(0)
    loader = torch.utils.data.DataLoader(Digits(twice, transform), 32, num_workers=2)
    batches = torch.cat(list(loader))
    assert batches.shape == (64, 1, 8, 8)
    # 64 draws, over two workers: all differ.
    assert len(batches.flatten(1).unique(dim=0)) == 64
    torch.manual_seed(0)
    assert torch.equal(torch.cat(list(loader)), batches)


def test_it_is_a_module_like_any_other(digits: Tensor) -> None:
    quantize = QuantizeAlong(8, channel_dim=-3, sample_ndim=3)
    assert torch.equal(nn.Sequential(quantize).eval()(digits), digits)
    quantize.train()
    assert not quantize.state_dict()
    keys = draw_keys(64, digits.device)
    other = copy.deepcopy(quantize)
    assert torch.equal(other(digits, keys), quantize(digits, keys))
    half = quantize(digits.half(), keys)
    assert half.dtype == torch.float16
    # Exact in half precision already, so the bins are those of float32, rounded.
    assert torch.equal(half, quantize(digits, keys).half())
    a, b = (quantize(digits, generator=torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(a, b)
    never = QuantizeAlong(8, channel_dim=-3, sample_ndim=3, p=0.0)
    assert torch.equal(never(digits), digits)
    assert "sample_ndim=3" in repr(quantize)


@pytest.mark.gpu
def test_the_same_on_a_gpu(digits: Tensor) -> None:
    quantize = QuantizeAlong(8, channel_dim=-3, sample_ndim=3)
    keys = sample_keys(0, 0, torch.arange(64))
    found = quantize(digits.cuda(), keys.cuda()).cpu()
    # The draws are the same bits; sums of the bins may round differently.
    torch.testing.assert_close(found, quantize(digits, keys), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"channel_dim": 1, "sample_ndim": 3}, "channel_dim"),
        ({"channel_dim": -4, "sample_ndim": 3}, "channel_dim"),
        ({"channel_dim": -1, "sample_ndim": 1}, "sample_ndim"),
        ({"channel_dim": -1, "sample_ndim": 2, "p": 2}, "p"),
        ({"channel_dim": -1, "sample_ndim": 2, "bins": "even"}, "bins"),
    ],
)
def test_wrong_options_are_refused(options: dict, name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} "):
        QuantizeAlong(8, **options)


@pytest.mark.parametrize(
    ("x", "key", "error", "fact"),
    [
        (torch.zeros(8, 8), None, ValueError, r"\(8, 8\)"),
        (torch.zeros(0, 1, 8, 8), None, ValueError, r"\(0, 1, 8, 8\)"),
        (torch.full((1, 8, 8), torch.nan), None, ValueError, "64 of its 64"),
        (torch.zeros(1, 8, 8, dtype=torch.uint8), None, TypeError, "uint8"),
        (np.zeros((1, 8, 8)), None, TypeError, "ndarray"),
        (torch.zeros(2, 1, 8, 8), 3, ValueError, r"^key .*\(1,\)"),
        (torch.zeros(1, 8, 8), torch.tensor(1.0), TypeError, "^key "),
    ],
)
def test_wrong_inputs_are_refused(x: Tensor, key: object, error: type, fact: str) -> None:
    with pytest.raises(error, match=fact):
        QuantizeAlong(8, channel_dim=-3, sample_ndim=3)(x, key)
