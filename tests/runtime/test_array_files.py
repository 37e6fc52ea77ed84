"""Array files: what numpy writes comes back, and what no file of that size can hold is refused."""

import os
from pathlib import Path

import numpy as np
import pytest

from byola_rq.runtime.array_files import find_array, map_array


def npy(header: str, version: int = 1) -> bytes:
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + len(text).to_bytes(2, "little") + text


def says(dtype: str, shape: str, order: bool = False) -> bytes:
    return npy(f"{{'descr': {dtype!r}, 'fortran_order': {order}, 'shape': {shape}, }}")


@pytest.mark.parametrize(
    "array",
    [
        np.arange(7, dtype=np.int16),
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.zeros((3, 1, 4), np.uint8),
        np.zeros((0, 4)),
        np.float64(5.0),
        np.array([True, False]),
    ],
    ids=str,
)
def test_what_numpy_writes_is_found_and_mapped(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", array)
    found = find_array(tmp_path / "a.npy")
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    mapped = map_array(tmp_path / "a.npy", array.dtype, array.shape)
    assert mapped.mode == "r"
    np.testing.assert_array_equal(mapped, array)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy", mmap_mode="r"), array)


def test_one_that_may_grow_is_found(tmp_path: Path) -> None:
    np.lib.format.open_memmap(tmp_path / "a.npy", "w+", np.float32, (10_000, 3))
    assert find_array(tmp_path / "a.npy").shape == (10_000, 3)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93NUMPY",
        says("<i2", "(32212254720,)"),  # 60 GiB
        says("<i2", f"({2**62}, {2**62})") + bytes(64),
        says("<i2", "(4,)") + bytes(7),
        says("<i2", "(4,)") + bytes(9),
        says("<i2", "(-4,)") + bytes(8),
        says("<i2", "(4,)", order=True)[:-1] + b" " + bytes(9),
        says("<f4", "(2, 2)", order=True) + bytes(16),
        says("|O", "(1,)") + bytes(8),
        says("|V1000000000", "(1,)"),
        says("<i2", f"({'1, ' * 40})") + bytes(2),
        npy("(" * 100),
        npy("__import__('os').system('true')"),
        says("<i2", "(1,)").replace(b"NUMPY\1", b"NUMPY\2") + bytes(2),
        b"\x93NUMPY\2\0\xff\xff\xff\xff{}",
    ],
    ids=range(16),
)
def test_what_is_no_array_of_its_size_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.npy").write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.npy"):
        find_array(tmp_path / "a.npy")


def test_another_type_or_shape_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((3, 2), np.float32))
    for dtype, shape in ((np.float64, (3, 2)), (np.float32, (2, 3)), (">f4", (3, 2))):
        with pytest.raises(ValueError, match=r"\(3, 2\)"):
            map_array(tmp_path / "a.npy", dtype, shape)


def test_a_pipe_is_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.npy")
    with pytest.raises(OSError, match=r"a\.npy"):
        find_array(tmp_path / "a.npy")
    with pytest.raises(FileNotFoundError):
        find_array(tmp_path / "b.npy")
