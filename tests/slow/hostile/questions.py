"""Folders of embeddings and classifiers given to search, map and classify."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save

from byola_rq.text.cells import csv_text
from tests.slow.hostile.arrays import npy
from tests.slow.hostile.case import (
    FORMULA,
    MARKUP,
    NAMED,
    SPOILED,
    Case,
    Change,
    Made,
    changed,
    link,
    pipe,
    put,
)

_MODEL = "--model {model} --device cpu --workers 1"
SEARCH = f"search {{clip}} in/e --html out/page.html {_MODEL}"
MAP = f"map in/e -o out/page.html {_MODEL}"
CLASSIFY = f"classify in/c.safetensors {{embeddings}} -o out/p.csv {_MODEL}"
LABELS = f"classify in/labels.csv {{embeddings}} -o out/p.csv {_MODEL}"

_folder = partial(changed, "embeddings", "in/e")


def _array(array: Any) -> Change:
    return lambda folder: np.save(folder / "embeddings.npy", array)


def _index(*cells: str, seconds: str = "1") -> Change:
    text = csv_text([("row", "path", "seconds"), *((0, cell, seconds) for cell in cells)])
    return lambda folder: put(folder / "index.csv", text)


ROWS = np.arange(48, dtype=np.float32).reshape(3, 16)
FOLDERS: dict[str, Change] = {
    "rows that are equal": _array(ROWS * 0),
    "rows of 1e38": _array(ROWS * 0 + 3e38),
    "rows of 1e-45": _array(ROWS * 1e-45),
    "rows of infinity": _array(ROWS + np.inf),
    "rows of one number": _array(ROWS[:, :1]),
    "rows below zero": lambda folder: put(folder / "embeddings.npy", npy((-3, 16), "<f4")),
    "a zip of rows": lambda folder: np.savez((folder / "embeddings.npy").open("wb"), ROWS),
    "rows that are a FIFO": lambda folder: pipe(folder / "embeddings.npy"),
    "paths of two kinds": _index("a.wav", "/b.wav", "../c.wav"),
    "paths with nulls": _index("a\0.wav", "b.wav", "c.wav"),
    "spoiled paths": _index(SPOILED, FORMULA, MARKUP),
    "paths of the system": _index("/dev/zero", "/etc/passwd", "http://127.0.0.1:9/a.wav"),
    "-1e999 seconds": _index("a", "b", "c", seconds="-1e999"),
    "NaN seconds": _index("a", "b", "c", seconds="nan"),
    "100,000 columns": lambda folder: put(
        folder / "index.csv", f"{'c,' * 100_000}path,seconds\n" + f"{'1,' * 100_000}a.wav,1\n" * 3
    ),
}


def _classifier(change: Callable[[dict[str, Any], dict[str, Any]], object]) -> Any:
    """Make a classifier, as `--save` writes it, with changed description and tensors."""

    def make(place: Path, made: Made) -> None:
        data = made.read("classifier.safetensors")
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        ((key, text),) = header["__metadata__"].items()
        about, tensors = json.loads(text), load_file(made.folder / "classifier.safetensors")
        change(about, tensors)
        put(place / "in/c.safetensors", save(tensors, {key: json.dumps(about)}))

    return make


def _one_dimension(_: dict[str, Any], tensors: dict[str, Any]) -> None:
    tensors |= {name: tensors[name][..., :1].copy() for name in ("mean", "std", "weights")}


CLASSIFIERS: dict[str, tuple[Any, Any]] = {
    "spoiled classes": (
        _classifier(lambda about, _: about.update(classes=[SPOILED, FORMULA])),
        NAMED,
    ),
    "classes that are no text": (
        _classifier(lambda about, _: about.update(classes=["\ud800", "b"])),
        NAMED,
    ),
    "one dimension": (_classifier(_one_dimension), {2}),
    "weights of int64": (
        _classifier(lambda _, tensors: tensors.update(weights=tensors["weights"].astype(int))),
        {2},
    ),
    "weights of NaN": (
        _classifier(lambda _, tensors: tensors.update(weights=tensors["weights"] * np.nan)),
        {2},
    ),
    "a tensor more": (_classifier(lambda _, tensors: tensors.update(path=tensors["std"])), {2}),
    "accuracy of text": (_classifier(lambda about, _: about.update(expected={SPOILED: 1})), {2}),
    "a FIFO": (lambda place, _: pipe(place / "in/c.safetensors"), {2}),
    "an endless device": (lambda place, _: link(place / "in/c.safetensors", "/dev/zero"), {2}),
}


def cases() -> Iterator[Case]:
    for number, (name, change) in enumerate(FOLDERS.items()):
        command = (SEARCH, MAP)[number // 2 % 2]
        yield Case("questions", name, (command,), _folder(change), NAMED)
    for name, (make, statuses) in CLASSIFIERS.items():
        yield Case("classifier", name, (CLASSIFY,), make, frozenset(statuses))
    for name, make in {
        "a FIFO": lambda place, _: pipe(place / "in/labels.csv"),
        "an endless device": lambda place, _: link(place / "in/labels.csv", "/dev/zero"),
        "2,000 folders": lambda place, _: put(
            place / "in/labels.csv", f"file_name,label\n{'a/' * 2_000}b.wav,x\n"
        ),
    }.items():
        yield Case("labelled csv", f"labels: {name}", (LABELS,), make)
