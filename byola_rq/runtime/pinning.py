"""Pinning of existing host memory for asynchronous copies to a GPU."""

import contextlib
import ctypes
from collections.abc import Iterator

import torch

from byola_rq.runtime.progress import log

_PORTABLE = 1  # cudaHostRegisterPortable: for every GPU, whichever registers it


@contextlib.contextmanager
def pinned(memory: "ctypes.Array[ctypes.c_byte]", device: torch.device) -> Iterator[None]:
    """Pin existing memory within the block; does nothing for a CPU.

    If the system refuses, it prints a warning, and the memory stays unpinned.
    """
    if device.type != "cuda":
        yield
        return
    address, num_bytes = ctypes.addressof(memory), ctypes.sizeof(memory)
    with torch.cuda.device(device):
        cudart = torch.cuda.cudart()  # type: ignore[no-untyped-call]
        status = int(cudart.cudaHostRegister(address, num_bytes, _PORTABLE))
        if status:
            _forget_error(device)
            log(
                f"warning: {num_bytes / 2**20:.0f} MiB for batches cannot be pinned (CUDA error "
                f"{status}; `ulimit -l` may be too low); each batch is copied once more"
            )
    try:
        yield
    finally:
        if not status:
            with torch.cuda.device(device):
                # A copy may still be running; errors of the device are reported elsewhere.
                with contextlib.suppress(RuntimeError):
                    torch.cuda.synchronize()
                cudart.cudaHostUnregister(address)


def _forget_error(device: torch.device) -> None:
    """Clear CUDA's last error, which the next kernel would raise otherwise."""
    with contextlib.suppress(RuntimeError):
        torch.ones(1, device=device)
