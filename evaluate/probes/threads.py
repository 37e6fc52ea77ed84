"""Single-threaded linear algebra for small steps."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits

# Clips x dimensions x classes of one step from which a second thread pays. Below it the threads
# mostly wait for each other: at 1,420 x 2,048 x 12 one logistic fit took 59 s with two threads and
# 0.8 s with one, an adam fit 12 s and 0.9 s (2 CPU cores under load, November 2026). It also makes
# small results the same on any number of cores.
_MANY_PRODUCTS = 10**8


@contextmanager
def few_threads(num_products: int) -> Iterator[None]:
    """Use one thread inside the context, unless a step takes many products."""
    if num_products >= _MANY_PRODUCTS:
        yield
        return
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(num_threads)
