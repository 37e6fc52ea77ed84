"""Agreement of all ranks to stop."""

import signal

import torch
import torch.distributed as dist

from byola_rq.runtime.distributed import world_size


class StopVote:
    """Agreement of all ranks, after every step, to stop when some have received a signal.

    The result of one step's vote is read after the next step, so that no rank waits for it.
    """

    def __init__(self) -> None:
        self._vote = torch.zeros(1, dtype=torch.int64)
        self._work: dist.Work | None = None

    def cast(self, number: int | None) -> int | None:
        """Vote with the signal that this rank received; return the one that stops all ranks."""
        if world_size() == 1:
            return number
        agreed = self._read()
        self._vote[0] = number or 0
        self._work = dist.all_reduce(self._vote, dist.ReduceOp.MAX, async_op=True)
        if agreed is not None:
            self._read()
        return agreed

    def close(self, number: int | None) -> int | None:
        """Vote after the last step, as `cast`, and wait for the result."""
        return self.cast(number) or (self._read() if world_size() > 1 else None)

    def _read(self) -> int | None:
        if self._work is None:
            return None
        self._work.wait()
        self._work = None
        return signal.Signals(int(self._vote)) if int(self._vote) else None
