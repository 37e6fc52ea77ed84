"""The kernel against the augmentations' plain path: on a GPU, or else in Triton's interpreter."""

import itertools
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from byola_rq import Mixup, RandomizedQuantization, RandomLinearFader, RandomResizedCrop
from byola_rq.augment.base import Augmentation
from byola_rq.augment.fused_views import FusedViews
from byola_rq.augment.quantize_along import QuantizeAlong
from byola_rq.augment.views import Views
from byola_rq.runtime import triton as kernels
from byola_rq.runtime.rng import draw_keys, fold_in

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CROP, QUANTIZATION = "random_resized_crop", "randomized_quantization"
GENERAL: dict[str, dict[str, Any]] = {
    "mixup": {"memory": 5}, CROP: {}, "random_linear_fader": {}, QUANTIZATION: {}
}  # fmt: skip

pytest.importorskip("triton")


def draw_input(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def keys_of(num: int, seed: int = 0) -> Tensor:
    return draw_keys(num, DEVICE, torch.Generator().manual_seed(seed))


def fused_views(crop: RandomResizedCrop, quantization: RandomizedQuantization) -> FusedViews:
    fused = FusedViews({CROP: crop, QUANTIZATION: quantization})
    fused.kernels.device_types = {DEVICE.type}
    return fused


def check_views(x: Tensor, key: Tensor, options: dict[str, Any], **crop_options: Any) -> None:
    """Fused crops equal the plain ones to 1e-5; quantized, they are the fused views to the bit."""
    crop, quantization = RandomResizedCrop(**crop_options), RandomizedQuantization(**options)
    made = fused_views(crop, quantization)(x, key)
    crops = fused_views(crop, RandomizedQuantization(p=0.0))(x, key)
    assert made is not None
    assert crops is not None
    assert made.shape == (2, *x.shape)
    for view in (1, 2):
        view_key = fold_in(key, view)
        cropped = crop(x, fold_in(view_key, CROP))
        torch.testing.assert_close(crops[view - 1], cropped, atol=1e-5, rtol=1e-6)
        # Edges and values are drawn from the range of what is quantized: with the same numbers
        # in, any other random bit would show.
        expected = quantization(crops[view - 1], fold_in(view_key, QUANTIZATION))
        assert torch.equal(made[view - 1], expected)


@pytest.mark.parametrize(
    ("bins", "values", "per"),
    list(itertools.product(("random", "uniform"), ("random", "midpoint"), ("channel", "instance"))),
)
def test_equals_the_two_augmentations(bins: str, values: str, per: str) -> None:
    options = {"bins": bins, "values": values, "per": per}
    check_views(draw_input(2, 1, 9, 14), keys_of(2), {"num_bins": 5, **options})


@pytest.mark.parametrize("num_bins", [1, 2, 3, 8, 9, 30, 64])
def test_any_number_of_bins(num_bins: int) -> None:
    check_views(draw_input(1, 1, 6, 20), keys_of(1, num_bins), {"num_bins": num_bins})


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 1, 1, 9), (1, 1, 5, 1), (1, 1, 40, 95)])
@pytest.mark.parametrize("per", ["channel", "instance"])
def test_any_size(shape: tuple[int, ...], per: str) -> None:
    check_views(draw_input(*shape), keys_of(shape[0]), {"per": per})


def test_the_recipe() -> None:
    check_views(draw_input(1, 1, 64, 96) * 3 - 1, keys_of(1, 5), {})


@pytest.mark.parametrize("seed", range(4))
def test_keys_and_boxes(seed: int) -> None:
    scales: list[dict[str, Any]] = [
        {},
        {"canvas": (1.25, 2.0)},
        {"canvas": (1.0, 1.0), "freq_scale": (0.1, 0.3)},
        {"freq_scale": (1, 1), "time_scale": (1, 1), "canvas": (1, 1)},
    ]
    check_views(draw_input(1, 1, 8, 16, seed=seed), keys_of(1, seed), {}, **scales[seed])


