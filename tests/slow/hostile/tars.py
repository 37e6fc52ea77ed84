"""Tars: headers and names of strangers."""

import tarfile
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
    damaged,
    nested,
    put,
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


def _damaged_tar(place: Path, made: Made, name: str) -> None:
    data = member("a.wav", wav()) + member("b.wav", wav()) + END
    put(place / "in/x.tar", damaged(data, made.random(name), most=BLOCK))


def cases() -> Iterator[Case]:
    for number, (name, (make, statuses)) in enumerate(TARS.items()):
        commands = (packing("in/x.tar") if number % 3 == 0 else embedding("in/x.tar"),)
        yield Case("tar", name, commands, lambda p, _, f=make: put(p / "in/x.tar", f()), statuses)
    for number in range(6):
        name = f"damaged {number}"
        tar = lambda p, m, n=name: _damaged_tar(p, m, n)  # noqa: E731
        yield Case("tar", name, (embedding("in"),), tar, NAMED)
