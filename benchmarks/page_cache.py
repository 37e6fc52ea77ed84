"""Eviction of files from memory, so that reading them reads the disk."""

import ctypes
import mmap
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np


def drop_from_memory(paths: Sequence[Path]) -> float:
    """Ask the kernel to evict files' pages; pages mapped by a process stay.

    Returns:
        Share of the pages still in memory, 0 to 1.
    """
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # dirty pages cannot be evicted
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
    return float(np.mean([_resident_share(path) for path in paths]))


def _resident_share(path: Path) -> float:
    libc = ctypes.CDLL(None, use_errno=True)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as pages:
        flags = (ctypes.c_ubyte * -(-len(pages) // mmap.PAGESIZE))()
        first = ctypes.c_char.from_buffer(pages)
        address = ctypes.c_void_p(ctypes.addressof(first))
        if libc.mincore(address, ctypes.c_size_t(len(pages)), flags):
            raise OSError(ctypes.get_errno(), "mincore")
        del first  # else the map cannot be closed
    return float(np.mean(np.ctypeslib.as_array(flags) & 1))
