"""Threads of this process' computing on the CPU."""

import contextlib
import os
from collections.abc import Iterator
from typing import Literal

import torch


@contextlib.contextmanager
def compute_threads(threads: int | Literal["auto"], device: torch.device) -> Iterator[None]:
    """Use so many threads in the block.

    Args:
        threads: With auto a process that works on a GPU takes one, as all that it does on the CPU
            is small and several such processes share a machine; on a CPU, and where
            OMP_NUM_THREADS is set, the number stays as torch has chosen it.
        device: Works for this process.
    """
    before = torch.get_num_threads()
    if threads != "auto":
        torch.set_num_threads(threads)
    elif device.type == "cuda" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
