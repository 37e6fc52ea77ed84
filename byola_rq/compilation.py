"""Whether torch.compile works on this machine."""

import sys

import torch

from byola_rq.errors import first_line


def can_compile(device: torch.device) -> bool:
    """Whether torch.compile works here, tried on a small function; if not, a line says why."""
    try:
        torch.compile(lambda x: x.relu() + 1)(torch.ones(8, device=device))
    # Whatever a compiler raises: the networks run without it.
    except Exception as error:
        print(
            f"warning: train.compile: torch.compile does not work here ({first_line(error)}); "
            "the networks run as they are",
            file=sys.stderr,
            flush=True,
        )
        return False
    return True
