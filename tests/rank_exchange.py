"""Record the exchange between ranks, as seen by each of them; started by torchrun."""

import json
import signal
import sys
from pathlib import Path

import torch
from torch import nn

from byola_rq.errors import ByolaRQError, CorpusError
from byola_rq.runtime.distributed import (
    all_gather_json,
    all_gather_rows,
    all_reduce_max,
    all_reduce_sum,
    broadcast_bytes,
    local_rows,
    process_group,
    raise_on_all_ranks,
    rank,
    world_size,
)
from byola_rq.runtime.stop_vote import StopVote
from byola_rq.train.skipped_steps import check_same_weights


def look() -> dict[str, object]:
    number = rank()
    seen: dict[str, object] = {"ranks": [number, world_size()]}
    seen["json"] = all_gather_json({"rank": number, "text": "ä" * number})
    rows = all_gather_rows(torch.full((2, 3), float(number)))
    seen["rows"] = rows[:, 0].tolist()
    seen["own"] = local_rows(rows)[:, 0].tolist()
    seen["max"] = all_reduce_max(torch.tensor([number, -number])).tolist()
    x = torch.tensor([1.0 + number], requires_grad=True)
    total = all_reduce_sum(x)
    (total * (10.0**number)).sum().backward()
    assert x.grad is not None
    seen["sum"] = [total.item(), x.grad.item()]
    seen["shared"] = broadcast_bytes(lambda: b"of rank %d" % number).decode()
    seen["empty"] = broadcast_bytes(lambda: b"").decode()
    seen["errors"] = [failed_in(2), failed_in(0), failed_in(None)]
    vote = StopVote()
    asked = [None, signal.SIGTERM if number == 1 else None, None, None]
    seen["votes"] = [vote.cast(each) for each in asked]
    last = StopVote()
    seen["last"] = last.close(signal.SIGUSR1 if number == 2 else None)
    seen["divergence"] = [divergence(0.0), divergence(float(number == 1))]
    return seen


def failed_in(where: int | None) -> list[object]:
    try:
        with raise_on_all_ranks():
            if rank() == where:
                raise CorpusError("gone: no such folder", code="missing", path="gone")
    except ByolaRQError as error:
        return [str(error), error.exit_code, error.is_reported, error.code, str(error.path)]
    return []


def divergence(difference: float) -> list[object]:
    network = nn.Linear(2, 2)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(1.0)
        network.bias[0] += difference
    try:
        check_same_weights(network, Path("runs/a"))
    except ByolaRQError as error:
        return [error.code, str(error.path), str(error)]
    return []


if __name__ == "__main__":
    with process_group(torch.device("cpu")):
        path = Path(sys.argv[1]) / f"{rank()}.json"
        path.write_text(json.dumps(look()))
