"""Triton's kernels, used where they serve and until one of them fails."""

import contextlib
import functools
import sys
from collections.abc import Callable
from typing import TypeVar

import torch

from byola_rq.errors import first_line

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


@functools.cache
def _warn_once(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
