"""One run at a time in a directory: a lock that the kernel frees however its holder ends."""

import contextlib
import errno
import fcntl
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from byola_rq.errors import CheckpointError

LOCK_NAME = ".lock"

# A killed process holds its lock until its memory is taken apart, which on a GPU takes seconds.
_PATIENCE = 5.0  # seconds
_NO_LOCKS_HERE = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}

_held: set[int] = set()  # descriptors


def _drop_inherited() -> None:
    """Close what a fork has copied: it would hold the lock for as long as the child lives."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_drop_inherited)


@contextlib.contextmanager
def locked_directory(folder: Path) -> Iterator[None]:
    """Hold the lock of a directory, the file `.lock` in it, which is gone afterwards.

    Where the file system knows no locks, a warning says so, and there is none.

    Raises:
        CheckpointError: If another process holds it.
        OSError: If the directory cannot be written.
    """
    path = folder / LOCK_NAME
    descriptor = _acquire(path)
    try:
        yield
    finally:
        # After a fork, this may be a copy that left the block by an error.
        if descriptor in _held:
            if _is_file_of(path, descriptor):
                path.unlink(missing_ok=True)
            _close(descriptor)


def _acquire(path: Path) -> int:
    """The locked file."""
    end = time.monotonic() + _PATIENCE
    while (descriptor := _try_to_lock(path)) is None:
        if time.monotonic() > end:
            raise CheckpointError(
                f"{path.parent}: run.dir must be used by one run at a time; another one is at work "
                f"in it ({_holder(path)}). Wait for it, stop it, or choose another run.dir"
            )
        time.sleep(0.1)
    return descriptor


def _try_to_lock(path: Path) -> int | None:
    """The locked file; None while another process holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    _held.add(descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The one before takes its file away before it lets go of it.
        if _is_file_of(path, descriptor):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()} {socket.gethostname()}\n".encode(), 0)
            return descriptor
    except BlockingIOError:
        pass
    except OSError as error:
        if error.errno in _NO_LOCKS_HERE:
            print(
                f"warning: {path.parent}: its file system knows no locks ({error.strerror}); "
                "start no second run in it while this one is at work",
                file=sys.stderr,
                flush=True,
            )
            return descriptor
        _close(descriptor)
        raise
    _close(descriptor)
    return None


def _holder(path: Path) -> str:
    """Who has written the lock file."""
    try:
        pid, host = path.read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return "it has just begun"
    return f"process {pid} on {host}"


def _is_file_of(path: Path, descriptor: int) -> bool:
    """Whether the path still names the file that is open."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _close(descriptor: int) -> None:
    _held.discard(descriptor)
    os.close(descriptor)
