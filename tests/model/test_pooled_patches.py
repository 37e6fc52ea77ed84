"""The kernels of the first block against plain torch, by Triton's interpreter or on a GPU."""

import sys

import pytest
import torch
from torch import Tensor

from byola_rq.model import pooled_patches
from byola_rq.model.pooled_patches import KERNELS, pooled, products

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Of the largest number a program of the backward pass needs more than one tile.
ROWS = [1, 1000, 100_000] if DEVICE == "cuda" else [1, 100, 700]


def inputs(device: str, rows: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Patches, kernels, offsets, gradient; in steps, so that some outputs compared are equal."""
    generator = torch.Generator().manual_seed(rows)
    patches = torch.randn(rows, 16, generator=generator).round()
    kernels = (torch.randn(4 * 64, 16, generator=generator) * 4).round() / 8
    offsets = (torch.randn(64, generator=generator) * 4).round().repeat(4) / 4
    gradient = torch.randn(rows, 64, generator=generator).to(dtype)
    return patches.to(device), kernels.to(device), offsets.to(device), gradient.to(device)


def run_both(device: str, rows: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare; the sums are exact in the kernels' products, so that equal stays equal."""
    patches, kernels, offsets, gradient = inputs(device, rows, dtype)
    monkeypatch.setattr(KERNELS, "device_types", set())
    y = pooled(patches, kernels, offsets, dtype)
    sums, total = products(patches, kernels, offsets, y, gradient)
    monkeypatch.setattr(KERNELS, "device_types", {device})
    found = pooled(patches, kernels, offsets, dtype)
    found_sums, found_total = products(patches, kernels, offsets, y, gradient)
    assert not KERNELS.have_failed
    assert torch.equal(found, y)
    tolerance = 1e-5 if dtype is torch.float32 or device == "cpu" else 2e-3
    scale = rows**0.5
    torch.testing.assert_close(found_sums, sums, rtol=0, atol=tolerance * scale * 4)
    torch.testing.assert_close(found_total, total, rtol=0, atol=tolerance * scale * 4)
    patches[rows // 2, 3] = torch.nan
    assert pooled(patches, kernels, offsets, dtype)[rows // 2].isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", ROWS)
def test_kernels_give_what_plain_torch_gives(
    rows: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    block_kernel = pytest.importorskip("byola_rq.model.block_kernel")
    if DEVICE == "cpu":
        monkeypatch.setattr(block_kernel, "_PROGRAMS", 4)
    run_both(DEVICE, rows, dtype, monkeypatch)


def test_a_kernel_that_fails_says_so_once_and_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    patches, kernels, offsets, gradient = inputs("cpu", 50, torch.float32)
    y = pooled(patches, kernels, offsets, torch.float32)
    expected = products(patches, kernels, offsets, y, gradient)
    monkeypatch.setitem(sys.modules, "byola_rq.model.block_kernel", None)
    monkeypatch.delattr("byola_rq.model.block_kernel", raising=False)
    monkeypatch.setattr(KERNELS, "device_types", {"cpu"})
    monkeypatch.setattr(KERNELS, "have_failed", False)
    for _ in range(2):
        assert torch.equal(pooled(patches, kernels, offsets, torch.float32), y)
        for found, each in zip(
            products(patches, kernels, offsets, y, gradient), expected, strict=True
        ):
            assert torch.equal(found, each)
    assert KERNELS.have_failed
    assert capfd.readouterr().err.count("\n") == 1


def test_parts_of_a_batch_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    patches, kernels, offsets, gradient = inputs("cpu", 300, torch.float32)
    y = pooled(patches, kernels, offsets, torch.float32)
    sums, total = products(patches, kernels, offsets, y, gradient)
    monkeypatch.setattr(pooled_patches, "_ROWS", 64)
    torch.testing.assert_close(pooled(patches, kernels, offsets, torch.float32), y)
    of_parts, total_of_parts = products(patches, kernels, offsets, y, gradient)
    torch.testing.assert_close(of_parts, sums, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(total_of_parts, total, rtol=1e-5, atol=1e-4)
