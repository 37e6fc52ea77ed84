"""Packed corpora and half packed ones, with the arrays of their shards."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.slow.hostile.arrays import ARRAYS
from tests.slow.hostile.case import (
    FORMULA,
    MARKUP,
    NAMED,
    READ,
    SPOILED,
    Case,
    Change,
    Made,
    changed,
    damaged,
    digest_of,
    link,
    nested,
    pipe,
    put,
)

INFO = "info in/c"
VERIFY = "prepare --verify in/c"
PACK = "prepare {sounds} in/c --workers 1"
PRETRAIN = "pretrain {small} run.dir=out data.source=in/c"
ALL = (INFO, VERIFY, PRETRAIN)

corpus = partial(changed, "packed", "in/c")


def _info(change: Callable[[dict[str, Any]], object]) -> Change:
    def change_it(folder: Path) -> None:
        info = json.loads((folder / "corpus.json").read_text())
        changed = change(info)
        put(folder / "corpus.json", changed if changed is not None else info)

    return change_it


def _sign(folder: Path, name: str) -> None:
    """Let corpus.json tell what a file now is."""
    info = json.loads((folder / "corpus.json").read_text())
    info["files"][name] = digest_of(folder / name)
    put(folder / "corpus.json", info)


def _file(name: str, data: bytes | Callable[[], bytes]) -> Change:
    def change_it(folder: Path) -> None:
        put(folder / name, data if isinstance(data, bytes) else data())
        _sign(folder, name)

    return change_it


def _index(change: Callable[[pa.Table], pa.Table]) -> Change:
    def change_it(folder: Path) -> None:
        table = change(pq.read_table(folder / "index.parquet"))
        pq.write_table(table, folder / "index.parquet")
        _sign(folder, "index.parquet")

    return change_it


def _column(name: str, values: Any) -> Change:
    def change_it(table: pa.Table) -> pa.Table:
        place = table.column_names.index(name)
        return table.set_column(place, name, pa.array(values))

    return _index(change_it)


def _text(text: str | bytes) -> Change:
    return lambda folder: put(folder / "corpus.json", text)


def _listed(name: str) -> Callable[[dict[str, Any]], object]:
    """A file of another place, named among the corpus'."""
    return lambda info: info["files"].update({name: {"bytes": 0, "sha256": "0"}})


SHARD = "pcm-00000.npy"
REFUSED_INFOS: dict[str, Change] = {
    "nothing": _text(""),
    "brackets without end": _text(nested()),
    "braces without end": _text(nested('{"a":', "}", 50_000)),
    "a list": _text("[]"),
    "not UTF-8": _text(b"\xff\xfe{}"),
    "a format that is a list": _info(lambda info: info.update(format=[SPOILED])),
    "a version that spoils": _info(lambda info: info.update(format_version=SPOILED)),
    "no files": _info(lambda info: info.pop("files") and None),
    "files that are a list": _info(lambda info: info.update(files=[])),
    "a file of no size": _info(lambda info: info["files"].update({SHARD: {}})),
    "a size that is text": _info(lambda info: info["files"][SHARD].update(bytes="a")),
    "a size of 10**4000": _info(lambda info: info["files"][SHARD].update(bytes=10**4000)),
    "a digest that is null": _info(lambda info: info["files"][SHARD].update(sha256=None)),
    "a file that climbs": _info(_listed("../../around/victim.txt")),
    "a file of the system": _info(_listed("/etc/passwd")),
    "an endless device": _info(_listed("/dev/zero")),
    "a file that spoils": _info(_listed(SPOILED)),
    "a file with a null": _info(_listed("a\0b")),
    "10**9 shards": _info(lambda info: info.update(shards=10**9)),
    "shards below zero": _info(lambda info: info.update(shards=-1)),
    "shards that are text": _info(lambda info: info.update(shards="1")),
    "clips that are text": _info(lambda info: info.update(clips=SPOILED)),
    "hours that are text": _info(lambda info: info.update(hours=SPOILED)),
    "rejects that are text": _info(lambda info: info.update(rejected=SPOILED, duplicates=[])),
    "a rate that is text": _info(lambda info: info.update(sample_rate="16 kHz")),
}


def _fifo(name: str) -> Change:
    def change_it(folder: Path) -> None:
        pipe(folder / name)
        info = json.loads((folder / "corpus.json").read_text())
        info["files"].setdefault(name, {"sha256": "0"})["bytes"] = 0
        put(folder / "corpus.json", info)

    return change_it


FIFOS = {name: _fifo(name) for name in (SHARD, "index.parquet", "rejected.csv", "more.bin")}

INDICES: dict[str, Change] = {
    "an offset below zero": _column("offset", [-1, 0, 0]),
    "an offset of 2**63": _column("offset", [2**63 - 1, 0, 0]),
    "a length of 2**63": _column("num_samples", [2**63 - 1, 1, 1]),
    "a length of 0": _column("num_samples", [0, 1, 1]),
    "a shard of none": _column("shard", [7, 0, 0]),
    "a shard that is null": _column("shard", [None, 0, 0]),
    "a shard of text": _column("shard", ["a", "b", "c"]),
    "no offset": _index(lambda table: table.drop_columns("offset")),
    "a column twice": _index(lambda table: table.append_column("shard", table["shard"])),
    "no row": _index(lambda table: table.slice(0, 0)),
    "a million rows": _index(lambda table: pa.concat_tables([table.slice(0, 1)] * 1_000_000)),
}
# What is said of the clips is told, and no more than told.
SPOILED_TEXTS: dict[str, Change] = {
    "spoiled ids": _column("clip_id", [f"{SPOILED}", f"{FORMULA}\n", MARKUP]),
    "spoiled labels": _column("labels", [SPOILED, f"{FORMULA}\r\n", "a,b\x1b[2J"]),
    "spoiled reasons": _file("rejected.csv", f'source,reason\nx,"{SPOILED}\n"\n'.encode()),
}


def cases() -> Iterator[Case]:
    for number, (name, change) in enumerate(REFUSED_INFOS.items()):
        commands = (ALL[number % 3], ALL[(number + 1) % 3]) if number > 6 else (INFO,)
        yield Case(
            "corpus.json",
            name,
            commands,
            corpus(change),
            NAMED if "text" in name else frozenset({1, 2}),
        )
    for name, change in FIFOS.items():
        yield Case("corpus.json", f"{name} is a FIFO", (VERIFY, INFO), corpus(change))
    link_out = corpus(lambda folder: link(folder / "corpus.json", "/dev/zero"))
    yield Case("corpus.json", "is an endless device", (INFO, PACK), link_out, out="in/c")
    yield Case("corpus.json", "is a FIFO", (INFO,), corpus(lambda f: pipe(f / "corpus.json")))
    for name, content in ARRAYS.items():
        yield Case("npy", f"a shard: {name}", (INFO,), corpus(_file(SHARD, content)))
    for number in range(4):
        name = f"a shard, damaged {number}"

        def break_it(place: Path, made: Made, name=name) -> None:
            data = damaged(made.read(f"packed/{SHARD}"), made.random(name), most=128)
            corpus(_file(SHARD, data))(place, made)

        yield Case("npy", name, (INFO,), break_it, NAMED)
    for number, (name, change) in enumerate(INDICES.items()):
        yield Case("index", name, ((INFO, PRETRAIN)[number % 2],), corpus(change))
    for name, change in SPOILED_TEXTS.items():
        yield Case("index", name, (INFO, VERIFY), corpus(change), READ)
