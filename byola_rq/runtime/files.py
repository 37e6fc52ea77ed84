"""Files that are whole or not there."""

import os
from pathlib import Path


def replace_file(path: Path, text: str) -> None:
    """Write a whole file under another name, then give it its own: it is never half there."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
