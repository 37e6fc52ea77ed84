"""Single-threaded linear algebra for small steps."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits

# Clips x dimensions x classes of one step from which a second thread of torch pays. Below it the
# threads mostly wait for each other: at 1,420 x 2,048 x 12 an adam fit took 12 s with two threads
# and 0.9 s with one (2 CPU cores under load, November 2026). It also makes small results the same
# on any number of cores.
_MANY_PRODUCTS = 10**8
# Likewise for OpenBLAS: at 6,000 x 2,048 x 12, lbfgs took 69 steps a second with two threads and 49
# with one on two quiet cores, but 0.65 and 5.9 on busy ones (benchmarks/busy.py, November 2026).
# Fits below it take seconds with one thread.
_MANY_BLAS_PRODUCTS = 10**9


@contextmanager
def few_threads(num_products: int) -> Iterator[None]:
    """Use one thread inside the context, unless a step takes many products."""
    num_threads = torch.get_num_threads()
    if num_products < _MANY_PRODUCTS:
        torch.set_num_threads(1)
    try:
        with threadpool_limits(1 if num_products < _MANY_BLAS_PRODUCTS else None, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(num_threads)
