"""Limits for busy-waiting threads, set before torch is imported."""

import os

# Iterations of libgomp's waiting loop, some tens of microseconds: longer than the waits between the
# operations of a step, and far shorter than a time slice of the scheduler, for which by default a
# waiting thread may occupy a core that another one needs (benchmarks/busy.py).
_TURNS = 10_000
# Likewise for OpenBLAS in numpy and scipy: the binary logarithm of processor cycles, some
# 40 microseconds; the default is 26, some 20 milliseconds.
_LOG2_CYCLES = 17

_OWN_CHOICES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def bound_spinning() -> None:
    """Limit how long waiting threads occupy their cores, unless the user has set it.

    It has no effect once torch and numpy are imported, or if OpenMP is not libgomp (macOS).
    """
    if not any(name in os.environ for name in _OWN_CHOICES):
        os.environ["GOMP_SPINCOUNT"] = str(_TURNS)
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", str(_LOG2_CYCLES))
