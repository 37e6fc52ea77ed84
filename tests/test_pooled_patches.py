"""The kernels of the first block against plain torch, by Triton's interpreter or on a GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from byola_rq import pooled_patches
from byola_rq.pooled_patches import KERNELS, pooled, products

ROOT = Path(__file__).resolve().parent.parent


def inputs(device: str, rows: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Patches, kernels, offsets, gradient; in steps, so that some outputs compared are equal."""
    generator = torch.Generator().manual_seed(rows)
    patches = torch.randn(rows, 16, generator=generator).round()
    kernels = (torch.randn(4 * 64, 16, generator=generator) * 4).round() / 8
    offsets = (torch.randn(64, generator=generator) * 4).round().repeat(4) / 4
    gradient = torch.randn(rows, 64, generator=generator).to(dtype)
    return patches.to(device), kernels.to(device), offsets.to(device), gradient.to(device)


def run_both(device: str, rows: int, dtype: torch.dtype) -> None:
    """Compare; the sums are exact in the kernels' products, so that equal stays equal."""
    patches, kernels, offsets, gradient = inputs(device, rows, dtype)
    KERNELS.device_types = set()
    y = pooled(patches, kernels, offsets, dtype)
    sums, total = products(patches, kernels, offsets, y, gradient)
    KERNELS.device_types = {device}
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


ROWS = [1, 100, 700]  # of 700 a program of the backward pass would need more than one tile
TYPES = [torch.float32, torch.bfloat16]


def test_kernels_give_what_plain_torch_gives() -> None:
    pytest.importorskip("triton")
    run = subprocess.run(
        [sys.executable, "-m", "tests.test_pooled_patches"],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == "same\n"
    assert run.stderr == ""


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("rows", [1, 1000, 100_000])
def test_kernels_give_what_plain_torch_gives_on_a_gpu(
    rows: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(KERNELS, "device_types", {"cuda"})
    run_both("cuda", rows, dtype)


def test_a_kernel_that_fails_says_so_once_and_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    patches, kernels, offsets, gradient = inputs("cpu", 50, torch.float32)
    y = pooled(patches, kernels, offsets, torch.float32)
    expected = products(patches, kernels, offsets, y, gradient)
    # Without its interpreter Triton refuses tensors that lie on a CPU.
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


if __name__ == "__main__":
    from byola_rq import block_kernel

    block_kernel._PROGRAMS = 4
    for number in ROWS:
        for kind in TYPES:
            run_both("cpu", number, kind)
    print("same")
