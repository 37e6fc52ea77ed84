"""A hostile input: what it is, how it is made, which commands read it, what is right of them."""

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SECONDS_AT_MOST = 30.0
REFUSED = frozenset({1, 2})
NAMED = frozenset({0, 1, 2})  # read without what is hostile in it, which is named, or refused
READ = frozenset({0})


@dataclass(frozen=True)
class Made:
    """The whole and harmless things that hostile ones are made from."""

    folder: Path
    seed: int = 0

    def random(self, name: str) -> np.random.Generator:
        """Return the random generator for the input of this name."""
        return np.random.default_rng([self.seed, zlib.crc32(name.encode())])

    @property
    def paths(self) -> dict[str, str]:
        """Paths that commands may name."""
        names = (
            "sounds",
            "clip.wav",
            "model.safetensors",
            "packed",
            "run",
            "labelled.csv",
            "small.yaml",
            "embeddings",
        )
        return {name.partition(".")[0]: str(self.folder / name) for name in names}

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()


@dataclass(frozen=True)
class Case:
    """An input in `in/` of a folder of its own, in which the commands are run.

    Args:
        kind: Of input, a word.
        name: Within its kind.
        commands: Words of each; `{model}` and the like stand for harmless files of `Made.paths`.
        make: Writes it into the folder it is given; beside `in/` lies what no command may change.
        statuses: That are right.
        out: Folder that the commands may write to, relative to theirs.
        seconds: That a command may take.
        check: What else is wrong after a command, if anything; given the case's folder.
    """

    kind: str
    name: str
    commands: tuple[str, ...]
    make: Callable[[Path, Made], object]
    statuses: frozenset[int] = REFUSED
    out: str = "out"
    seconds: float = SECONDS_AT_MOST
    check: Callable[[Path], str | None] = lambda _: None


def put(path: Path, data: bytes | str | object) -> None:
    """Write a file and the folders above it; what is neither bytes nor text as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(data, bytes):
        data = (data if isinstance(data, str) else json.dumps(data)).encode(
            "utf-8", "surrogateescape"
        )
    path.write_bytes(data)


def files(contents: dict[str, bytes | str | object]) -> Callable[[Path, Made], None]:
    """A maker of files in `in/`, by their names there."""

    def make(place: Path, _: Made) -> None:
        for name, data in contents.items():
            put(place / "in" / name, data)

    return make


Change = Callable[[Path], object]  # changes what a path holds


def changed(name: str, copy: str, change: Change) -> Callable[[Path, Made], None]:
    """Return a maker of a changed copy of a harmless folder `name` of `Made`, at `copy`."""

    def make(place: Path, made: Made) -> None:
        shutil.copytree(made.folder / name, place / copy)
        change(place / copy)

    return make


def pipe(path: Path) -> None:
    """A FIFO that nobody writes to."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def link(path: Path, target: str | Path) -> None:
    """A symbolic link in the place of whatever is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def digest_of(path: Path) -> dict[str, Any]:
    """A file as corpus.json and, by other names, manifest.json tell of it."""
    data = path.read_bytes()
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def damaged(data: bytes, random: np.random.Generator, *, most: int | None = None) -> bytes:
    """Bytes with a few others in their place, cut, doubled or with a hole."""
    place = int(random.integers(0, min(len(data), most or len(data))))
    kind = random.integers(5)
    if kind == 0:
        return data[:place]
    if kind == 1:
        return data[:place] + random.bytes(int(random.integers(1, 64))) + data[place:]
    if kind == 2:
        return data[:place] + b"\xff" * 8 + data[place + 8 :]
    if kind == 3:
        return data[:place] + bytes(8) + data[place + 8 :]
    changed = bytearray(data)
    for each in random.integers(0, min(len(data), most or len(data)), 8):
        changed[each] = random.integers(0, 256)
    return bytes(changed)


def nested(opening: str = "[", closing: str = "]", depth: int = 200_000) -> str:
    """Brackets without end."""
    return opening * depth + closing * depth


def unlike(values: Iterable[Any], known: Iterable[Any]) -> str | None:
    """A complaint if two lists differ."""
    got, wanted = sorted(values), sorted(known)
    return None if got == wanted else f"got {got}, wanted {wanted}"


# In names, labels and ids: title of the terminal, colors, a line of its own, right to left.
SPOILED = "a\x1b]0;owned\x07\x1b[31m\u202egnp.\u2066b\x9bc"
FORMULA = '=HYPERLINK("http://x.invalid","a")'
MARKUP = "<img src=x onerror=owned()>"
