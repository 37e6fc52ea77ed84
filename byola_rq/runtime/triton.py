"""Triton's kernels, used where they serve and until one of them fails."""

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
    """The kernels of one task, beside a plain path that gives the same.

    Args:
        task: What they do, for the line that says they cannot be used.

    Attributes:
        device_types: Types of device that they are used on; Triton's interpreter, which is for
            tests, would also take `cpu`.
        have_failed: Whether one did, and none is tried again.
    """

    def __init__(self, task: str) -> None:
        self.device_types = {"cuda"}
        self.have_failed = False
        self._task = task

    def serve(self, device: torch.device) -> bool:
        """Whether to try them on a device."""
        return device.type in self.device_types and not self.have_failed

    def run(self, device: torch.device, launch: Callable[[], Result]) -> Result | None:
        """What `launch` gives; None where it failed, which a line on stderr says once."""
        is_cuda = device.type == "cuda"
        try:
            # Triton launches on the current device, whatever the tensors' is.
            with torch.cuda.device(device) if is_cuda else contextlib.nullcontext():
                return launch()
        # Whatever a compiler or a driver raises, the plain path gives the same.
        except Exception as error:
            self.have_failed = True
            self.decline(first_line(error))
            return None

    def decline(self, reason: str) -> None:
        """Say, once for each reason, that the plain path is taken."""
        _warn_once(
            f"warning: the kernels {self._task} cannot be used ({reason}); "
            "the slower plain path gives the same"
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
    """`kernel[grid](*tensors, *constants, **options)`, found anew only for new constants.

    What Triton does to find a compiled kernel takes as long as dozens of torch's operations. Within
    `Kernels.run`, so that the tensors' device is the current one.

    Args:
        kernel: A function of Triton's.
        grid: Programs.
        tensors: The kernel's first arguments, the first of them not None.
        constants: All others, hashable.
        options: How it is compiled, which `constants` decide.
    """
    first = tensors[0]
    assert first is not None
    # All that a kernel is compiled for; Triton looks at whether addresses are multiples of 16.
    seen = [None if each is None else (each.dtype, each.data_ptr() % 16) for each in tensors]
    key = (kernel, grid, first.device, constants, *seen)
    if launcher := _launchers.get(key):
        launcher(*tensors, *constants)
        return
    compiled = kernel[grid](*tensors, *constants, **options)
    if compiled is not None:  # as the interpreter's is
        if len(_launchers) >= _MOST_LAUNCHERS:
            _launchers.clear()
        _launchers[key] = compiled[grid]


@functools.cache
def _warn_once(line: str) -> None:
    warn(line)
