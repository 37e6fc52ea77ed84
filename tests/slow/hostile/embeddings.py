"""Folders of embeddings: half written by a stranger, or with links in them."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tests.slow.hostile.arrays import ARRAYS, npy
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
    nested,
    pipe,
    put,
    unlike,
)

EMBED = "embed {sounds} -o in/e --model {model} --device cpu --workers 1"
LISTEN = "listen {clip} -o in/e/page.html --wav in/e/wavs --bins 2 --model {model}"

_folder = partial(changed, "embeddings", "in/e")


def _half(change: Change) -> Callable[[Path, Made], None]:
    """Make an embeddings folder marked as stopped before any row was written."""

    def make(place: Path, made: Made) -> None:
        folder = place / "in/e"
        meta = json.loads(made.read("embeddings/meta.json"))
        put(folder / ".partial.key", meta["content_key"])
        np.save(folder / ".partial.npy", np.zeros((3, 16), np.float32))
        np.save(folder / ".partial.done.npy", np.zeros((3, 1), np.uint8))
        change(folder)

    return make


def _array(name: str, array: Any) -> Change:
    return lambda folder: np.save(folder / name, array)


def _right(place: Path) -> str | None:
    """Embedded, or refused; what is there is what the sounds give."""
    path = place / "in/e/embeddings.npy"
    if not path.is_file():
        return None
    try:
        rows = np.load(path, allow_pickle=False)
    except ValueError as error:
        return f"embeddings.npy: {error}"
    if rows.shape != (3, 16) or rows.dtype != np.float32:
        return f"embeddings.npy is {rows.dtype} {rows.shape}"
    zeros = [float(np.abs(row).max()) == 0 for row in rows]
    return unlike(zeros, [False] * 3)


def _meta(change: Callable[[dict[str, Any]], object]) -> Change:
    def change_it(folder: Path) -> None:
        meta = json.loads((folder / "meta.json").read_text())
        change(meta)
        put(folder / "meta.json", meta)

    return change_it


HALVES: dict[str, Change] = {
    "rows of another type": _array(".partial.npy", np.zeros((3, 16), np.float64)),
    "rows of bytes": _array(".partial.npy", np.zeros((3, 16), np.uint8)),
    "rows of another size": _array(".partial.npy", np.zeros((3, 8), np.float32)),
    "rows in columns": _array(".partial.npy", np.zeros((16, 3), np.float32).T),
    "one axis": _array(".partial.npy", np.zeros(48, np.float32)),
    "marks of another type": _array(".partial.done.npy", np.zeros((3, 1), np.float64)),
    "marks of another size": _array(".partial.done.npy", np.zeros((3, 2), np.uint8)),
    "big-endian rows": _array(".partial.npy", np.zeros((3, 16), ">f4")),
    "a key without end": lambda folder: put(folder / ".partial.key", "x" * 50_000_000),
    "a key that is a FIFO": lambda folder: pipe(folder / ".partial.key"),
    "rows that are a FIFO": lambda folder: pipe(folder / ".partial.npy"),
    "marks that are an endless device": lambda folder: link(
        folder / ".partial.done.npy", "/dev/zero"
    ),
    "60 GiB of rows": lambda folder: put(folder / ".partial.npy", npy((3, 16 * 2**30), "<f4")),
}
METAS: dict[str, Change] = {
    "failed clips of nobody": _meta(lambda meta: meta.update(failed=[[999, "x"], [-1, "y"]])),
    "failed clips of text": _meta(lambda meta: meta.update(failed=SPOILED)),
    "failed clips that spoil": _meta(lambda meta: meta.update(failed=[[0, SPOILED], [1, FORMULA]])),
    "failed clips that are numbers": _meta(lambda meta: meta.update(failed=3)),
    "braces without end": lambda folder: put(folder / "meta.json", nested('{"a":', "}", 50_000)),
    "a FIFO": lambda folder: pipe(folder / "meta.json"),
}
VICTIM = "../../around/victim.txt"
LINKS = (".lock", "embeddings.npy", "index.csv", "meta.json", ".partial.npy", ".partial.key")


def _link(name: str) -> Change:
    def change_it(folder: Path) -> None:
        for each in folder.iterdir():
            each.unlink()
        link(folder / name, VICTIM)

    return change_it


def _link_page(folder: Path) -> None:
    link(folder / "page.html", VICTIM)
    (folder / "wavs").mkdir()
    for name in ("original", "segment", "view_1", "view_2"):
        link(folder / f"wavs/{name}.wav", "../../../around/victim.txt")


def _index(text: str) -> Change:
    return lambda folder: put(folder / "index.csv", text)


NEIGHBORS: dict[str, Change] = {
    "an index of nobody": _index("a,b\n1,2\n"),
    "an index of unlike rows": _index("row,path,seconds\n0,a.wav,1\n"),
    "an index without end": _index('row,path,seconds\n0,"' + "a" * 3_000_000),
    "an index that is a FIFO": lambda folder: pipe(folder / "index.csv"),
    "embeddings of text": _array("embeddings.npy", np.array(["a", "b", "c"])),
    "pickled objects": lambda folder: put(folder / "embeddings.npy", ARRAYS["pickled objects"]()),
}


def cases() -> Iterator[Case]:
    for name, change in HALVES.items():
        yield Case(
            "embeddings", f"half: {name}", (EMBED,), _half(change), NAMED, "in/e", check=_right
        )
    for name, change in METAS.items():
        yield Case(
            "embeddings", f"meta: {name}", (EMBED,), _folder(change), NAMED, "in/e", check=_right
        )
    for name in LINKS:
        command = f"{EMBED} --overwrite"
        yield Case(
            "embeddings", f"{name} is a link", (command,), _folder(_link(name)), NAMED, "in/e"
        )
    yield Case("page", "links in its place", (LISTEN,), _folder(_link_page), NAMED, "in/e")
    for name, change in NEIGHBORS.items():
        yield Case("embeddings", f"read: {name}", ("read_embeddings in/e",), _folder(change))
    names = _folder(_index(f"row,path,seconds\n0,{SPOILED},1\n1,{FORMULA},1\n2,{MARKUP},1\n"))
    yield Case("embeddings", "read: spoiled paths", ("read_embeddings in/e",), names, NAMED)
