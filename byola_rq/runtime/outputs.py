"""Checks of the files that a command will write, before its long work."""

import errno
import os
import tempfile
from pathlib import Path

from byola_rq.errors import ConfigError


def check_output(path: Path, suffix: str, option: str) -> None:
    """Refuse a file that cannot be written, or is named as something else; create its folder.

    The suffix protects recordings and tables of labels from a slip on the command line.

    Raises:
        ConfigError: Naming the path and the option that gave it.
    """
    if path.suffix.lower() != suffix:
        message = f"{path}: {option} must be a file named *{suffix}"
        raise ConfigError(message, code="value", path=path, key=option)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()  # also tells of a disk mounted read-only
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    except OSError as error:
        message = f"{path}: cannot be written ({error.strerror or error})"
        raise ConfigError(message, code="unwritable", path=path, key=option) from error
