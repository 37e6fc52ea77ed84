"""Lock files, which the kernel releases when their process ends in any way."""

import contextlib
import errno
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from byola_rq.runtime.files import link_error
from byola_rq.runtime.terminal import warn

# A killed process keeps its lock until its memory is freed, which on a GPU takes seconds.
PATIENCE = 5.0  # seconds

_NO_LOCKS_HERE = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


class LockedError(Exception):
    """Another process has the lock; the message names process and machine."""


@contextlib.contextmanager
def locked(
    path: Path, *, patience: float, held: Callable[[str], Exception] = LockedError
) -> Iterator[None]:
    """Lock a file within the block and remove it afterwards.

    If the file system has no locks, it prints a warning and continues without.

    Args:
        path: Path of the lock file.
        patience: Seconds to wait for another process; -1 waits without limit.
        held: Builds the error that is raised if another process still has the lock, from a text
            that names it and its machine.

    Raises:
        LockedError: If another process still has the lock, by default.
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
        raise held(_owner(path)) from error
    except OSError as error:
        if path.is_symlink():
            raise link_error(path) from error
        if error.errno not in _NO_LOCKS_HERE:
            raise
        warn(
            f"warning: {path.parent}: its file system has no locks ({error.strerror}); "
            "do not start a second process in it"
        )
    try:
        yield
    finally:
        # A forked copy that leaves the block does not own the lock.
        if os.getpid() == owner:
            with contextlib.suppress(FileNotFoundError):
                # If the folder was moved, the path may be another process's lock in a new folder.
                if not files or os.path.samestat(path.stat(), files[0]):
                    path.unlink()
            lock.release()


def _owner(path: Path) -> str:
    """Read the process and machine that wrote the lock file."""
    try:
        pid, host = path.read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return "it has just begun"
    return f"process {pid} on {host}"
