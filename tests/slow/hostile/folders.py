"""Folders: deep, in circles, with odd names, with pipes in them."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.slow.hostile.audio import embedding, packing, wav
from tests.slow.hostile.case import (
    FORMULA,
    NAMED,
    READ,
    SPOILED,
    Case,
    Made,
    files,
    link,
    pipe,
    put,
    unlike,
)


def _deep(place: Path, _: Made) -> None:
    put(place / "in/a.wav", wav())
    before = os.open(".", os.O_RDONLY)
    try:
        os.chdir(place / "in")
        for _number in range(1_800):  # a path of almost 4,096 bytes
            os.mkdir("d")
            os.chdir("d")
    finally:
        os.fchdir(before)
        os.close(before)


def _names(place: Path, _: Made) -> None:
    for name in (SPOILED, f"{FORMULA[:9]}", "a\nb", "\udcff\udc9b", "-rf", "x" * 240):
        put(place / "in" / f"{name}.wav", wav())


def _loops(place: Path, _: Made) -> None:
    put(place / "in/d/a.wav", wav())
    for number in range(200):
        link(place / f"in/d/l{number}", "../d")
    link(place / "in/up", "..")


def _self_link(name: str) -> Callable[[Path, Made], None]:
    def make(place: Path, _: Made) -> None:
        for other in ("b.wav", "m.wav", "y.wav"):
            put(place / "in" / other, wav())
        link(place / "in" / name, name)
        put(place / "in/list.csv", "path\nb.wav\nm.wav\ny.wav\n")

    return make


def _three_embedded(place: Path) -> str | None:
    index = place / "out/index.csv"
    rows = index.read_text().splitlines()[1:] if index.exists() else []
    return unlike([Path(row.split(",")[1]).name for row in rows], ["b.wav", "m.wav", "y.wav"])


def cases() -> Iterator[Case]:
    yield Case("folder", "1,800 deep", (embedding("in"),), _deep, NAMED)
    yield Case("folder", "spoiled names", (embedding("in"), packing("in")), _names, READ)
    yield Case("folder", "loops of links", (embedding("in"),), _loops, NAMED)
    for name in ("a.wav", "z.wav"):
        yield Case(
            "folder",
            f"a link to itself, {name}",
            (embedding("in"), embedding("in/list.csv")),
            _self_link(name),
            NAMED,
            check=_three_embedded,
        )
    yield Case(
        "folder",
        "a FIFO for a list, a tar, a table",
        tuple(embedding(f"in/{name}") for name in ("x.csv", "x.tar", "x.parquet", "x.tsv")),
        lambda place, _: [
            pipe(place / f"in/x.{name}") for name in ("csv", "tar", "parquet", "tsv")
        ],
    )
    yield Case("folder", "only hidden files", (embedding("in"),), files({".a.wav": wav()}))
