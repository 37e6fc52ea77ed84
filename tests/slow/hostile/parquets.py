"""Parquet files, of sounds and of paths."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.slow.hostile.audio import packing, wav
from tests.slow.hostile.case import (
    FORMULA,
    MARKUP,
    NAMED,
    READ,
    SPOILED,
    Case,
    Made,
    damaged,
    put,
)


def parquet(columns: dict[str, object], **options: object) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file, **options)
    return file.getvalue()


def _sounds(*rows: object) -> pa.Array:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.array(rows, kind)


def _row(data: bytes | None, name: str | None = "a.wav") -> dict[str, object]:
    return {"bytes": data, "path": name}


def _bomb(num_bytes: int, num_rows: int) -> bytes:
    """Make a parquet of one compressed value in every row: a few kilobytes, many gigabytes."""
    value = pa.DictionaryArray.from_arrays(
        pa.array([0] * num_rows, pa.int32()), pa.array(["a" * num_bytes])
    )
    options = {"compression": "zstd", "dictionary_pagesize_limit": 2 * num_bytes}
    return parquet({"path": value}, **options)


def _sound_bomb(num_bytes: int) -> bytes:
    rows = [_row(wav()), _row(bytes(num_bytes)), _row(wav(), "c.wav")]
    return parquet({"audio": _sounds(*rows)}, compression="zstd", write_statistics=False)


def _footer(changed: Callable[[bytes], bytes]) -> bytes:
    data = parquet({"path": ["a.wav"]})
    length = int.from_bytes(data[-8:-4], "little")
    footer = changed(data[-8 - length : -8])
    return data[: -8 - length] + footer + len(footer).to_bytes(4, "little") + b"PAR1"


PARQUETS: dict[str, tuple[Callable[[], bytes], frozenset[int]]] = {
    "nothing": (lambda: b"", frozenset({1, 2})),
    "only its magic": (lambda: b"PAR1PAR1", frozenset({1, 2})),
    "a footer of 4 GB": (lambda: b"PAR1" + bytes(64) + b"\xff\xff\xff\xffPAR1", frozenset({1, 2})),
    "a footer of lists": (
        lambda: _footer(lambda _: b"\x19\xfc\xff\xff\xff\xff\x07" * 8),
        frozenset({1, 2}),
    ),
    "a footer of nests": (lambda: _footer(lambda _: b"\x1c" * 60_000), frozenset({1, 2})),
    "a path of 64 MB in 500 rows": (lambda: _bomb(64 << 20, 500), frozenset({1, 2})),
    "a path of 1 MB in 5,000 rows": (lambda: _bomb(1 << 20, 5_000), frozenset({1, 2})),
    "a sound of 150 MB": (lambda: _sound_bomb(150 << 20), NAMED),
    "no bytes, no names": (
        lambda: parquet({"audio": _sounds(_row(None, None), None, _row(b"", ""))}),
        frozenset({1, 2}),
    ),
    "spoiled names": (
        lambda: parquet(
            {
                "audio": _sounds(_row(wav(), f"{SPOILED}.wav"), _row(wav(), f"{FORMULA}.wav")),
                "label": [FORMULA, f"{MARKUP}\n{SPOILED}"],
            }
        ),
        READ,
    ),
    "names that climb": (
        lambda: parquet({"audio": _sounds(_row(wav(), "../../around/x.wav"))}),
        READ,
    ),
    "paths that are structs": (lambda: parquet({"path": [{"a": 1}]}), frozenset({1, 2})),
    "paths of bytes and nulls": (
        lambda: parquet({"path": pa.array([b"\xff\0", None], pa.binary())}),
        frozenset({1, 2}),
    ),
    "3,000 columns": (
        lambda: parquet({"path": ["a.wav"]} | {f"c{n}": ["x"] for n in range(3_000)}),
        frozenset({1, 2}),
    ),
}


def _damaged_parquet(place: Path, made: Made, name: str) -> None:
    data = parquet({"audio": _sounds(_row(wav()), _row(wav(), "b.wav"))})
    random = made.random(name)
    put(place / "in/x.parquet", data[:-300] + damaged(data[-300:], random))


def cases() -> Iterator[Case]:
    for name, (make, statuses) in PARQUETS.items():
        commands = (packing("in/x.parquet"),)
        yield Case(
            "parquet", name, commands, lambda p, _, f=make: put(p / "in/x.parquet", f()), statuses
        )
    for number in range(6):
        name = f"damaged {number}"
        table = lambda p, m, n=name: _damaged_parquet(p, m, n)  # noqa: E731
        yield Case("parquet", name, (packing("in") + " --dry-run",), table, NAMED)
