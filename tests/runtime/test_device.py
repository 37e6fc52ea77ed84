"""Devices and precisions: what is chosen, what is refused."""

from pathlib import Path

import pytest
import torch

from byola_rq.errors import ConfigError
from byola_rq.runtime.device import choose_device, choose_precision, float32_products
from tests.refusal import refused


def test_precision_is_what_the_processor_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    flags = Path("/proc/cpuinfo").read_text().split()
    # Not torch's word for it, but the kernel's.
    has_bfloat16 = not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags)
    expected = "bfloat16" if has_bfloat16 else "float32"
    assert choose_precision("auto", cpu) == expected
    assert choose_precision("float32", cpu) == "float32"
    assert choose_precision("bfloat16", cpu) == "bfloat16"
    monkeypatch.delattr("torch.cpu.get_capabilities", raising=False)  # of an older torch
    assert choose_precision("auto", cpu) == "float32"


def test_tf32_is_refused_on_a_cpu() -> None:
    with refused(ConfigError, "unsupported", key="run.precision", value="tf32"):
        choose_precision("tf32", torch.device("cpu"))


@pytest.mark.parametrize("before", [(True, False), (False, True)])
def test_tf32_is_a_choice_of_the_context_alone(before: tuple[bool, bool]) -> None:
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    of_torch = cudnn.allow_tf32, matmul.allow_tf32
    cudnn.allow_tf32, matmul.allow_tf32 = before
    try:
        with float32_products("tf32"):
            assert cudnn.allow_tf32
            assert matmul.allow_tf32
            with float32_products("bfloat16"):
                assert not cudnn.allow_tf32
                assert not matmul.allow_tf32
            assert cudnn.allow_tf32
        assert (cudnn.allow_tf32, matmul.allow_tf32) == before
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = of_torch


@pytest.mark.parametrize(
    "name", ["gpu", "GPU", "cuda:x", "cuda:256", "cpu:0:1", "tpu", "", "0", "meta"]
)
def test_a_device_of_no_known_name_is_refused(name: str) -> None:
    with refused(ConfigError, "unknown", key="--device", value=name):
        choose_device(name, key="--device")


@pytest.mark.parametrize("name", ["mps", "cuda", "cuda:99"])
def test_a_device_that_is_not_here_is_refused(name: str) -> None:
    is_here = torch.backends.mps.is_available() if name == "mps" else torch.cuda.is_available()
    if is_here and name != "cuda:99":
        assert choose_device(name).type == name
        return
    with refused(ConfigError, "missing", key="run.device"):
        choose_device(name)


def test_apples_gpus_are_taken_where_torch_has_them_and_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    device = choose_device("mps", key="--device")
    assert device.type == "mps"
    assert choose_precision("auto", device) == "float32"
    assert choose_device("auto").type in {"cpu", "cuda"}
    with refused(ConfigError, "unsupported", key="run.precision", value="tf32"):
        choose_precision("tf32", device)