def test_probability_chooses_the_same_samples() -> None:
    x, key = draw_input(4, 1, 2, 4), keys_of(4, 1)
    check_views(x, key, {"p": 0.5})
    made = fused_views(RandomResizedCrop(), RandomizedQuantization(p=0.5))(x, key)
    crops = fused_views(RandomResizedCrop(), RandomizedQuantization(p=0.0))(x, key)
    assert made is not None
    assert crops is not None
    is_same = torch.eq(made, crops).flatten(2).all(dim=2)
    assert is_same.any()
    assert not is_same.all()


def test_strides_of_input_and_keys_do_not_matter() -> None:
    fused = fused_views(RandomResizedCrop(), RandomizedQuantization())
    x, key = draw_input(3, 1, 16, 8)[::2].transpose(-1, -2), keys_of(4)[::2]
    expected = fused(x.contiguous(), key.contiguous())
    made = fused(x, key)
    assert made is not None
    assert expected is not None
    assert torch.equal(made, expected)
    check_views(draw_input(1, 1, 8, 9)[:, :, ::2, 1:], keys_of(1), {})


def views_of(chain: dict[str, dict[str, Any]], *, fused: bool) -> Views:
    views = Views(chain, post_norm=False)
    views.fused.kernels.device_types = {DEVICE.type} if fused else set()
    return views


def check_alike(made: Tensor, expected: Tensor) -> None:
    # A crop's last bit may put an element that lies on an edge into the next bin.
    assert made.shape == expected.shape
    differing = (made - expected).abs() > 1e-5
    assert differing.double().mean() < 0.02


@pytest.mark.parametrize(
    "names",
    [
        (CROP, QUANTIZATION),
        (QUANTIZATION,),
        ("mixup",),
        ("mixup", CROP),
        ("mixup", QUANTIZATION),
        (CROP, "random_linear_fader"),
        ("mixup", CROP, "random_linear_fader", QUANTIZATION),
    ],
)
def test_a_chain_is_one_kernel(names: tuple[str, ...]) -> None:
    chain = {name: GENERAL[name] for name in names}
    views, plain = views_of(chain, fused=True), views_of(chain, fused=False)
    for step in range(4):  # mixup's ring of five: empty, in part, full, over its end
        x, key = draw_input(3, 1, 8, 12, seed=step), keys_of(3, step)
        assert views.fused(x, key) is not None
        for made, expected in zip(views(x, key), plain(x, key), strict=True):
            assert not made.requires_grad
            check_alike(made, expected)
    for name, state in views.state_dict().items():
        assert torch.equal(state, plain.state_dict()[name])


def test_another_order_takes_a_kernel_for_each(capfd: pytest.CaptureFixture[str]) -> None:
    kernels._warn_once.cache_clear()
    chain: dict[str, dict[str, Any]] = {QUANTIZATION: {}, "random_linear_fader": {}, CROP: {}}
    views, plain = views_of(chain, fused=True), views_of(chain, fused=False)
    x, key = draw_input(2, 1, 8, 12), keys_of(2)
    for made, expected in zip(views(x, key), plain(x, key), strict=True):
        torch.testing.assert_close(made, expected, atol=1e-5, rtol=1e-6)
    assert not views.fused.kernels.have_failed
    (line,) = capfd.readouterr().err.splitlines()
    assert f"got {', '.join(chain)})" in line


