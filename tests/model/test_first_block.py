"""The fused first block and the linear layers against torch's own modules."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from byola_rq.model.encoder import AudioNTT2020, AudioNTT2022, _run_blocks
from byola_rq.model.first_block import _FirstBlock, _moments, _patches
from byola_rq.model.linear import Linear, linear
from byola_rq.model.pooled_patches import KERNELS
from byola_rq.model.sync_batch_norm import SyncBatchNorm

Blocks = tuple[nn.Sequential, nn.Sequential]


def blocks(dtype: torch.dtype = torch.float64, *, channels_last: bool = True) -> Blocks:
    """The same first two blocks twice, with batch norms of either sign."""
    torch.manual_seed(0)
    features = AudioNTT2022(dim=1056).features.to(dtype)
    with torch.no_grad():
        for norm in (features[1], features[5]):
            norm.weight.uniform_(-1, 1)
            norm.bias.uniform_(-1, 1)
    if channels_last:
        features.to(memory_format=torch.channels_last)
    return features, copy.deepcopy(features)


def sound(
    dtype: torch.dtype = torch.float64, size: tuple[int, int] = (64, 96), *, level: float = 0.0
) -> Tensor:
    """Steps, as quantized views have them: many of the pooled elements are equal."""
    x = torch.randn(5, 1, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return (((x * 2).round() / 2) + level).to(dtype)


def plain(features: nn.Sequential, x: Tensor) -> Tensor:
    """Run the modules in the papers' order."""
    for i in range(0, len(features), 4):
        x = F.max_pool2d(F.relu(features[i + 1](features[i](x))), 2)
    return x


def gradients(features: nn.Sequential, y: Tensor) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    towards = torch.randn(y.shape, generator=generator, dtype=torch.float64)
    (y.double() * towards).sum().backward()
    return {name: each.grad.double() for name, each in features.named_parameters()}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name, each in expected.items():
        # Before batch norm a bias changes nothing; torch's own gradient of it is rounding.
        scale = expected[name.replace("bias", "weight")].abs().max().item()
        torch.testing.assert_close(found[name], each, rtol=0, atol=tolerance * scale, msg=name)


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("size", [(64, 96), (32, 8), (2, 2)])
def test_training_is_that_of_the_modules(size: tuple[int, int], channels_last: bool) -> None:
    fused, modules = blocks(channels_last=channels_last)
    x = sound(size=size)
    first, second = fused[:4], modules[:4]
    y, expected = _run_blocks(first, x), plain(second, x)
    assert y.grad_fn is not None
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)
    assert_same(gradients(first, y), gradients(second, expected), 1e-12)
    for name, each in second.named_buffers():
        torch.testing.assert_close(first.get_buffer(name), each, rtol=1e-12, atol=1e-14)


def test_later_blocks_run_behind_the_first() -> None:
    fused, modules = blocks()
    y, expected = _run_blocks(fused, sound()), plain(modules, sound())
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)
    assert_same(gradients(fused, y), gradients(modules, expected), 1e-11)


