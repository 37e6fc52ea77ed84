import pytest
import torch

from evaluate.probes.threads import few_threads


@pytest.fixture
def two_threads():
    num_threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(num_threads)


@pytest.mark.parametrize(("num_products", "expected"), [(1420 * 2048 * 12, 1), (10**9, 2)])
def test_small_steps_take_one_thread(two_threads, num_products, expected):
    with few_threads(num_products):
        assert torch.get_num_threads() == expected
    assert torch.get_num_threads() == 2


def test_threads_are_given_back_after_an_error(two_threads):
    with pytest.raises(RuntimeError, match="no fit"), few_threads(1):
        raise RuntimeError("no fit")
    assert torch.get_num_threads() == 2
