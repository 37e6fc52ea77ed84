"""Tars, Parquet files and folders that are hostile as such."""

import io
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.slow.hostile.audio import embedding, packing, wav
from tests.slow.hostile.case import (
    FORMULA,
    MARKUP,
    NAMED,
    READ,
    SPOILED,
    Case,
    Made,
    damaged,
    files,
    link,
    nested,
    pipe,
    put,
    unlike,
)

BLOCK = 512


def header(name: str, size: int = 0, kind: bytes = b"0", **fields: object) -> bytes:
    """A tar header as Python writes it."""
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    for key, value in fields.items():
        setattr(info, key, value)
    return info.tobuf(tarfile.GNU_FORMAT, errors="surrogateescape")


def member(name: str, data: bytes, kind: bytes = b"0") -> bytes:
    return header(name, len(data), kind) + data + bytes(-len(data) % BLOCK)


def summed(block: bytes) -> bytes:
    """A header that was changed, its checksum right."""
    total = sum(block[:148]) + 32 * 8 + sum(block[156:BLOCK])
    return block[:148] + f"{total:06o}\0 ".encode() + block[156:]


def _sized(field: bytes) -> bytes:
    """A member of a sound whose size is written so."""
    block = header("a.wav", 4_044)
    return summed(block[:124] + field.ljust(12, b"\0") + block[136:]) + bytes(8_192)


def _pax(text: bytes, name: str = "a.wav") -> bytes:
    return member("pax", text, b"x") + member(name, wav()) + bytes(1_024)


def _entry(key: str, value: str) -> bytes:
    text = f" {key}={value}\n"
    length = len(text)
    while len(f"{length}{text}") != length:
        length = len(f"{length}{text}")
    return f"{length}{text}".encode()


END = bytes(2 * BLOCK)

TARS: dict[str, tuple[Callable[[], bytes], frozenset[int]]] = {
    "nothing": (lambda: b"", frozenset({1, 2})),
    "only zeros": (lambda: bytes(10_240), frozenset({1, 2})),
    "text": (lambda: b"not a tar\n" * 2_000, frozenset({1, 2})),
    "a gzip of its name": (lambda: b"\x1f\x8b\x08" + bytes(2_000), frozenset({1, 2})),
    "a size of 2**62": (lambda: _sized(b"\x80" + (2**62).to_bytes(11, "big")), frozenset({1, 2})),
    "a size below zero": (lambda: _sized(b"\xff" * 12), frozenset({1, 2})),
    "a size of letters": (lambda: _sized(b"9z9z9z"), frozenset({1, 2})),
    "long names in a chain": (
        lambda: member("././@LongLink", b"a" * 100, b"L") * 10_000 + member("a.wav", wav()) + END,
        frozenset({1, 2}),
    ),
    "long names, each before a member": (
        lambda: (
            (member("././@LongLink", b"d/" * 2_000 + b"a.wav", b"L") + member("a", wav())) * 900
            + END
        ),
        NAMED,
    ),
    "a long name of 2 GB": (
        lambda: header("././@LongLink", 2**31, b"L") + bytes(8_192),
        frozenset({1, 2}),
    ),
    "pax headers in a chain": (
        lambda: member("pax", _entry("path", "b.wav"), b"x") * 10_000 + member("a.wav", wav()),
        frozenset({1, 2}),
    ),
    "pax of 3,000 keys": (
        lambda: _pax(b"".join(_entry(f"k{n}", "v") for n in range(3_000))),
        frozenset({1, 2}),
    ),
    "global pax keys, again and again": (
        lambda: (
            b"".join(
                member("pax", b"".join(_entry(f"k{n}.{m}", "v") for m in range(400)), b"g")
                + member(f"{n}.wav", wav())
                for n in range(150)
            )
            + END
        ),
        NAMED,
    ),
    "a pax size of 8 EB": (lambda: _pax(_entry("size", str(2**63))), frozenset({1, 2})),
    "a pax size of no number": (lambda: _pax(_entry("size", "x")), frozenset({1, 2})),
    "a pax length below zero": (lambda: _pax(b"-5 path=a\n"), NAMED),
    "a pax length of 5,000 digits": (lambda: _pax(b"9" * 5_000 + b" path=a\n"), frozenset({1, 2})),
    "a GNU sparse map without end": (
        lambda: _pax(_entry("GNU.sparse.map", "1," * 4_000 + "1")),
        frozenset({1, 2}),
    ),
    "a sparse member": (lambda: header("a.wav", 0, b"S") + bytes(8_192), frozenset({1, 2})),
    "devices and links": (
        lambda: (
            b"".join(
                header(f"{n}.wav", kind=kind, linkname="../../around/victim.txt")
                for n, kind in enumerate((b"1", b"2", b"3", b"4", b"6"))
            )
            + END
        ),
        frozenset({1, 2}),
    ),
    "names that climb": (
        lambda: member("../../around/new.wav", wav()) + member("/tmp/b.wav", wav()) + END,
        READ,
    ),
    "members of one name": (lambda: member("a.wav", wav()) * 3_000 + END, NAMED),
    "spoiled names": (
        lambda: member(f"{SPOILED}.wav", wav()) + member(f"{FORMULA}\n.wav", wav()) + END,
        READ,
    ),
    "a name of spaces and nulls": (lambda: _pax(_entry("path", "a\0b \n.wav")), NAMED),
    "labels without end": (
        lambda: member("a.wav", wav()) + member("a.json", nested(depth=30_000).encode()) + END,
        READ,
    ),
    "labels of 60,000 digits": (
        lambda: (
            member("a.wav", wav()) + member("a.json", b'{"label":' + b"9" * 60_000 + b"}") + END
        ),
        NAMED,
    ),
    "spoiled labels": (
        lambda: member("a.wav", wav()) + member("a.cls", f"{FORMULA} {SPOILED}".encode()) + END,
        READ,
    ),
}


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
    """One value, kept once and compressed, in every row: a few kilobytes, many gigabytes."""
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
    "a path of 1 MB in 100,000 rows": (lambda: _bomb(1 << 20, 100_000), frozenset({1, 2})),
    "a sound of 900 MB": (lambda: _sound_bomb(900 << 20), NAMED),
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


def _damaged_tar(place: Path, made: Made, name: str) -> None:
    data = member("a.wav", wav()) + member("b.wav", wav()) + END
    put(place / "in/x.tar", damaged(data, made.random(name), most=BLOCK))


def _damaged_parquet(place: Path, made: Made, name: str) -> None:
    data = parquet({"audio": _sounds(_row(wav()), _row(wav(), "b.wav"))})
    random = made.random(name)
    put(place / "in/x.parquet", data[:-300] + damaged(data[-300:], random))


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
    for number, (name, (make, statuses)) in enumerate(TARS.items()):
        commands = (packing("in/x.tar") if number % 3 == 0 else embedding("in/x.tar"),)
        yield Case("tar", name, commands, lambda p, _, f=make: put(p / "in/x.tar", f()), statuses)
    for name, (make, statuses) in PARQUETS.items():
        commands = (packing("in/x.parquet"),)
        yield Case(
            "parquet", name, commands, lambda p, _, f=make: put(p / "in/x.parquet", f()), statuses
        )
    for number in range(10):
        name = f"damaged {number}"
        tar = lambda p, m, n=name: _damaged_tar(p, m, n)  # noqa: E731
        yield Case("tar", name, (embedding("in"),), tar, NAMED)
        if number < 6:
            table = lambda p, m, n=name: _damaged_parquet(p, m, n)  # noqa: E731
            yield Case("parquet", name, (packing("in") + " --dry-run",), table, NAMED)
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