def test_gradients_are_those_of_finite_differences() -> None:
    torch.manual_seed(3)
    x = torch.randn(2, 1, 4, 6, dtype=torch.float64)
    weight = torch.randn(3, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    bias, gamma, beta = torch.randn(3, 3, dtype=torch.float64).unbind()
    gamma, beta = gamma.requires_grad_(), beta.requires_grad_()
    patches = _patches(x, x.new_zeros(()))
    inputs = (patches, *_moments(patches[None]))

    def block(*parameters: Tensor) -> Tensor:
        own_weight, own_gamma, own_beta = parameters
        return _FirstBlock.apply(own_weight, bias, own_gamma, own_beta, inputs, 1e-5, torch.float64)

    assert torch.autograd.gradcheck(block, (weight, gamma, beta))


@pytest.mark.parametrize("level", [0.0, 30.0, -300.0])
def test_float32_is_as_near_to_float64_as_the_modules_are(level: float) -> None:
    fused, modules = blocks(torch.float32)
    exact = copy.deepcopy(modules).double()
    first, second, third = fused[:4], modules[:4], exact[:4]
    # A border of zeros beside a high level is far more than what is heard: it rounds in both.
    x = sound(torch.float32, level=level)
    y, of_modules, of_exact = (
        _run_blocks(first, x), plain(second, x), plain(third, x.double())
    )  # fmt: skip

    def errors(values: Tensor, found: dict[str, Tensor]) -> dict[str, float]:
        distances = {name: (found[name] - each).abs().max().item() for name, each in truth.items()}
        return {"y": (values.double() - of_exact).abs().max().item(), **distances}

    truth = gradients(third, of_exact)
    ours = errors(y, gradients(first, y))
    theirs = errors(of_modules, gradients(second, of_modules))
    for name, error in ours.items():
        size = 1.0 if name == "y" else truth[name.replace("bias", "weight")].abs().max().item()
        assert error <= max(3 * theirs[name], 2e-6 * size), (name, error, theirs[name])
    for name, each in third.named_buffers():
        torch.testing.assert_close(
            first.get_buffer(name).double(), each.double(), rtol=3e-5, atol=0
        )


def test_autocast_keeps_statistics_exact_and_gives_its_type() -> None:
    fused, modules = blocks(torch.float32)
    exact = copy.deepcopy(modules)
    x = sound(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y, of_modules = _run_blocks(fused[:4], x), modules[:4](x)
    expected = plain(exact[:4], x)
    assert y.dtype is torch.bfloat16
    assert (y.float() - expected).abs().max() <= 2**-8 * expected.abs().max()
    torch.testing.assert_close(fused[1].running_var, exact[1].running_var, rtol=1e-5, atol=0)
    found, theirs = gradients(fused[:4], y), gradients(modules[:4], of_modules)
    for name, each in gradients(exact[:4], expected).items():
        if name != "0.bias":
            error = (found[name] - each).norm() / each.norm()
            assert error < max(0.005, (theirs[name] - each).norm() / each.norm()), name


@pytest.mark.parametrize("size", [(64, 96), (64, 97), (65, 3), (2, 2)])
def test_evaluation_is_that_of_the_modules(size: tuple[int, int]) -> None:
    fused, modules = blocks()
    for features in (fused, modules):
        _run_blocks(features, sound(level=1.0))  # statistics other than 0 and 1
        features.eval()
    first, second = fused[:4], modules[:4]
    with torch.no_grad():
        y = _run_blocks(first, sound(size=size))
    assert y.grad_fn is None
    torch.testing.assert_close(y, plain(second, sound(size=size)), rtol=0, atol=1e-12)
    # With a gradient the modules themselves run.
    torch.testing.assert_close(_run_blocks(first, sound(size=size)), y, rtol=0, atol=1e-12)


@pytest.mark.parametrize("case", ["odd frames", "input gradient", "batch norm over ranks"])
def test_what_cannot_be_fused_runs_as_modules(case: str) -> None:
    fused, modules = blocks()
    x = sound(size=(64, 97)) if case == "odd frames" else sound()
    x.requires_grad_(case == "input gradient")
    if case == "batch norm over ranks":
        norm = SyncBatchNorm(64, dtype=torch.float64)
        norm.load_state_dict(fused[1].state_dict())
        fused[1] = norm
    y, expected = _run_blocks(fused, x), plain(modules, x)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)
    assert_same(gradients(fused, y), gradients(modules, expected), 1e-11)
    assert (x.grad is not None) == (case == "input gradient")


def test_odd_frames_where_kernels_serve_are_reported_once(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(KERNELS, "device_types", {"cpu"})
    fused, _ = blocks()
    for _ in range(2):
        _run_blocks(fused, sound(size=(64, 97)))
    (line,) = capfd.readouterr().err.splitlines()
    assert "first convolution block" in line
    assert "must be even; got 64 x 97" in line


def test_one_segment_trains_the_block() -> None:
    fused, modules = blocks()
    x = sound()[:1]
    torch.testing.assert_close(_run_blocks(fused, x), plain(modules, x), rtol=0, atol=1e-12)


def test_what_is_not_finite_stays_visible() -> None:
    fused, _ = blocks(torch.float32)
    x = sound(torch.float32)
    x[2, 0, 5, 5] = torch.nan
    assert not _run_blocks(fused, x).isfinite().all()


def test_memory_layout_of_the_result_is_channels_last() -> None:
    fused, _ = blocks(torch.float32)
    y = _run_blocks(fused[:4], sound(torch.float32))
    assert y.shape == (5, 64, 32, 48)
    assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("shape", [(7, 40), (3, 5, 40), (1, 40), (2, 0, 40)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_linear_is_torch_s(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(4)
    layer = Linear(40, 24).to(dtype)
    torch.manual_seed(4)
    other = nn.Linear(40, 24).to(dtype)
    x = torch.randn(shape, dtype=dtype)
    own, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, expected = layer(own), other(theirs)
    torch.testing.assert_close(y, expected)
    towards = torch.randn(y.shape, dtype=dtype)
    (y * towards).sum().backward()
    (expected * towards).sum().backward()
    torch.testing.assert_close(own.grad, theirs.grad)
    for name, each in other.named_parameters():
        torch.testing.assert_close(layer.get_parameter(name).grad, each.grad)


def test_linear_takes_views_and_autocast() -> None:
    torch.manual_seed(5)
    layer = Linear(40, 24)
    x = torch.randn(40, 6, 9).permute(1, 2, 0)[::2]  # neither contiguous nor dense
    torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias))
    torch.testing.assert_close(
        linear(x[0].T.contiguous().T, layer.weight), x[0] @ layer.weight.T, rtol=1e-5, atol=1e-6
    )
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype is torch.bfloat16
    frozen = Linear(40, 24).requires_grad_(False)
    assert not frozen(x).requires_grad


def test_networks_have_the_parameters_that_torch_s_modules_draw() -> None:
    torch.manual_seed(6)
    encoder = AudioNTT2020(dim=32)
    torch.manual_seed(6)
    for name, each in encoder.named_modules():
        if isinstance(each, nn.Conv2d):
            kind: nn.Module = nn.Conv2d(each.in_channels, 64, 3, padding=1)
        elif isinstance(each, nn.Linear):
            kind = nn.Linear(each.in_features, each.out_features)
        else:
            continue
        assert torch.equal(encoder.get_parameter(f"{name}.weight"), kind.weight), name
