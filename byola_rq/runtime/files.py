"""Files that are whole or not there, whatever ends their writing."""

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole_file(
    path: Path, *, folder: Path | None = None, may_replace: bool = True
) -> Iterator[Path]:
    """Give an empty temporary file to fill; when the block ends, it gets the name `path`.

    Its content is on the disk before it has that name, and the name is when this returns. After an
    error it is gone and `path` is as it was. Only a kill leaves it, as `.<name>.<random>.partial`.

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
        # Never into another's file, nor where a link leads.
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666))
        yield temporary
        put_in_place(temporary, path, may_replace=may_replace)
    finally:
        with contextlib.suppress(OSError):  # the error that led here tells more
            temporary.unlink(missing_ok=True)


def replace_file(path: Path, content: str | bytes, *, may_replace: bool = True) -> None:
    """Write a file by `whole_file`; text as UTF-8, its line ends as they are."""
    with whole_file(path, may_replace=may_replace) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def put_in_place(temporary: Path, path: Path, *, may_replace: bool = True) -> None:
    """Give a finished file its name, so that a power cut cannot take it."""
    flush(temporary)
    try:
        if not may_replace:
            os.link(temporary, path)
    except FileExistsError:
        return
    except OSError:  # a file system without links
        may_replace = not path.exists()
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
