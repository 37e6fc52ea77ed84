"""Host memory that a step frees, kept for the next step."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h
_LARGEST_INT = 2**31 - 1


def keep_freed_memory() -> bool:
    """Tell glibc's malloc to keep what is freed; says whether it will (Linux with glibc only).

    By default every tensor above 32 MB is mapped afresh and returned when freed, so that each
    training step on a CPU pays for zeroing all its pages again. Kept, the same pages serve every
    step, and the process never shrinks below its peak.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    return bool(libc.mallopt(_M_MMAP_MAX, 0) and libc.mallopt(_M_TRIM_THRESHOLD, _LARGEST_INT))
