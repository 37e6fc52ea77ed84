"""Communication between the processes of a job, one per device, started by `torchrun`.

A process started alone is rank 0 of 1, and nothing here costs it time.
"""

import contextlib
import datetime
import gc
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from byola_rq.errors import ByolaRQError, ConfigError
from byola_rq.text.shown import one_line

# Long waits are no connection errors: the watchdog of training detects hangs.
_TIMEOUT = datetime.timedelta(days=1)
_TIME_TO_MEET = datetime.timedelta(minutes=30)  # machines of a cluster may start one by one


class ElsewhereError(ByolaRQError):
    """Raised in every other process when one has failed and rank 0 reports the error."""

    is_reported = True

    def __init__(self, message: str, exit_code: int, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.exit_code = exit_code


class LostRankError(ByolaRQError, RuntimeError):
    """Another process of the job has ended or cannot be reached."""

    exit_code = 1


def world_size() -> int:
    """Number of processes of this job; 1 before they are connected."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Number of this process in the job, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_launched() -> bool:
    """Return whether this process was started as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def local_rank() -> int:
    """Number of this process on its machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", "0")) if is_launched() else 0


def local_world_size() -> int:
    """Number of processes of the job on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if is_launched() else 1


def is_main() -> bool:
    """Return whether this process is rank 0, which prints and writes files."""
    return rank() == 0


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Connect the processes of a job, with nccl for GPU tensors and gloo for others.

    Raises:
        ConfigError: If they cannot connect.
        LostRankError: If another process ends or becomes unreachable within the block.
    """
    if not is_launched():
        yield
        return
    backend = "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"
    try:
        store, number, world_size = next(rendezvous("env://", timeout=_TIME_TO_MEET))
        store = PrefixStore(_attempt(store, number, world_size), store)
        store.set_timeout(_TIMEOUT)
        dist.init_process_group(
            backend, store=store, rank=number, world_size=world_size, timeout=_TIMEOUT
        )
    except (ValueError, RuntimeError) as error:
        reason = one_line(error)
        raise ConfigError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but the processes cannot find each other "
            f"({reason}); start them with torchrun",
            code="unreachable",
            key="WORLD_SIZE",
            value=os.environ["WORLD_SIZE"],
        ) from error
    try:
        yield
    except RuntimeError as error:
        # Not every version has an own type for the errors of gloo and nccl when a peer is gone.
        if isinstance(error, ByolaRQError) or not _is_connection_error(error):
            raise
        reason = one_line(error)[:200]
        raise LostRankError(
            f"rank {number} of {world_size} lost another one ({reason}); see the messages of that "
            "rank. The same command resumes from the last checkpoint",
            code="unreachable",
        ) from error
    finally:
        # Remaining references would destroy the group at interpreter exit, which may hang.
        gc.collect()
        dist.destroy_process_group()


def _attempt(store: Store, number: int, world_size: int) -> str:
    """Agree on a unique name for this start of the job, the same in all ranks.

    torchrun keeps its store when it restarts ranks, with stale addresses of the previous ones, and
    its restart count differs between machines. So every rank sends a request under a random name,
    until rank 0 has answered each.
    """
    own = uuid.uuid4().hex
    if number > 0:
        store.set(f"asks/{number}", own)
        # Polled: `get` would wait outside of Python, where signals are not handled.
        _wait_for(lambda: store.check([f"answer/{own}"]), "rank 0")
        attempt = str(store.get(f"answer/{own}").decode())
        store.set(f"heard/{attempt}/{number}", own)
        return attempt
    missing = set(range(1, world_size))

    def all_have_heard() -> bool:
        for other in sorted(missing):
            if store.check([f"asks/{other}"]):  # may be from an earlier start
                store.set(f"answer/{store.get(f'asks/{other}').decode()}", own)
            if store.check([f"heard/{own}/{other}"]):
                missing.remove(other)
        return not missing

    _wait_for(all_have_heard, "all other ranks")
    return own


def _wait_for(is_there: Callable[[], bool], whom: str) -> None:
    end = time.monotonic() + _TIME_TO_MEET.total_seconds()
    while not is_there():
        if time.monotonic() > end:
            raise RuntimeError(f"waited {_TIME_TO_MEET} for {whom}")
        time.sleep(0.02)


def _is_connection_error(error: RuntimeError) -> bool:
    words = ("gloo", "nccl", "connection", "process group", "store")
    return isinstance(error, dist.DistError) or any(word in str(error).lower() for word in words)


@contextlib.contextmanager
def raise_on_all_ranks() -> Iterator[None]:
    """Stop every rank when one raises a `ByolaRQError` in the block; only rank 0 reports it.

    The block must not communicate with other ranks.
    """
    if world_size() == 1:
        yield
        return
    error: ByolaRQError | None = None
    try:
        yield
    except ByolaRQError as raised:
        error = raised
    reports = all_gather_json(None if error is None else _report(error))
    failed = [number for number, report in enumerate(reports) if report is not None]
    if not failed:
        return
    message, exit_code, facts = reports[failed[0]]
    if not is_main():
        raise ElsewhereError(message, exit_code, **facts)
    if error is None:
        error = ByolaRQError(f"rank {failed[0]} of {world_size()}: {message}", **facts)
        error.exit_code = exit_code
    raise error


def error_on_all_ranks(error: ByolaRQError) -> ByolaRQError:
    """Return the error to raise when all ranks have the same one: only rank 0 reports it."""
    if is_main():
        return error
    message, exit_code, facts = _report(error)
    return ElsewhereError(message, exit_code, **facts)


def _report(error: ByolaRQError) -> tuple[str, int, dict[str, str | None]]:
    """Convert an error to JSON for other ranks, without its value, which may have any type."""
    path = None if error.path is None else str(error.path)
    return str(error), error.exit_code, {"code": error.code, "path": path, "key": error.key}


def broadcast_bytes(function: Callable[[], bytes]) -> bytes:
    """Call `function` on rank 0 only and return its result on all; an error stops all ranks."""
    if world_size() == 1:
        return function()
    data = b""
    with raise_on_all_ranks():
        if is_main():
            data = function()
    size = int(all_reduce_max(torch.tensor(len(data))))
    buffer = bytearray(data or size)  # zeros on the receiving ranks
    dist.broadcast(torch.from_numpy(np.frombuffer(buffer, np.uint8)), src=0)  # writes to it
    return bytes(buffer)


def all_gather_json(value: Any) -> list[Any]:
    """Gather every rank's value on all ranks, in the order of the ranks."""
    if world_size() == 1:
        return [value]
    data = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    sizes = all_gather_rows(torch.tensor([len(data)]))
    padded = torch.zeros(int(sizes.max()), dtype=torch.uint8)
    padded[: len(data)] = data
    rows = all_gather_rows(padded[None])
    return [
        json.loads(row[:size].numpy().tobytes())
        for row, size in zip(rows, sizes.tolist(), strict=True)
    ]


def all_gather_rows(x: Tensor) -> Tensor:
    """Gather the rows of all ranks, in their order, without gradient; all have equally many."""
    if world_size() == 1:
        return x
    x = x.detach().contiguous()
    parts = [torch.empty_like(x) for _ in range(world_size())]
    dist.all_gather(parts, x)
    return torch.cat(parts)


def local_rows(x: Tensor) -> Tensor:
    """Return this rank's part of the result of `all_gather_rows`."""
    return x.chunk(world_size())[rank()]


def all_reduce_max(x: Tensor) -> Tensor:
    """Compute the elementwise maximum over ranks, without gradient."""
    if world_size() > 1:
        x = x.detach().clone()
        dist.all_reduce(x, dist.ReduceOp.MAX)
    return x


def all_reduce_sum(x: Tensor) -> Tensor:
    """Compute the elementwise sum over ranks, differentiable."""
    return x if world_size() == 1 else cast(Tensor, _Sum.apply(x))  # type: ignore[no-untyped-call]


class _Sum(torch.autograd.Function):  # torch.distributed.nn.functional is deprecated
    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        del context
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        del context
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total
