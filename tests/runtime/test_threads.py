"""Number of computing threads of a process."""

from collections.abc import Iterator

import pytest
import torch

from byola_rq.runtime.threads import compute_threads

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("threads", "device", "omp", "expected"),
    [
        ("auto", CPU, None, 2),
        ("auto", CPU, "2", 2),
        ("auto", CUDA, None, 1),
        ("auto", CUDA, "2", 2),
        (1, CPU, None, 1),
        (3, CUDA, "2", 3),
    ],
)
def test_threads_of_the_block(
    monkeypatch: pytest.MonkeyPatch,
    threads: object,
    device: torch.device,
    omp: str | None,
    expected: int,
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if omp is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", omp)
    with compute_threads(threads, device):
        assert torch.get_num_threads() == expected
    assert torch.get_num_threads() == 2
