"""The built-in encoder. Its model card is builtin.md in this folder.

To replace it, copy the new model file and its source list here, set VERSION and SHA256, and
update the card.
"""

import hashlib
from difflib import get_close_matches
from pathlib import Path

from byola_rq.errors import CheckpointError

NAME = "builtin"
VERSION = "permissive-1"
SHA256 = "3f17fbacb3455bf40083bd1d126d2765e39d53994bad548e1aff152cf1b85dcc"  # of the model file

# Recorded wherever the built-in encoder was used.
IDENTITY = {"name": NAME, "version": VERSION, "sha256": SHA256}

_REMEDY = "Install byola_rq again (pip install --force-reinstall --no-deps), or name another model"


def builtin_path() -> Path:
    """Return the path of the built-in model file after verifying its digest.

    Raises:
        CheckpointError: If the file is missing or damaged.
    """
    path = Path(__file__).with_name("builtin.safetensors")
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        message = f"{path}: the built-in encoder cannot be read ({error.strerror}). {_REMEDY}"
        raise CheckpointError(message, code="missing", path=path) from error
    if digest != SHA256:
        message = (
            f"{path}: the built-in encoder does not match {VERSION}'s digest (SHA-256). {_REMEDY}"
        )
        raise CheckpointError(message, code="damaged", path=path, value=digest)
    return path


def is_near_miss(name: str) -> bool:
    """Return True if `name` looks like a misspelling of `builtin`."""
    return bool(get_close_matches(name.lower(), [NAME], cutoff=0.8))
