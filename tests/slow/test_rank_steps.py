"""Two processes compute what one does, where a loss or a view looks at the whole batch."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from byola_rq import BYOL, DACL, SSQL, IMix, InfoNCE
from byola_rq.config import default_config_path, load_config
from byola_rq.model.sync_batch_norm import over_all_ranks
from byola_rq.runtime.distributed import (
    all_gather_rows,
    all_reduce_sum,
    is_main,
    local_rows,
    process_group,
    world_size,
)
from byola_rq.runtime.rng import sample_keys
from tests.conftest import SMALL
from tests.model.test_infonce import points, points_encoder
from tests.rank_steps import take_steps
from tests.run_process import FORK

CPU = torch.device("cpu")


def as_a_rank(rank: int, num_ranks: int, port: int, work: Callable[[Path], None], to: Path) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"WORLD_SIZE": str(num_ranks), "RANK": str(rank), "LOCAL_RANK": str(rank)}
    with process_group(CPU):
        work(to)


def by_one_and_by_two(work: Callable[[Path], None], folder: Path) -> list[dict[str, Tensor]]:
    """Return what `work` writes to its file, in one process and in two."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Forked: a new interpreter would take longer to import torch than to do all of this.
    files = [folder / f"{num_ranks}.safetensors" for num_ranks in (1, 2)]
    processes = [
        FORK.Process(target=as_a_rank, args=(rank, num, port, work, files[num - 1]))
        for rank, num in ((0, 1), (0, 2), (1, 2))
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    return [load_file(file) for file in files]


def three_steps(result: Path) -> None:
    """Save the losses, last gradients and weights of every objective, on this rank's rows."""
    views = [local_rows(each.double()) for each in points(1, num=12)]
    keys = [local_rows(sample_keys(0, step, torch.arange(12))) for step in range(3)]
    found = {"dacl": all_gather_rows(DACL()(views[0], keys[0]))}
    sizes = {"embedding_dim": 10, "projection_dim": 8, "hidden_dim": 32}
    for kind in (BYOL, InfoNCE):
        for options in ({}, {"imix": IMix()}, {"ssql": SSQL()}):
            objective = kind(points_encoder(), **sizes, **options)
            over_all_ranks(objective, sync_batch_norm=True)
            objective.double()
            network = DistributedDataParallel(objective) if world_size() > 1 else objective
            optimizer = torch.optim.SGD(objective.encoder.parameters(), lr=0.1)
            name = f"{kind.__name__}.{' '.join(options)}"
            for step, key in enumerate(keys):
                objective.zero_grad()
                loss, _ = network(*views, key)
                loss.backward()
                optimizer.step()
                objective.update_target(0.9)
                found[f"{name}.loss {step}"] = all_reduce_sum(loss.detach()) / world_size()
            for part, parameter in objective.named_parameters():
                found[f"{name}.{part}"] = parameter.detach()
                if parameter.grad is not None:
                    found[f"{name}.{part}.grad"] = parameter.grad
    if is_main():
        save_file({name: each.contiguous().clone() for name, each in found.items()}, result)


def test_losses_gradients_and_weights_are_those_of_the_whole_batch(tmp_path: Path) -> None:
    """Compare three steps of an encoder without max pooling.

    Sums of quantized numbers are often equal, and rounding then decides where a maximum's gradient
    goes: with SSQL, two processes follow one only in encoders without maxima.
    """
    expected, found = by_one_and_by_two(three_steps, tmp_path)
    assert found.keys() == expected.keys()
    assert len(found) > 6 * 24
    for name, tensor in found.items():
        # Sums of a few hundred products in float64, in another order.
        torch.testing.assert_close(tensor, expected[name], rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.parametrize(
    "overrides",
    [
        ("views.augmentations=[random_resized_crop, randomized_quantization]",),
        ("views.augmentations=[mixup, random_resized_crop, randomized_quantization]",),
        ("encoder.freeze_steps=1",),
        ("objective.name=infonce", "views.augmentations=[random_resized_crop, imix]"),
    ],
)
def test_two_processes_train_as_one_does(
    tmp_path: Path, sounds: Path, overrides: tuple[str, ...]
) -> None:
    """Compare in float64, with batch statistics of the whole batch.

    Adam divides a gradient by at least 1e-8, so the rounding of a gradient that is nothing else
    (that of a bias before a batch norm) moves a weight by 3e-4 / 1e-8 times itself. It is a sum of
    16 x 64 x 96 terms, of 1e-2 at most here, each rounded to 1e-16: at most 3e4 x 1e5 x 1e-18 =
    3e-9 a step. A mistake moves weights by the learning rate, 3e-4.
    """
    config = load_config(
        default_config_path(),
        [*SMALL, f"data.source={sounds}", "train.batch_size=16", *overrides],
    )
    steps = 2  # the second mixes with clips of the first
    expected, found = by_one_and_by_two(
        lambda result: take_steps(config, CPU, steps, result), tmp_path
    )
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        difference = (tensor.double() - expected[name].double()).abs().max()
        assert difference <= steps * 3e-9, name
