"""The fused kernel against the two augmentations: on a GPU, or else in Triton's interpreter."""

import itertools
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from byola_rq import RandomizedQuantization, RandomResizedCrop
from byola_rq.augment.fused_views import FusedViews
from byola_rq.augment.views import Views
from byola_rq.runtime import triton as kernels
from byola_rq.runtime.rng import draw_keys, fold_in

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CROP, QUANTIZATION = "random_resized_crop", "randomized_quantization"


pytest.importorskip("triton")


def draw_input(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def keys_of(num: int, seed: int = 0) -> Tensor:
    return draw_keys(num, DEVICE, torch.Generator().manual_seed(seed))


def fused_views(crop: RandomResizedCrop, quantization: RandomizedQuantization) -> FusedViews:
    fused = FusedViews(crop, quantization)
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


@pytest.mark.parametrize("post_norm", [True, False])
def test_views_choose_the_kernel(post_norm: bool) -> None:
    x, key = draw_input(2, 1, 8, 12), keys_of(2)
    views = Views({CROP: {}, QUANTIZATION: {}}, post_norm=post_norm)
    plain = Views({CROP: {}, QUANTIZATION: {}}, post_norm=post_norm)
    assert views.fused is not None
    assert plain.fused is not None
    views.fused.kernels.device_types, plain.fused.kernels.device_types = {DEVICE.type}, set()
    assert views.fused(x, key) is not None
    for made, expected in zip(views(x, key), plain(x, key), strict=True):
        assert not made.requires_grad
        # A crop's last bit may put an element that lies on an edge into the next bin.
        differing = (made - expected).abs() > 1e-5
        assert differing.double().mean() < 0.02


@pytest.mark.parametrize(
    ("names", "is_fused"),
    [
        ((CROP, QUANTIZATION), True),
        ((QUANTIZATION, CROP), False),
        ((CROP,), False),
        (("mixup", CROP, QUANTIZATION), False),
        ((CROP, QUANTIZATION, "random_linear_fader"), False),
        ((), False),
    ],
)
def test_other_chains_take_the_plain_path(names: tuple[str, ...], is_fused: bool) -> None:
    assert (Views({name: {} for name in names}, post_norm=False).fused is not None) == is_fused


@pytest.mark.parametrize(
    ("x", "options", "says"),
    [
        (torch.randn(2, 1, 8, 9, dtype=torch.float64), {}, "float32; got float64"),
        (torch.randn(2, 1, 8, 9, dtype=torch.bfloat16), {}, "float32; got bfloat16"),
        (torch.randn(2, 2, 8, 9), {}, "(B, 1, F, T); got (2, 2, 8, 9)"),
        (torch.randn(2, 8, 9), {}, "(B, 1, F, T); got (2, 8, 9)"),
        (torch.randn(2, 1, 8, 9, requires_grad=True), {}, "a gradient"),
        (torch.randn(2, 1, 8, 9), {"num_bins": 65}, "num_bins at most 64"),
        (torch.randn(2, 1, 8, 9), {"channel_dim": -1}, "channel_dim must be -2"),
        (torch.randn(1, 1, 300, 300), {"per": "instance"}, "300 x 300 are too large"),
        (torch.randn(1, 1, 2, 20_000), {}, "2 x 20000 are too large"),
    ],
)
def test_other_inputs_take_the_plain_path(
    x: Tensor, options: dict[str, Any], says: str, capfd: pytest.CaptureFixture[str]
) -> None:
    x, key = x.to(DEVICE), keys_of(len(x))
    views = Views({CROP: {}, QUANTIZATION: options}, post_norm=False)
    assert views.fused is not None
    views.fused.kernels.device_types = {DEVICE.type}
    kernels._warn_once.cache_clear()
    assert views.fused(x, key) is None
    crop, quantization = RandomResizedCrop(), RandomizedQuantization(**options)
    for number, view in enumerate(views(x, key), start=1):
        view_key = fold_in(key, number)
        cropped = crop(x, fold_in(view_key, CROP))
        assert torch.equal(view, quantization(cropped, fold_in(view_key, QUANTIZATION)))
    (line,) = capfd.readouterr().err.splitlines()  # for three calls
    assert line.startswith("warning: the kernels that make both views cannot be used (")
    assert says in line


def test_nothing_flows_back() -> None:
    x = draw_input(2, 1, 4, 8).requires_grad_()
    fused = fused_views(RandomResizedCrop(), RandomizedQuantization())
    with torch.no_grad():
        made = fused(x, keys_of(2))
    assert made is not None
    assert not made.requires_grad


def test_not_on_a_cpu_by_itself() -> None:
    views = Views({CROP: {}, QUANTIZATION: {}}, post_norm=False)
    assert views.fused is not None
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
