"""Atomic writing of files, never through a link.

A folder that a user names may be a link. Files and folders created in it are not: a link with the
name of a file is replaced, or an error if the file would be continued, as is one with the name of a
folder.
"""

import contextlib
import errno
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from byola_rq.text.shown import printable

_LEFTOVER = re.compile(r"\..+\.[0-9a-f]{8}\.partial")  # of `whole_file`


@contextlib.contextmanager
def whole_file(
    path: Path, *, folder: Path | None = None, may_replace: bool = True
) -> Iterator[Path]:
    """Create an empty temporary file; when the block ends, it is renamed to `path`.

    Its content is flushed to disk before the renaming, and the name before this returns. After an
    error it is removed and `path` is unchanged. Only a kill leaves it behind, as
    `.<name>.<random>.partial`, which `remove_leftovers` removes. Other users cannot read it before
    the renaming. If `path` is a link, the file replaces it.

    Args:
        path: Final path of the file.
        folder: Folder of the temporary file, on the same disk; that of `path` by default.
        may_replace: If false, an existing file is kept, also one that another machine has just
            written to a shared disk.

    Raises:
        OSError: If it cannot be written.
    """
    temporary = (folder or path.parent) / f".{path.name}.{secrets.token_hex(4)}.partial"
    try:
        os.close(_create(temporary, 0o600))
        yield temporary
        put_in_place(temporary, path, may_replace=may_replace)
    finally:
        with contextlib.suppress(OSError):  # the original error matters more
            temporary.unlink(missing_ok=True)


def replace_file(path: Path, content: str | bytes, *, may_replace: bool = True) -> None:
    """Write a file by `whole_file`; text as UTF-8 with unchanged line ends, see `printable`."""
    with whole_file(path, may_replace=may_replace) as temporary:
        temporary.write_bytes(printable(content).encode() if isinstance(content, str) else content)


def new_file(path: Path) -> IO[bytes]:
    """Create an empty file that other users cannot read, replacing any of its name.

    Raises:
        OSError: If it cannot be created.
    """
    path.unlink(missing_ok=True)
    return os.fdopen(_create(path, 0o600), "w+b")


def open_own(path: Path, mode: str = "ab") -> IO[bytes]:
    """Open a file for appending or updating; neither a link nor a pipe.

    Raises:
        OSError: If it is not a regular file or cannot be opened.
    """

    def open_checked(name: str, flags: int) -> int:
        descriptor = os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, "is not a regular file", name)
        return descriptor

    try:
        return open(path, mode, opener=open_checked)
    except OSError as error:
        if path.is_symlink():
            raise link_error(path) from error
        raise


def is_own(path: Path) -> bool:
    """Return whether the path is a regular file, not a link to one."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def own_folder(path: Path) -> Path:
    """Create a folder, unless it exists, inside one that a user has named.

    Raises:
        OSError: If it is a link or cannot be created.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink():
        raise link_error(path)
    path.mkdir(exist_ok=True)
    return path


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of calls of `whole_file` that were killed."""
    for path in folder.iterdir():
        if _LEFTOVER.fullmatch(path.name) and is_own(path):
            path.unlink(missing_ok=True)


def remove_folder(path: Path) -> None:
    """Remove a folder and its content as far as possible; of a link, only the link."""
    if path.is_symlink():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


def put_in_place(temporary: Path, path: Path, *, may_replace: bool = True) -> None:
    """Rename a finished file to `path`, safe against power loss, with the umask's permissions."""
    temporary.chmod(_usual_mode(temporary))
    flush(temporary)
    try:
        if not may_replace:
            os.link(temporary, path)
    except FileExistsError:
        return
    except OSError:  # a file system without links
        may_replace = not os.path.lexists(path)
    if may_replace:
        temporary.replace(path)
    flush(path.parent)


def flush(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _create(path: Path, mode: int) -> int:
    """Create a file; an error if the path exists or is a link."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)


def _usual_mode(temporary: Path) -> int:
    """Permissions of a new file, read from a probe: reading the umask would change it."""
    probe = temporary.with_name(f".mode.{secrets.token_hex(4)}.partial")
    descriptor = _create(probe, 0o666)
    try:
        return stat.S_IMODE(os.fstat(descriptor).st_mode)
    finally:
        os.close(descriptor)
        probe.unlink()


def link_error(path: Path) -> OSError:
    """Return the error for a link at the path of a file or folder of this program."""
    return OSError(errno.ELOOP, f"{path.name} is a link, which is not followed", str(path))


@contextlib.contextmanager
def text_name(path: Path | str) -> Iterator[Path]:
    """Provide a path of a file that is valid UTF-8, which some libraries require.

    Raises:
        OSError: If a file whose name is not UTF-8 cannot be opened.
    """
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield Path(f"/dev/fd/{opened}")
        finally:
            os.close(opened)
    else:
        yield Path(path)


def allow_open_files(num: int) -> int:
    """Raise this process's limit of open files to `num` if possible; return the new limit."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= num:
        return num
    allowed = max(soft, num if hard == resource.RLIM_INFINITY else min(num, hard))
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return allowed


def need_open_files(num: int) -> None:
    """Check that this process may open `num` more files, raising its limit if necessary.

    Raises:
        OSError: If it may not.
    """
    wanted = len(os.listdir("/dev/fd")) + num
    if allow_open_files(wanted) < wanted:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
