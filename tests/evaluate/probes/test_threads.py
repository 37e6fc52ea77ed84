import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from evaluate.probes.threads import few_threads


@pytest.fixture
def two_threads():
    num_threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(num_threads)


def blas_threads() -> set[int]:
    return {each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"}


@pytest.mark.parametrize(
    ("num_products", "of_torch", "of_blas"),
    [(1420 * 2048 * 12, 1, 1), (6000 * 2048 * 12, 2, 1), (10**9, 2, 2)],
)
def test_small_steps_take_one_thread(two_threads, num_products, of_torch, of_blas):
    with threadpool_limits(2, user_api="blas"):
        with few_threads(num_products):
            assert torch.get_num_threads() == of_torch
            assert blas_threads() == {of_blas}
        assert torch.get_num_threads() == 2
        assert blas_threads() == {2}


def test_threads_are_given_back_after_an_error(two_threads):
    with pytest.raises(RuntimeError, match="no fit"), few_threads(1):
        raise RuntimeError("no fit")
    assert torch.get_num_threads() == 2
