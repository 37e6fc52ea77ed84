"""The encoder that the package carries."""

from importlib.resources import files
from pathlib import Path


def builtin_path() -> Path:
    """Path of its model file."""
    return Path(str(files("byola_rq") / "model" / "builtin.safetensors"))
