"""Number of CPU threads that torch uses."""

import contextlib
import os
from collections.abc import Iterator
from typing import Literal

import torch

_OWN_PROCESS = os.getpid()


def leave_forked_threads() -> None:
    """Use one thread if this process was forked after this module was imported.

    A fork does not have its parent's threads, and OpenMP would wait for them forever.
    """
    if os.getpid() != _OWN_PROCESS and torch.get_num_threads() > 1:
        torch.set_num_threads(1)


@contextlib.contextmanager
def compute_threads(threads: int | Literal["auto"], device: torch.device) -> Iterator[None]:
    """Set the number of threads in the block.

    Args:
        threads: Number of threads. With auto, a process that uses a GPU takes one, as its CPU work
            is small and several such processes share a machine; on a CPU, or if OMP_NUM_THREADS
            is set, torch's number is kept.
        device: Device of this process.
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
