"""Checks of the files that a command will write, before its long work."""

import os
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
        reason = "Is a directory" if path.is_dir() else ""
        if not os.access(path.parent, os.W_OK):
            reason = f"{path.parent} is not writable"
    except OSError as error:
        reason = error.strerror or str(error)
    if reason:
        message = f"{path}: cannot be written ({reason})"
        raise ConfigError(message, code="unwritable", path=path, key=option)
