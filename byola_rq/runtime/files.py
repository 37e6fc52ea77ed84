"""Files that are whole or not there, whatever ends their writing, and never written through a link.

A folder that a user names may be a link. What we make in it is not: a link at a file's name is
replaced, or refused where the file would go on, and so is one in place of a folder of ours.
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

_LEFTOVER = re.compile(r"\..+\.[0-9a-f]{8}\.partial")  # of `whole_file`


@contextlib.contextmanager
def whole_file(
    path: Path, *, folder: Path | None = None, may_replace: bool = True
) -> Iterator[Path]:
    """Give an empty temporary file to fill; when the block ends, it gets the name `path`.

    Its content is on the disk before it has that name, and the name is when this returns. After an
    error it is gone and `path` is as it was. Only a kill leaves it, as `.<name>.<random>.partial`,
    which `remove_leftovers` finds. Nobody else may read it before it has its name. Where `path` is
    a link, the file takes its place.

    Args:
        path: Of the file.
        folder: Where the temporary file lies, on the same disk; beside `path` by default.
        may_replace: Otherwise a file that is there stays, also one that another machine, which
            shares the disk, has written meanwhile.

    Raises:
        OSError: If the disk refuses.
    """
    temporary = (folder or path.parent) / f".{path.name}.{secrets.token_hex(4)}.partial"
    try:
        os.close(_create(temporary, 0o600))
        yield temporary
        put_in_place(temporary, path, may_replace=may_replace)
    finally:
        with contextlib.suppress(OSError):  # the error that led here tells more
            temporary.unlink(missing_ok=True)


def replace_file(path: Path, content: str | bytes, *, may_replace: bool = True) -> None:
    """Write a file by `whole_file`; text as UTF-8, its line ends as they are."""
    with whole_file(path, may_replace=may_replace) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def new_file(path: Path) -> IO[bytes]:
    """Open an empty file of our own in place of what has its name; nobody else may read it yet.

    Raises:
        OSError: If the disk refuses.
    """
    path.unlink(missing_ok=True)
    return os.fdopen(_create(path, 0o600), "w+b")


def open_own(path: Path, mode: str = "ab") -> IO[bytes]:
    """Open a file to go on in it, as `open` does; never where a link leads, never a pipe.

    Raises:
        OSError: If it is no regular file, or the disk refuses.
    """

    def open_checked(name: str, flags: int) -> int:
        descriptor = os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, "is no regular file", name)
        return descriptor

    try:
        return open(path, mode, opener=open_checked)
    except OSError as error:
        if path.is_symlink():
            raise link_error(path) from error
        raise


def is_own(path: Path) -> bool:
    """Whether there is a regular file of this name, not a link to one."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def own_folder(path: Path) -> Path:
    """Make a folder within one that a user has named, or find it; a link is none.

    Raises:
        OSError: If there is a link, or the disk refuses.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink():
        raise link_error(path)
    path.mkdir(exist_ok=True)
    return path


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that calls of `whole_file` left when they were killed."""
    for path in folder.iterdir():
        if _LEFTOVER.fullmatch(path.name) and is_own(path):
            path.unlink(missing_ok=True)


def remove_folder(path: Path) -> None:
    """Remove a folder of our own and all in it, as far as the disk lets; of a link, the link."""
    if path.is_symlink():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


def put_in_place(temporary: Path, path: Path, *, may_replace: bool = True) -> None:
    """Give a finished file its name, so that a power cut cannot take it, and others their rights.

    Who may read it, the umask says.
    """
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
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _create(path: Path, mode: int) -> int:
    """Never in another's file, nor where a link leads."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)


def _usual_mode(temporary: Path) -> int:
    """What a new file beside this one may be used for: asking for the umask would change it."""
    probe = temporary.with_name(f".mode.{secrets.token_hex(4)}.partial")
    descriptor = _create(probe, 0o666)
    try:
        return stat.S_IMODE(os.fstat(descriptor).st_mode)
    finally:
        os.close(descriptor)
        probe.unlink()


def link_error(path: Path) -> OSError:
    """What is raised of a link in place of what is ours."""
    return OSError(errno.ELOOP, f"{path.name} is a link, which is not followed", str(path))


@contextlib.contextmanager
def text_name(path: Path | str) -> Iterator[Path]:
    """Give a file's name, or another one of it where that is no text, which some libraries refuse.

    Raises:
        OSError: If a file with such a name cannot be opened.
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
    """Raise this process' own limit, often 1024, where it is below `num`; gives what it is then."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= num:
        return num
    allowed = max(soft, num if hard == resource.RLIM_INFINITY else min(num, hard))
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return allowed


def need_open_files(num: int) -> None:
    """See that this process may open `num` more, before something that fails badly without.

    Raises:
        OSError: If it may not.
    """
    wanted = len(os.listdir("/dev/fd")) + num
    if allow_open_files(wanted) < wanted:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
