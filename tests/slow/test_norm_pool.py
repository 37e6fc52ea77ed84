"""Batch norm, pooling and ReLU in kernels against torch's modules, interpreted or on a GPU."""

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from byola_rq.model import norm_pool
from byola_rq.model.norm_pool import KERNELS, convolve_norm_pool
from byola_rq.runtime.device import float32_products

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPES = [(2, 2, 2), (3, 6, 10), (2, 32, 48)] if DEVICE == "cpu" else [(2, 2, 2), (64, 32, 48)]
# Triton's interpreter cuts the bits that bfloat16 lacks instead of rounding: twice the error.
FACTOR = 2.2 if DEVICE == "cpu" else 1.1


def block(level: float = 0.0) -> nn.Sequential:
    """A block with batch norms of either sign, on the device, channels last."""
    torch.manual_seed(0)
    convolution, norm = nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64)
    with torch.no_grad():
        norm.weight.uniform_(-1, 1)
        norm.bias.uniform_(-1, 1)
        convolution.bias.add_(level)
    layers = nn.Sequential(convolution, norm, nn.MaxPool2d(2), nn.ReLU())
    return layers.to(DEVICE).to(memory_format=torch.channels_last)


def features(shape: tuple[int, int, int], level: float = 0.0) -> Tensor:
    batch, height, width = shape
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, 64, height, width, generator=generator) + level
    return x.to(DEVICE, memory_format=torch.channels_last).requires_grad_()


def backward(layers: nn.Sequential, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    towards = torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).to(y)
    (y * towards).sum().backward()
    assert x.grad is not None
    return {"x": x.grad, **{name: each.grad for name, each in layers.named_parameters()}}


@pytest.fixture(autouse=True)
def kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    pytest.importorskip("byola_rq.model.norm_pool_kernel")
    monkeypatch.setattr(KERNELS, "device_types", {DEVICE})
    if DEVICE == "cpu":  # several tiles for each program, interpreted in seconds
        monkeypatch.setattr("byola_rq.model.norm_pool_kernel.PROGRAMS", 3)
    with float32_products():  # of the convolution before them
        yield


@pytest.mark.parametrize("level", [0.0, 30.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_training_is_that_of_the_modules(shape: tuple[int, int, int], level: float) -> None:
    own = block()
    exact = copy.deepcopy(own).double()
    modules = copy.deepcopy(own)
    inputs = [features(shape, level) for _ in range(2)]
    in_float64 = inputs[0].detach().double().requires_grad_()
    y = convolve_norm_pool(own[0], own[1], inputs[0])
    assert y is not None
    expected, truth = modules(inputs[1]), exact(in_float64)
    assert y.is_contiguous(memory_format=torch.channels_last)

    def distance(values: Tensor, true: Tensor) -> float:
        return (values.double() - true).abs().max().item()

    # No further from float64 than torch's own modules are, up to a factor.
    assert distance(y, truth) <= 4 * distance(expected, truth) + 1e-6
    found, theirs = backward(own, inputs[0], y), backward(modules, inputs[1], expected)
    for name, true in backward(exact, in_float64, truth).items():
        if name == "0.bias":
            assert not found[name].any()  # torch's own is rounding
            continue
        scale = true.abs().max().item()
        assert distance(found[name], true) <= 4 * distance(theirs[name], true) + 1e-6 * scale, name
    for name, true in exact.named_buffers():
        torch.testing.assert_close(
            own.get_buffer(name).double(), true.double(), rtol=1e-5, atol=1e-5, msg=name
        )


def test_bfloat16_is_as_near_to_float64_as_the_modules_are() -> None:
    own = block()
    modules, exact = copy.deepcopy(own), copy.deepcopy(own).double()
    inputs = [features(SHAPES[-1]) for _ in range(2)]
    in_float64 = inputs[0].detach().double().requires_grad_()
    with torch.autocast(DEVICE, torch.bfloat16):
        y, expected = convolve_norm_pool(own[0], own[1], inputs[0]), modules(inputs[1])
    assert y is not None
    assert y.dtype is torch.bfloat16
    truth = exact(in_float64)
    assert (y.double() - truth).norm() <= FACTOR * (expected.double() - truth).norm()
    found, theirs = backward(own, inputs[0], y), backward(modules, inputs[1], expected)
    for name, true in backward(exact, in_float64, truth).items():
        if name != "0.bias":
            distance = (found[name].double() - true).norm()
            assert distance <= FACTOR * (theirs[name].double() - true).norm(), name


def test_what_is_not_a_number_stays_so() -> None:
    own = block()
    x = features(SHAPES[0]).detach()
    x[0, 0, 0, 0] = torch.nan
    y = convolve_norm_pool(own[0], own[1], x)
    assert y is not None
    assert y.isnan().all()  # by way of the statistics


@pytest.mark.parametrize("case", ["odd", "eval", "float64", "grouped", "synchronized"])
def test_what_the_kernels_do_not_take_is_left_to_the_modules(case: str) -> None:
    own, x = block(), features(SHAPES[0])
    if case == "odd":
        x = features((2, 3, 4))
    elif case == "eval":
        own.eval()
    elif case == "float64":
        own, x = own.double(), x.detach().double()
    elif case == "grouped":
        own = nn.Sequential(nn.Conv2d(64, 24, 3, padding=1), nn.BatchNorm2d(24)).to(DEVICE)
    else:
        own[1] = nn.SyncBatchNorm.convert_sync_batchnorm(own[1])
    before = {name: each.clone() for name, each in own.named_buffers()}
    assert norm_pool.convolve_norm_pool(own[0], own[1], x) is None
    for name, each in own.named_buffers():
        assert torch.equal(each, before[name]), name
