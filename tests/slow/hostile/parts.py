"""Corpora whose packing was begun by a stranger."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tests.slow.hostile.case import (
    FORMULA,
    NAMED,
    SPOILED,
    Case,
    Change,
    Made,
    digest_of,
    link,
    nested,
    pipe,
    put,
)
from tests.slow.hostile.corpora import SHARD, corpus

MERGE = "prepare --merge in/c"
PACK = "prepare {sounds} in/c --workers 1"


def begun(change: Change) -> Callable[[Path, Made], None]:
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
    "a plan of 50,000 shards": _plan(digests=["0"] * 50_000),
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
    for name, change in HALVES.items():
        yield Case("parts", name, (MERGE,), begun(change), NAMED, out="in/c")
    for is_whole in (True, False):
        make = (corpus if is_whole else begun)(_linked_parts)
        name = f".parts is a link, {'whole' if is_whole else 'begun'}"
        yield Case("parts", name, (MERGE, PACK), make, NAMED, out="in/c")
