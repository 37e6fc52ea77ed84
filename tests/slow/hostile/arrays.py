"""Array files whose headers lie."""

import io
from collections.abc import Callable

import numpy as np


def npy(
    shape: tuple[int, ...], dtype: str = "<i2", data: bytes = b"", order: bool = False
) -> bytes:
    """An array file that says this of itself."""
    return npy_of(f"{{'descr': {dtype!r}, 'fortran_order': {order}, 'shape': {shape}, }}", data)


def npy_of(header: str, data: bytes = b"", version: int = 1) -> bytes:
    width = 2 if version == 1 else 4
    text = header.encode().ljust(118 if version == 1 else 116)[: 2**16 - 2] + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + len(text).to_bytes(width, "little") + text + data


def objects() -> bytes:
    """An array of Python objects, which numpy pickles."""
    file = io.BytesIO()
    np.save(file, np.array([{"a": 1}], object), allow_pickle=True)
    return file.getvalue()


ARRAYS: dict[str, Callable[[], bytes]] = {
    "60 GiB in 128 bytes": lambda: npy((32 * 2**30,)),
    "2**62 samples": lambda: npy((2**62,)),
    "samples below zero": lambda: npy((-1,)),
    "100 axes": lambda: npy((1,) * 100),
    "a shape of no numbers": lambda: npy_of(
        "{'descr': '<i2', 'fortran_order': False, 'shape': 'a'}"
    ),
    "a shape of 5,000 digits": lambda: npy_of(
        f"{{'descr': '<i2', 'fortran_order': False, 'shape': ({'9' * 5_000},)}}"
    ),
    "pickled objects": objects,
    "brackets without end": lambda: npy_of("(" * 5_000 + ")" * 5_000),
    "an expression without end": lambda: npy_of("-" * 60_000 + "1"),
    "a header of 4 GB": lambda: b"\x93NUMPY\2\0\xff\xff\xff\xff{}",
    "a version of nobody": lambda: b"\x93NUMPY\x09\x09\0\0",
    "code": lambda: npy_of("__import__('os').system('touch ../around/owned')"),
    "items of 1 GB": lambda: npy((4,), "|V1000000000"),
    "big-endian samples": lambda: npy((8,), ">i2", bytes(16)),
    "samples of 64 bits": lambda: npy((8,), "<f8", bytes(64)),
    "columns first": lambda: npy((4, 4), "<i2", bytes(32), True),
    "nothing": lambda: b"",
}
