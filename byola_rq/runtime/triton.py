"""Triton kernels with a fallback if one of them fails."""

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from byola_rq.errors import first_line
from byola_rq.runtime.terminal import warn

Result = TypeVar("Result")


class Kernels:
    """Kernels of one task, with a fallback in torch that gives the same result.

    Args:
        task: Purpose of the kernels, for the warning that they cannot be used.

    Attributes:
        device_types: Types of device that they are used on; tests with Triton's interpreter add
            `cpu`.
        have_failed: True after a failure; the kernels are then not used again.
    """

    def __init__(self, task: str) -> None:
        self.device_types = {"cuda"}
        self.have_failed = False
        self._task = task

    def serve(self, device: torch.device) -> bool:
        """Return whether to use the kernels on a device."""
        return device.type in self.device_types and not self.have_failed

    def run(self, device: torch.device, launch: Callable[[], Result]) -> Result | None:
        """Call `launch` and return its result; after a failure warn once and return None."""
        is_cuda = device.type == "cuda"
        try:
            # Triton launches on the current device, not on that of the tensors.
            with torch.cuda.device(device) if is_cuda else contextlib.nullcontext():
                return launch()
        # Compilers and drivers raise anything; the fallback gives the same result.
        except Exception as error:
            self.have_failed = True
            self.decline(first_line(error))
            return None

    def decline(self, reason: str) -> None:
        """Warn, once for each reason, that the fallback is used."""
        _warn_once(
            f"warning: the kernels {self._task} cannot be used ({reason}); "
            "using the slower fallback, with the same result"
        )


_MOST_LAUNCHERS = 1024  # inputs may be of any size
_launchers: dict[tuple[Any, ...], Callable[..., object]] = {}


def launch(
    kernel: Any,
    grid: tuple[int, int, int],
    tensors: Sequence[Tensor | None],
    constants: tuple[Any, ...],
    options: dict[str, Any],
) -> None:
    """Launch `kernel[grid](*tensors, *constants, **options)`, caching the compiled kernel.

    Triton's own lookup of a compiled kernel takes as long as dozens of torch operations. Call it
    within `Kernels.run`, so that the tensors' device is the current one.

    Args:
        kernel: Triton function.
        grid: Number of programs per axis.
        tensors: First arguments of the kernel; the first one must not be None.
        constants: Other arguments, hashable.
        options: Compiler options, a function of `constants`.
    """
    first = tensors[0]
    assert first is not None
    # Everything a kernel is specialized for, including addresses that are multiples of 16.
    seen = [None if each is None else (each.dtype, each.data_ptr() % 16) for each in tensors]
    key = (kernel, grid, first.device, constants, *seen)
    if launcher := _launchers.get(key):
        launcher(*tensors, *constants)
        return
    compiled = kernel[grid](*tensors, *constants, **options)
    if compiled is not None:  # None from Triton's interpreter
        if len(_launchers) >= _MOST_LAUNCHERS:
            _launchers.clear()
        _launchers[key] = compiled[grid]


@functools.cache
def _warn_once(line: str) -> None:
    warn(line)
