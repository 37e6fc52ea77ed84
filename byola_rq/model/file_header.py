"""Header of a safetensors file, read with bounds on size and content."""

import os
from pathlib import Path
from typing import Any

from byola_rq.errors import CheckpointError, Code
from byola_rq.text.parse import open_file, parse_json

MAX_HEADER_BYTES = 1 << 20  # written headers have about 5 kB; a longer one is not read

_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def read_header(path: Path) -> dict[str, Any]:
    """Read the JSON header after checking its stated length.

    Raises:
        CheckpointError: If the file is missing, truncated, foreign, or its header lists no tensors.
    """
    if path.is_dir():
        raise CheckpointError(
            f"{path}: a folder; name the model file in it", code="foreign", path=path
        )
    if not path.is_file():
        raise CheckpointError(f"{path}: no such model file", code="missing", path=path)
    try:
        with open_file(path) as file:
            num_bytes = os.fstat(file.fileno()).st_size
            start = file.read(8)
            length = _check_start(path, start, num_bytes)
            header = parse_object(path, file.read(length))
    except OSError as error:
        raise unreadable(path, "unreadable", error.strerror or str(error)) from error
    try:
        entries = [entry for name, entry in header.items() if name[:2] != "__"]
        expected = 8 + length + max((entry["data_offsets"][1] for entry in entries), default=0)
        if not all(isinstance(size, int) for entry in entries for size in entry["shape"]):
            raise TypeError
    except (KeyError, TypeError, IndexError) as error:
        raise unreadable(path, "malformed", "its header lists no tensors") from error
    if num_bytes < expected:
        reason = f"cut short: must have {expected} bytes; got {num_bytes}"
        raise unreadable(path, "cut", reason, value=num_bytes)
    return header


def _check_start(path: Path, start: bytes, num_bytes: int) -> int:
    """Return the length of the header in bytes, from the eight bytes before it."""
    if start.startswith(_PICKLES):
        raise unreadable(
            path,
            "unsupported",
            "it is a pickle, as written by torch.save; for weights in the published naming, use "
            "`byola-rq import-weights`",
        )
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length > num_bytes - 8:
        reason = f"foreign or cut short: {num_bytes} bytes without a complete header"
        raise unreadable(path, "damaged", reason)
    if length > MAX_HEADER_BYTES:
        reason = f"its header must be at most {MAX_HEADER_BYTES} bytes; got {length}, not read"
        raise unreadable(path, "too-large", reason, key="header", value=length)
    return length


def parse_object(path: Path, text: bytes) -> dict[str, Any]:
    """Parse a JSON object of a model file.

    Raises:
        CheckpointError: If it is not one.
    """
    try:
        value: dict[str, Any] = parse_json(text)
    except ValueError as error:
        raise unreadable(path, "malformed", f"its header is not a JSON object: {error}") from error
    return value


def unreadable(path: Path, code: Code, reason: str, **facts: Any) -> CheckpointError:
    """Return the error of a file that cannot be read."""
    message = f"{path}: not a model file that can be read ({reason})"
    return CheckpointError(message, code=code, path=path, **facts)
