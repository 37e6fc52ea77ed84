"""One process at a time: a lock file that the kernel frees however its holder ends."""

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from byola_rq.runtime.files import link_error
from byola_rq.runtime.terminal import warn

_NO_LOCKS_HERE = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


class HeldError(Exception):
    """Another process holds the lock; the message says which, and on which machine."""


@contextlib.contextmanager
def locked(path: Path, *, patience: float) -> Iterator[None]:
    """Hold a lock file, which is gone afterwards.

    Where the file system knows no locks, a warning says so, and there is none.

    Args:
        path: Of the file.
        patience: Seconds to wait for another process that holds it; -1 for as long as it takes.

    Raises:
        HeldError: If another process still does.
        OSError: If its folder cannot be written.
    """
    owner = os.getpid()
    files: list[os.stat_result] = []

    def sign(descriptor: int) -> None:
        files.append(os.fstat(descriptor))
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{owner} {socket.gethostname()}\n".encode(), 0)

    lock = FileLock(path, patience, 0o644, fallback_to_soft=False, on_acquired=sign)
    try:
        lock.acquire(poll_interval=0.1)
    except Timeout as error:
        raise HeldError(_holder(path)) from error
    except OSError as error:
        if path.is_symlink():
            raise link_error(path) from error
        if error.errno not in _NO_LOCKS_HERE:
            raise
        warn(
            f"warning: {path.parent}: its file system knows no locks ({error.strerror}); "
            "let no second process work in it meanwhile"
        )
    try:
        yield
    finally:
        # After a fork, this may be a copy that left the block by an error: it holds nothing.
        if os.getpid() == owner:
            with contextlib.suppress(FileNotFoundError):
                # Where the folder was moved, this may be another's in a new one.
                if not files or os.path.samestat(path.stat(), files[0]):
                    path.unlink()
            lock.release()


def _holder(path: Path) -> str:
    """Who has signed the lock file."""
    try:
        pid, host = path.read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return "it has just begun"
    return f"process {pid} on {host}"
