"""Which device computes, in which precision, and what it can do."""

import contextlib
import re
from collections.abc import Iterator
from typing import Literal

import torch

from byola_rq.errors import ConfigError, first_line
from byola_rq.runtime.distributed import is_launched, local_rank
from byola_rq.runtime.terminal import warn

Precision = Literal["float32", "tf32", "bfloat16"]

BFLOAT16_CPUS = ("avx512_bf16", "amx_bf16")  # instructions; on other CPUs it is not measured


def choose_device(name: str, *, key: str = "run.device") -> torch.device:
    """The device named; `auto` is a GPU where there is one, under torchrun each process' own.

    Args:
        name: `auto`, `cpu`, `cuda`, `cuda:N`, or `mps`.
        key: Of the option that names it, for messages.

    Raises:
        ConfigError: If it is another one or not there, or a single GPU is named for several
            processes.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?|mps", name):
        message = f"{key}: must be auto, cpu, cuda, cuda:N or mps; got {name}"
        raise ConfigError(message, code="unknown", key=key, value=name)
    device = torch.device(name)
    if is_launched() and device.type == "cuda":
        if device.index is not None:
            message = (
                f"{key} must be auto, cpu or cuda for several processes; got {name}. "
                "CUDA_VISIBLE_DEVICES chooses among GPUs"
            )
            raise ConfigError(message, code="unsupported", key=key, value=name)
        device = torch.device("cuda", local_rank())
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        message = (
            f"{key}: {device} is not here; torch {torch.__version__} sees "
            f"{torch.cuda.device_count()} CUDA devices (`byola-rq doctor` says more)"
        )
        raise ConfigError(message, code="missing", key=key, value=str(device))
    if device.type == "mps" and not torch.backends.mps.is_available():
        message = f"{key}: mps is not here, says torch {torch.__version__}; it is of Apple's GPUs"
        raise ConfigError(message, code="missing", key=key, value=name)
    return device


def choose_precision(name: Precision | Literal["auto"], device: torch.device) -> Precision:
    """The precision named; `auto` is bfloat16 where the device itself multiplies it, else float32.

    Raises:
        ConfigError: If it is tf32, which CUDA GPUs alone have, and the device is another.
    """
    if name == "auto":
        return "bfloat16" if _multiplies_bfloat16(device) else "float32"
    if name == "tf32" and device.type != "cuda":
        message = f"run.precision: tf32 needs a CUDA device; got {device.type}"
        raise ConfigError(message, code="unsupported", key="run.precision", value=name)
    return name


def _multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the device itself does; emulated, it would be slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):  # of an older torch
        return False
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in BFLOAT16_CPUS)


@contextlib.contextmanager
def float32_products(precision: Precision = "float32") -> Iterator[None]:
    """Let a GPU multiply float32 in full, or with `tf32` in ten bits of it, within this context.

    Of torch's own accord convolutions take TF32, and matrix products do not. What runs in bfloat16
    is not touched.
    """
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32
    cudnn.allow_tf32 = matmul.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = before


def can_compile(device: torch.device) -> bool:
    """Whether torch.compile works here, tried on a small function; if not, a line says why."""
    try:
        torch.compile(lambda x: x.relu() + 1)(torch.ones(8, device=device))
    # Whatever a compiler raises: the networks run without it.
    except Exception as error:
        warn(
            f"warning: train.compile: torch.compile does not work here ({first_line(error)}); "
            "the networks run as they are"
        )
        return False
    return True
