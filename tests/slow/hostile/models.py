"""Model files and weights: headers, descriptions and pickles of strangers."""

import json
import pickle
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from byola_rq.model.model_file import read_description, read_weights, write_model_file
from tests.slow.hostile.case import (
    MARKUP,
    NAMED,
    REFUSED,
    SPOILED,
    Case,
    Made,
    damaged,
    link,
    nested,
    pipe,
    put,
)

EMBED = "embed {clip} -o out --model in/x.safetensors --device cpu --workers 1"
ONNX = "export in/x.safetensors --onnx out/x.onnx"
EVALUATE = "evaluate in/x.safetensors --task {labelled} --out out --device cpu --workers 1"


def tensors(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file of this header."""
    text = header.encode() if isinstance(header, str) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def _entry(**values: Any) -> dict[str, Any]:
    return {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], **values}}


HEADERS: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "seven bytes": lambda: b"\1\0\0\0\0\0\0",
    "a header of 2**63 bytes": lambda: tensors({}, length=2**63),
    "a header of 90 MB": lambda: tensors(" " * 90_000_000),
    "brackets without end": lambda: tensors(nested(depth=400_000)),
    "braces without end": lambda: tensors(nested('{"a":', "}", 90_000)),
    "a number of 100,000 digits": lambda: tensors('{"a":' + "9" * 100_000 + "}"),
    "a list": lambda: tensors([1, 2]),
    "no JSON": lambda: tensors("{" * 50),
    "not UTF-8": lambda: struct.pack("<Q", 4) + b"\xff\xfe{}",
    "a name in it twice": lambda: tensors('{"a":{},"a":{}}'),
    "a shape below zero": lambda: tensors(_entry(shape=[-1])),
    "a shape of 2**62": lambda: tensors(_entry(shape=[2**62, 4])),
    "offsets of words": lambda: tensors(_entry(data_offsets=["0", "4"])),
    "offsets below zero": lambda: tensors(_entry(data_offsets=[-8, -4])),
    "offsets of fractions": lambda: tensors(_entry(data_offsets=[0, 1e400])),
    "no shape": lambda: tensors({"a": {"dtype": "F32"}}),
    "a type of nobody": lambda: tensors(_entry(dtype=SPOILED)),
    "metadata that is a list": lambda: tensors({"__metadata__": [], **_entry()}, bytes(4)),
    "metadata without end": lambda: tensors({"__metadata__": {"byola_rq": nested(depth=100_000)}}),
    "a pickle of its name": lambda: pickle.dumps({"a": 1}),
    "a zip of its name": lambda: b"PK\3\4" + bytes(500),
}


def _described(change: Callable[[dict[str, Any]], object]) -> Callable[[Path, Made], None]:
    """A model file whose description is another one, its digests right."""

    def make(place: Path, made: Made) -> None:
        path = made.folder / "model.safetensors"
        description, _ = read_description(path)
        weights = read_weights(path, description["weights_sha256"])
        changed = change(description)
        write_model_file(
            place / "in/x.safetensors",
            changed if isinstance(changed, dict) else description,
            weights,
        )

    return make


def _frontend(**values: Any) -> Callable[[dict[str, Any]], object]:
    return lambda description: description["frontend"].update(values)


def _encoder(**values: Any) -> Callable[[dict[str, Any]], object]:
    return lambda description: description["encoder"].update(values)


def _statistics(**values: Any) -> Callable[[dict[str, Any]], object]:
    return lambda description: description["statistics"].update(values)


def _top(**values: Any) -> Callable[[dict[str, Any]], object]:
    return lambda description: description.update(values)


DESCRIPTIONS: dict[str, Callable[[dict[str, Any]], object]] = {
    "8 billion bands": _frontend(n_mels=8_000_000_000),
    "a million bands": _frontend(n_mels=1_000_000, n_fft=65_536),
    "bands that are text": _frontend(n_mels="64"),
    "bands that are true": _frontend(n_mels=True),
    "a hop of 10**12": _frontend(hop_length=10**12),
    "a hop of 160.5": _frontend(hop_length=160.5),
    "a rate of 10**12": _frontend(sample_rate=10**12),
    "an FFT of 2**40": _frontend(n_fft=2**40, win_length=2**40),
    "an FFT of 1e400": _frontend(n_fft=float("inf")),
    "an FFT that is a list": _frontend(n_fft=[1024]),
    "a frequency of NaN": _frontend(f_max=float("nan")),
    "a frequency that is null": _frontend(f_min=None),
    "a backend of nobody": _frontend(backend=SPOILED),
    "a frontend key of nobody": _frontend(**{SPOILED: 1}),
    "a frontend that is a list": _top(frontend=[]),
    "10**12 dimensions": _encoder(dim=10**12),
    "10**6 dimensions": _encoder(dim=10**6),
    "dimensions that are text": _encoder(dim="16"),
    "dimensions of 16.0": _encoder(dim=16.5),
    "an encoder of nobody": _encoder(name=SPOILED),
    "an encoder that is null": _top(encoder=None),
    "a mean of 1e400": _statistics(mean=float("inf")),
    "a mean of text": _statistics(mean=SPOILED),
    "a std of 0": _statistics(std=0),
    "a std of a list": _statistics(std=[1]),
    "statistics of nobody": _statistics(**{SPOILED: 1}),
    "a version of 10**4000": _top(format_version=10**4000),
    "a version of text": _top(format_version="1"),
}
# Read, because it is in bounds or decides nothing; and shown to nobody as it is.
SUMMARIES: dict[str, Callable[[dict[str, Any]], object]] = {
    "a spoiled license": _top(license=f"{SPOILED}\n{MARKUP}"),
    "a license that is a list": _top(license=[SPOILED]),
    "a spoiled training": _top(training={SPOILED: MARKUP, "release": {"version": SPOILED}}),
    "a training that is a list": _top(training=[1]),
    "a hop of 1": _frontend(hop_length=1),
    "a rate of 1": _frontend(sample_rate=1, f_min=0, f_max=0.5),
}


def _weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path, Made], None]:
    def make(place: Path, made: Made) -> None:
        path = made.folder / "model.safetensors"
        description, _ = read_description(path)
        weights = read_weights(path, description["weights_sha256"])
        change(weights)
        write_model_file(place / "in/x.safetensors", description, weights)

    return make


def _cast(dtype: torch.dtype) -> Callable[[dict[str, torch.Tensor]], object]:
    return lambda weights: weights.update({n: each.to(dtype) for n, each in weights.items()})


def _nan(weights: dict[str, torch.Tensor]) -> None:
    for each in weights.values():
        if each.is_floating_point():
            each.fill_(float("nan"))


WEIGHTS: dict[str, Callable[[dict[str, torch.Tensor]], object]] = {
    "weights of NaN": _nan,
    "weights of int8": _cast(torch.int8),
    "weights of complex numbers": _cast(torch.complex64),
    "weights of booleans": _cast(torch.bool),
    "weights of float64": _cast(torch.float64),
}


def _damaged_model(place: Path, made: Made, name: str) -> None:
    data = made.read("model.safetensors")
    most = 8 + int.from_bytes(data[:8], "little")
    put(place / "in/x.safetensors", damaged(data, made.random(name), most=most))


def cases() -> Iterator[Case]:
    kind = "model file"
    for name, content in HEADERS.items():
        make = lambda p, _, f=content: put(p / "in/x.safetensors", f())  # noqa: E731
        yield Case(kind, name, (EMBED,), make)
    for number, (name, change) in enumerate(DESCRIPTIONS.items()):
        yield Case(kind, name, ((EMBED, ONNX, EVALUATE)[number % 3],), _described(change))
    for name, change in SUMMARIES.items():
        yield Case(kind, name, (EMBED,), _described(change), NAMED)
    for name, change in WEIGHTS.items():
        # Numbers that are none are weights like others: what they compute is not held.
        statuses = NAMED if name.endswith(("float64", "NaN")) else REFUSED
        yield Case(kind, name, (EMBED,), _weights(change), statuses)
    for number in range(6):
        name = f"damaged {number}"
        yield Case(
            kind, name, (EMBED,), lambda p, m, n=name: _damaged_model(p, m, n), frozenset({1, 2})
        )
    yield Case(kind, "a FIFO", (EMBED, EVALUATE), lambda p, _: pipe(p / "in/x.safetensors"))
    yield Case(
        kind, "an endless device", (EMBED,), lambda p, _: link(p / "in/x.safetensors", "/dev/zero")
    )
    yield Case(
        kind,
        "a link to itself",
        (EMBED,),
        lambda p, _: link(p / "in/x.safetensors", "x.safetensors"),
    )
