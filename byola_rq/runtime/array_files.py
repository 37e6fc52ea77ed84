"""Array files (.npy), whose headers are checked against the files' sizes before use."""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from byola_rq.text.parse import open_file

# The form in which numpy writes it for plain numbers, so that nothing has to be evaluated.
_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00(?P<length>..)"
    rb"\{'descr': '(?P<dtype>[<>|][biuf][0-9]{1,2})', 'fortran_order': (?P<order>True|False), "
    rb"'shape': \((?P<shape>(?:[0-9]{1,18}(?:, [0-9]{1,18}){0,31},?)?)\), \} *\n",
    re.DOTALL,
)
_MOST_HEADER_BYTES = 1024


@dataclass(frozen=True)
class ArrayFile:
    """Header of an array file in row-major order."""

    path: Path
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int  # of its first number, in bytes

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape}"

    def map(self) -> "np.memmap[Any, np.dtype[Any]]":
        """Memory-map the array read-only."""
        return np.memmap(self.path, self.dtype, "r", self.offset, self.shape)


def find_array(path: Path) -> ArrayFile:
    """Read the header of an array file.

    Raises:
        OSError: If it cannot be read, or is not a regular file.
        ValueError: If it is not an array file of plain numbers, or its size is wrong.
    """
    with open_file(path) as file:
        start = file.read(_MOST_HEADER_BYTES)
    header = _HEADER.match(start)
    if header is None or header.end() != 10 + int.from_bytes(header["length"], "little"):
        raise ValueError(f"{path.name} is not an array file of plain numbers")
    shape = tuple(int(axis) for axis in header["shape"].replace(b",", b" ").split())
    if header["order"] == b"True" and len(shape) > 1:
        raise ValueError(f"{path.name} must have its rows first")
    array = ArrayFile(path, np.dtype(header["dtype"].decode()), shape, header.end())
    expected = header.end() + math.prod(shape) * array.dtype.itemsize
    if (num_bytes := path.stat().st_size) != expected:
        raise ValueError(f"{path.name}, {array}, must have {expected} bytes; got {num_bytes}")
    return array


def map_array(
    path: Path, dtype: npt.DTypeLike, shape: tuple[int, ...]
) -> "np.memmap[Any, np.dtype[Any]]":
    """Memory-map an array file that must have this type and shape.

    Raises:
        OSError: As `find_array`.
        ValueError: As `find_array`, or if it has another type or shape.
    """
    array = find_array(path)
    if array.dtype != np.dtype(dtype) or array.shape != shape:
        raise ValueError(f"{path.name} must be {np.dtype(dtype)} {shape}; got {array}")
    return array.map()
