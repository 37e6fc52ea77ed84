"""Files of torch.save, as published weights are: pickles in zips."""

import io
import pickle
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import torch

from tests.slow.hostile.case import (
    SPOILED,
    Case,
    files,
    pipe,
    put,
)

IMPORT = "import-weights in/x.pth out/x.safetensors --dim 16 --mean 0 --std 1"


class _Runs:
    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.system, ("touch ../around/owned",)


def _pickled(content: Any, **options: Any) -> Callable[[], bytes]:
    def write() -> bytes:
        file = io.BytesIO()
        torch.save(content, file, **options)
        return file.getvalue()

    return write


def _zip_of(name: str, data: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)
    return file.getvalue()


PICKLES: dict[str, Callable[[], bytes]] = {
    "code": _pickled({"a": _Runs()}),
    "code, as older versions wrote it": _pickled(
        {"a": _Runs()}, _use_new_zipfile_serialization=False
    ),
    "a bare pickle of code": lambda: pickle.dumps(_Runs()),
    "nothing": lambda: b"",
    "a zip of 1 GB": lambda: _zip_of("archive/data.pkl", bytes(1 << 30)),
    "a zip of a path that climbs": lambda: _zip_of("../../around/owned", b"x"),
    "spoiled names": _pickled({SPOILED: torch.zeros(1)}),
    "names of numbers": _pickled({1: torch.zeros(1), None: torch.zeros(1)}),
    "a dictionary in a dictionary": _pickled({"model": {"state_dict": {"model": {}}}}),
    "a tensor that repeats one number": _pickled(
        {"fc.0.weight": torch.zeros(1).expand(10**6, 10**6)}
    ),
}


def cases() -> Iterator[Case]:
    for name, content in PICKLES.items():
        make = lambda p, _, f=content: put(p / "in/x.pth", f())  # noqa: E731
        yield Case("weights", name, (IMPORT,), make)
    yield Case("weights", "a FIFO", (IMPORT,), lambda p, _: pipe(p / "in/x.pth"))
    yield Case("weights", "none", (IMPORT,), files({}))
