"""Reuse of freed host memory between training steps."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h
_LARGEST_INT = 2**31 - 1


def keep_freed_memory() -> bool:
    """Make glibc's malloc keep freed memory; return whether it does (Linux with glibc only).

    By default every tensor above 32 MB is mapped anew and returned when freed, so each training
    step on a CPU zeroes all its pages again. If kept, the same pages serve every step, and the
    process never shrinks below its peak.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    return bool(libc.mallopt(_M_MMAP_MAX, 0) and libc.mallopt(_M_TRIM_THRESHOLD, _LARGEST_INT))