def alone(augmentation: Augmentation[Any], x: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Return the results of an augmentation's kernel and of its plain path."""
    augmentation.remember(x.flip(0))
    augmentation.kernels.device_types = {DEVICE.type}
    kernel_calls = []
    run = augmentation.kernels.run

    def counted(device: torch.device, launch: Any) -> Any:
        kernel_calls.append(run(device, launch))
        return kernel_calls[-1]

    augmentation.kernels.run = counted  # type: ignore[method-assign]
    made = augmentation.augment(x, key)
    assert len(kernel_calls) == 1
    assert kernel_calls[0] is not None
    augmentation.kernels.device_types = set()
    expected = augmentation.augment(x, key)
    assert len(kernel_calls) == 1
    assert made.dtype == expected.dtype == x.dtype
    assert made.stride() == expected.stride()
    return made, expected


@pytest.mark.parametrize("shape", [(3, 1, 8, 12), (2, 9, 14), (3, 2, 5, 7), (1, 1, 1, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_alone_each_is_one_kernel(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, key = draw_input(*shape).to(dtype), keys_of(shape[0])
    # Logarithm, exponential and the order of a sum round; half precision rounds the results once
    # more, where a step of its own may lie in between.
    tolerance = {"atol": 1e-5, "rtol": float(torch.finfo(dtype).eps)}
    for augmentation in (Mixup(memory=4), RandomResizedCrop(), RandomLinearFader()):
        torch.testing.assert_close(*alone(augmentation, x, key), **tolerance)


@pytest.mark.parametrize("per", ["channel", "instance"])
@pytest.mark.parametrize("channel_dim", [1, 2, -1, -2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_quantization_alone_is_the_same_to_the_bit(
    per: str, channel_dim: int, dtype: torch.dtype
) -> None:
    x, key = draw_input(3, 2, 5, 7).to(dtype)[..., ::2], keys_of(3)
    for options in ({}, {"p": 0.5}, {"bins": "uniform", "values": "midpoint"}):
        quantization = RandomizedQuantization(4, per=per, channel_dim=channel_dim, **options)  # type: ignore[arg-type]
        made, expected = alone(quantization, x, key)
        assert torch.equal(made, expected)


def test_called_alone_it_checks_and_falls_back() -> None:
    quantize = QuantizeAlong(8, channel_dim=-3, sample_ndim=3)
    quantize.quantization.kernels.device_types = {DEVICE.type}
    x, key = draw_input(2, 3, 4, 4), keys_of(2)
    made = quantize(x, key)
    assert torch.equal(made, QuantizeAlong(8, channel_dim=-3, sample_ndim=3)(x, key))
    for other in (x.double(), x.clone().requires_grad_()):
        kept = quantize(other, key)
        assert kept.requires_grad == other.requires_grad
        torch.testing.assert_close(kept.to(made.dtype), made, atol=1e-5, rtol=0)
    x[1, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="1 of its 96"):
        quantize(x, key)
    assert not quantize.quantization.kernels.have_failed


@pytest.mark.gpu
def test_bfloat16_rounds_once() -> None:
    x, key = draw_input(64, 1, 64, 96).bfloat16(), keys_of(64)
    made, expected = alone(RandomizedQuantization(p=0.5), x, key)
    assert torch.equal(made, expected)
    tolerance = {"atol": 1e-5, "rtol": torch.finfo(torch.bfloat16).eps}
    for augmentation in (Mixup(memory=40), RandomResizedCrop(), RandomLinearFader()):
        torch.testing.assert_close(*alone(augmentation, x, key), **tolerance)


@pytest.mark.gpu
@pytest.mark.parametrize("fused", [True, False])
def test_a_cuda_graph_replays_the_chain(fused: bool) -> None:
    views, eager = views_of(GENERAL, fused=fused), views_of(GENERAL, fused=fused)
    x, key = draw_input(3, 1, 64, 96), keys_of(3)
    with torch.no_grad():
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            views(x, key)  # compiles, and sizes the ring
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = views(x, key)
        eager(x, key)
        for step in range(5):
            x.copy_(draw_input(3, 1, 64, 96, seed=step))
            key.copy_(keys_of(3, step))
            graph.replay()
            for made, expected in zip(captured, eager(x, key), strict=True):
                assert torch.equal(made, expected)
    assert views.augmentations["mixup"].num_seen == 18
    for name, state in views.state_dict().items():
        assert torch.equal(state, eager.state_dict()[name])


@pytest.mark.gpu
def test_a_call_waits_once_and_a_chain_never() -> None:
    x, key = draw_input(8, 1, 64, 96), keys_of(8)
    chain, quantization = views_of(GENERAL, fused=True), RandomizedQuantization()
    chain(x, key)
    quantization(x, key)
    torch.cuda.set_sync_debug_mode("error")
    try:
        chain(x, key)
        quantization.augment(x, key)
        with pytest.raises(RuntimeError, match="synchroniz"):
            quantization(x, key)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(
    ("x", "options", "says"),
    [
        (torch.randn(2, 1, 8, 9, dtype=torch.float64), {}, "float32; got float64"),
        (torch.randn(2, 1, 8, 9, dtype=torch.bfloat16), {}, "float32; got bfloat16"),
        (torch.randn(2, 2, 8, 9), {}, "(B, 1, F, T); got (2, 2, 8, 9)"),
        (torch.randn(2, 8, 9), {}, "(B, 1, F, T); got (2, 8, 9)"),
        (torch.randn(2, 1, 8, 9, requires_grad=True), {}, "a gradient"),
        (torch.randn(2, 1, 8, 9), {"num_bins": 65}, "num_bins must be at most 64"),
        (torch.randn(2, 1, 8, 9), {"channel_dim": -1}, "channel_dim must be -2"),
        (torch.randn(1, 1, 130, 130), {"per": "instance"}, "130 x 130 are too large"),
        (torch.randn(1, 1, 2, 20_000), {}, "2 x 20000 are too large"),
    ],
)
def test_other_inputs_take_the_plain_path(
    x: Tensor, options: dict[str, Any], says: str, capfd: pytest.CaptureFixture[str]
) -> None:
    x, key = x.to(DEVICE), keys_of(len(x))
    views = Views({CROP: {}, QUANTIZATION: options}, post_norm=False)
    views.fused.kernels.device_types = {DEVICE.type}
    kernels._warn_once.cache_clear()
    assert views.fused(x, key) is None
    crop, quantization = RandomResizedCrop(), RandomizedQuantization(**options)
    crop.kernels = quantization.kernels = views.fused.kernels  # each may take one of its own
    for number, view in enumerate(views(x, key), start=1):
        view_key = fold_in(key, number)
        cropped = crop(x, fold_in(view_key, CROP))
        assert torch.equal(view, quantization(cropped, fold_in(view_key, QUANTIZATION)))
    (line,) = capfd.readouterr().err.splitlines()  # for three calls
    assert line.startswith("warning: the kernels that make both views cannot be used (")
    assert says in line


@pytest.mark.parametrize("name", ["dacl", "spec_augment"])
def test_what_the_kernel_has_not_takes_the_plain_path(
    name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    x, key = draw_input(4, 1, 8, 9), keys_of(4)
    views = Views({"random_linear_fader": {}, name: {}}, post_norm=False)
    plain = views(x, key)
    views.fused.kernels.device_types = {DEVICE.type}
    kernels._warn_once.cache_clear()
    for expected, view in zip(plain, views(x, key), strict=True):
        torch.testing.assert_close(view, expected, atol=1e-5, rtol=1e-6)  # the fader's own kernel
    (line,) = capfd.readouterr().err.splitlines()
    assert name in line


def test_nothing_flows_back() -> None:
    x = draw_input(2, 1, 4, 8).requires_grad_()
    fused = fused_views(RandomResizedCrop(), RandomizedQuantization())
    with torch.no_grad():
        made = fused(x, keys_of(2))
    assert made is not None
    assert not made.requires_grad


def test_not_on_a_cpu_by_itself() -> None:
    views = Views({CROP: {}, QUANTIZATION: {}}, post_norm=False)
    assert views.fused.kernels.device_types == {"cuda"}
    assert views.fused(torch.randn(2, 1, 4, 8), torch.arange(2)) is None


FALLBACK = """
import sys
import torch
if sys.argv[1] == "missing":
    sys.modules["triton"] = None
from byola_rq.augment.views import Views
options = {"random_resized_crop": {}, "randomized_quantization": {}}
x, key = torch.randn(3, 1, 8, 12), torch.arange(3)
plain = Views(options, post_norm=True)(x, key)
assert sys.argv[1] == "missing" or "triton" not in sys.modules, "a CPU needs no Triton"
for _ in range(2):  # each with a kernel of its own
    views = Views(options, post_norm=True)
    views.fused.kernels.device_types = {"cpu"}  # where Triton, not interpreting, cannot launch
    for _ in range(2):
        assert all(torch.equal(a, b) for a, b in zip(views(x, key), plain, strict=True))
"""


@pytest.mark.parametrize(
    ("reason", "said"), [("missing", "ModuleNotFoundError"), ("failing", "Error: ")]
)
def test_falls_back_with_one_line(reason: str, said: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    ended = subprocess.run(
        [sys.executable, "-c", FALLBACK, reason],
        env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    lines = ended.stderr.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("warning: the kernels that make both views cannot be used (")
    assert said in lines[0]
