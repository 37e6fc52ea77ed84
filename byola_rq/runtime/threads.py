"""Threads of this process' computing on the CPU."""

import contextlib
import os
from collections.abc import Iterator
from typing import Literal

import torch

_OWN_PROCESS = os.getpid()


def leave_forked_threads() -> None:
    """In a process forked from the one that imported this, compute with one thread from now on.

    The threads of the parent are not in it, and OpenMP would wait for them for ever.
    """
    if os.getpid() != _OWN_PROCESS and torch.get_num_threads() > 1:
        torch.set_num_threads(1)


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
