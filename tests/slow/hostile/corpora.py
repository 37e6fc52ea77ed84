"""Packed corpora and half packed ones, with the arrays of their shards."""

import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.slow.hostile.case import (
    FORMULA,
    MARKUP,
    NAMED,
    READ,
    SPOILED,
    Case,
    Made,
    damaged,
    digest_of,
    link,
    nested,
    pipe,
    put,
)

INFO = "info in/c"
VERIFY = "prepare --verify in/c"
MERGE = "prepare --merge in/c"
PACK = "prepare {sounds} in/c --workers 1"
PRETRAIN = "pretrain {small} run.dir=out data.source=in/c"
ALL = (INFO, VERIFY, PRETRAIN)

Change = Callable[[Path], object]


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


def _corpus(change: Change) -> Callable[[Path, Made], None]:
    """The harmless corpus, changed, and its digests made right."""

    def make(place: Path, made: Made) -> None:
        folder = place / "in/c"
        shutil.copytree(made.folder / "packed", folder)
        change(folder)

    return make


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


def _parts(change: Change) -> Callable[[Path, Made], None]:
    """A corpus that is not merged yet."""

    def make(place: Path, made: Made) -> None:
        folder = place / "in/c"
        shutil.copytree(made.folder / "packed", folder)
        columns = pq.read_table(folder / "index.parquet").to_pydict()
        info = json.loads((folder / "corpus.json").read_text())
        options = dict(info["options"])
        clips_per_shard = options.pop("clips_per_shard")
        num_clips = options.pop("listed_clips")
        options.pop("list_sha256")
        plan = {
            "options": options,
            "num_clips": num_clips,
            "clips_per_shard": clips_per_shard,
            "mean_seconds": 1.2,
            "digests": ["0"],
            "rejected": [],
            "num_duplicates": 0,
        }
        piece = {
            **digest_of(folder / SHARD),
            "clips": num_clips,
            "rejected": 0,
            "num_samples": sum(columns["num_samples"]),
        }
        kept = ("clip_id", "source", "num_samples", "original_rate", "labels")
        rows = {"clips": {name: columns[name] for name in kept}, "rejected": []}
        put(folder / ".parts/plan.json", plan)
        put(folder / ".parts/00000.json", f"{json.dumps(piece)}\n{json.dumps(rows)}\n")
        for name in ("corpus.json", "index.parquet", "rejected.csv"):
            (folder / name).unlink()
        change(folder)

    return make


def _plan(**values: Any) -> Change:
    def change_it(folder: Path) -> None:
        path = folder / ".parts/plan.json"
        put(path, {**json.loads(path.read_text()), **values})

    return change_it


def _piece(change: Callable[[dict[str, Any], dict[str, Any]], object]) -> Change:
    def change_it(folder: Path) -> None:
        path = folder / ".parts/00000.json"
        summary, rows = map(json.loads, path.read_text().splitlines())
        change(summary, rows)
        put(path, f"{json.dumps(summary)}\n{json.dumps(rows)}\n")

    return change_it


def _linked_parts(folder: Path) -> None:
    shutil.rmtree(folder / ".parts", ignore_errors=True)
    link(folder / ".parts", "../../around/folder")


HALVES: dict[str, Change] = {
    "a plan without end": lambda folder: put(folder / ".parts/plan.json", nested()),
    "a plan that is a FIFO": lambda folder: pipe(folder / ".parts/plan.json"),
    "a plan of no digests": _plan(digests=None),
    "a plan of a million shards": _plan(digests=["0"] * 1_000_000),
    "a plan whose options are a list": _plan(options=[SPOILED]),
    "a plan of spoiled rejects": _plan(rejected=[[SPOILED, FORMULA], [1, 2]]),
    "a plan of 10**400 clips": _plan(num_clips=10**400, clips_per_shard=0),
    "a piece without end": lambda folder: put(
        folder / ".parts/00000.json", nested() + "\n" + nested()
    ),
    "a piece that is a FIFO": lambda folder: pipe(folder / ".parts/00000.json"),
    "a piece of no rows": _piece(lambda _, rows: rows.clear()),
    "a piece of rows of words": _piece(lambda _, rows: rows["clips"].update(num_samples=["a"])),
    "a piece of rows of unlike lengths": _piece(lambda _, rows: rows["clips"].update(labels=[])),
    "a piece of rejects of numbers": _piece(lambda _, rows: rows.update(rejected=[1])),
    "a piece of a size of text": _piece(lambda summary, _: summary.update(bytes="a", clips=[])),
}


def cases() -> Iterator[Case]:
    for number, (name, change) in enumerate(REFUSED_INFOS.items()):
        commands = (ALL[number % 3], ALL[(number + 1) % 3]) if number > 6 else (INFO,)
        yield Case(
            "corpus.json",
            name,
            commands,
            _corpus(change),
            NAMED if "text" in name else frozenset({1, 2}),
        )
    for name, change in FIFOS.items():
        yield Case("corpus.json", f"{name} is a FIFO", (VERIFY, INFO), _corpus(change))
    link_out = _corpus(lambda folder: link(folder / "corpus.json", "/dev/zero"))
    yield Case("corpus.json", "is an endless device", (INFO, PACK), link_out, out="in/c")
    yield Case("corpus.json", "is a FIFO", (INFO,), _corpus(lambda f: pipe(f / "corpus.json")))
    for name, content in ARRAYS.items():
        yield Case("npy", f"a shard: {name}", (INFO,), _corpus(_file(SHARD, content)))
    for number in range(4):
        name = f"a shard, damaged {number}"

        def break_it(place: Path, made: Made, name=name) -> None:
            data = damaged(made.read(f"packed/{SHARD}"), made.random(name), most=128)
            _corpus(_file(SHARD, data))(place, made)

        yield Case("npy", name, (INFO,), break_it, NAMED)
    for number, (name, change) in enumerate(INDICES.items()):
        yield Case("index", name, ((INFO, PRETRAIN)[number % 2],), _corpus(change))
    for name, change in SPOILED_TEXTS.items():
        yield Case("index", name, (INFO, VERIFY), _corpus(change), READ)
    for name, change in HALVES.items():
        yield Case("parts", name, (MERGE,), _parts(change), NAMED, out="in/c")
    for whole in (True, False):
        make = (_corpus if whole else _parts)(_linked_parts)
        name = f".parts is a link, {'whole' if whole else 'begun'}"
        yield Case("parts", name, (MERGE, PACK), make, NAMED, out="in/c")
