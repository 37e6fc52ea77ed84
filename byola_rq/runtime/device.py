"""Choice of device and precision, and tests of what the device supports."""

import contextlib
import functools
import re
from collections.abc import Callable, Iterator
from typing import Literal, ParamSpec, TypeVar

import torch
from torch._compile import _disable_dynamo

from byola_rq.errors import ConfigError, first_line
from byola_rq.runtime.distributed import is_launched, local_rank
from byola_rq.runtime.terminal import warn

P = ParamSpec("P")
T = TypeVar("T")

Precision = Literal["float32", "tf32", "bfloat16"]

BFLOAT16_CPUS = ("avx512_bf16", "amx_bf16")  # instruction sets; other CPUs were not measured


def choose_device(name: str, *, key: str = "run.device") -> torch.device:
    """Return the named device; `auto` is a GPU if there is one, under torchrun one per process.

    Args:
        name: `auto`, `cpu`, `cuda`, `cuda:N`, or `mps`.
        key: Option that names the device, for messages.

    Raises:
        ConfigError: If the name is unknown, the device does not exist, or one GPU is named for
            several processes.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    # torch stores the index in a byte: cuda:256 would be cuda:0.
    if not re.fullmatch(r"cpu|cuda(:[0-9]{1,2})?|mps", name):
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
            f"{key}: {device} does not exist; torch {torch.__version__} sees "
            f"{torch.cuda.device_count()} CUDA devices (see `byola-rq doctor`)"
        )
        raise ConfigError(message, code="missing", key=key, value=str(device))
    if device.type == "mps" and not torch.backends.mps.is_available():
        message = f"{key}: torch {torch.__version__} has no mps here; it needs an Apple GPU"
        raise ConfigError(message, code="missing", key=key, value=name)
    return device


def choose_precision(name: Precision | Literal["auto"], device: torch.device) -> Precision:
    """Return the named precision; `auto` is bfloat16 if the hardware supports it, else float32.

    Raises:
        ConfigError: If it is tf32 and the device is not a CUDA GPU.
    """
    if name == "auto":
        return "bfloat16" if _multiplies_bfloat16(device) else "float32"
    if name == "tf32" and device.type != "cuda":
        message = f"run.precision: tf32 needs a CUDA device; got {device.type}"
        raise ConfigError(message, code="unsupported", key="run.precision", value=name)
    return name


def _multiplies_bfloat16(device: torch.device) -> bool:
    """Return whether the hardware multiplies bfloat16; emulation is slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):  # an older torch
        return False
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in BFLOAT16_CPUS)


@contextlib.contextmanager
def float32_products(precision: Precision = "float32") -> Iterator[None]:
    """Multiply float32 on a GPU in full precision within this context, or in TF32 with `tf32`.

    By default torch uses TF32 for convolutions but not for matrix products. bfloat16 is unaffected.
    """
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32
    cudnn.allow_tf32 = matmul.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = before


def can_compile(device: torch.device) -> bool:
    """Return whether torch.compile works, tried on a small function; print a warning if not."""
    try:
        torch.compile(lambda x: x.relu() + 1)(torch.ones(8, device=device))
    # Compilers raise anything; the networks run without it.
    except Exception as error:
        warn(
            f"warning: train.compile: torch.compile does not work here ({first_line(error)}); "
            "the networks run uncompiled"
        )
        return False
    return True


def uncompiled(function: Callable[P, T]) -> Callable[P, T]:
    """Decorate a function that a compiled network calls as it is.

    Same as `torch.compiler.disable`, which imports the compiler: half the start of a command.
    """
    as_it_is = _disable_dynamo(function)  # imports it when first called

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        return (as_it_is if torch.compiler.is_compiling() else function)(*args, **kwargs)

    return call
