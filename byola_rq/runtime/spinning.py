"""How long threads that wait for each other keep their cores, set before torch is imported."""

import os

# Turns of libgomp's waiting loop, some tens of microseconds: longer than the waits between the
# operations of a step, and far shorter than a turn of the scheduler, for which by default a waiting
# thread may hold a core that the one it waits for needs (benchmarks/busy.py).
_TURNS = 10_000
# The same of OpenBLAS, which numpy and scipy multiply by: the binary logarithm of the processor's
# cycles, some 40 microseconds; by default it is 26, some 20 milliseconds.
_LOG2_CYCLES = 17

_OWN_CHOICES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def bound_spinning() -> None:
    """Let a thread that has waited a moment leave its core to others, unless the user chose.

    Without effect once torch and numpy are imported, and where OpenMP is not libgomp (macOS).
    """
    if not any(name in os.environ for name in _OWN_CHOICES):
        os.environ["GOMP_SPINCOUNT"] = str(_TURNS)
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", str(_LOG2_CYCLES))
