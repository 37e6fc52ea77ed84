"""Where each member's bytes are in a plain tar, by its headers alone.

Reads the ustar, GNU and pax forms. `tarfile` would do, but it keeps an object for every member,
takes many times as long for a header, and ends without a word at a broken one.

Source: POSIX.1-2017, pax, "ustar Interchange Format" and "pax Header Block"; GNU tar manual,
"Basic Tar Format".
"""

import os
from collections.abc import Iterator
from typing import NamedTuple, Self

_BLOCK = 512
_END = bytes(_BLOCK)
_MAX_EXTENSION_BYTES = 1 << 20  # of a long name or pax header; a hostile one could fill memory
_COMPRESSIONS = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18")


class Member(NamedTuple):
    """A member's name, the place of its bytes in the tar, and "file", "link" or "sparse"."""

    name: str
    offset: int
    size: int
    kind: str


class HeaderReader:
    """A tar's bytes at places that rise, by few reads: a header's neighbours come with it.

    Raises:
        OSError: As `open`.
    """

    _NUM_BYTES = 4096  # what a disk gives at least

    def __init__(self, path: str) -> None:
        self.descriptor = os.open(path, os.O_RDONLY)
        self.num_bytes = os.fstat(self.descriptor).st_size
        self._first = 0
        self._bytes = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)

    def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes; fewer at the end of the file."""
        place = offset - self._first
        if place < 0 or place + size > len(self._bytes):
            self._bytes = os.pread(self.descriptor, max(size, self._NUM_BYTES), offset)
            self._first, place = offset, 0
        return self._bytes[place : place + size]


class TarDamage(Exception):  # noqa: N818  what is found in a file, not what went wrong in here
    """From here on the tar cannot be read."""


def walk_members(tar: HeaderReader) -> Iterator[Member]:
    """Every file, link and sparse file of a tar, in order.

    Yields:
        Members, also the last one of a cut tar, whose bytes would end behind the tar.

    Raises:
        TarDamage: At the first place from which on nothing can be read.
    """
    position = 0
    of_all: dict[str, str] = {}  # pax records of the rest of the tar
    of_next: dict[str, str] = {}  # of the next member
    while (block := _read_block(tar, position)) != _END:
        size = _number(block[124:136], position)
        kind = block[156:157]
        data = position + _BLOCK
        if kind in b"xgLK":
            text = _read_extension(tar, data, size)
            if kind == b"L":
                of_next["path"] = _text(text)
            elif kind != b"K":  # K is the long name of a link's target
                (of_all if kind == b"g" else of_next).update(_pax_records(text, position))
            position = data + _padded(size)
            continue
        records = of_all | of_next
        of_next = {}
        if kind == b"S":
            data = _behind_sparse_headers(tar, block, data)
        if "size" in records:
            size = _decimal(records["size"], position)
        name = records.get("path") or _name(block)
        if kind in b"12":
            yield Member(name, data, 0, "link")
        elif kind in b"0\x007S":
            is_sparse = kind == b"S" or any(key.startswith("GNU.sparse") for key in records)
            yield Member(name, data, size, "sparse" if is_sparse else "file")
        # Links, devices and folders have no data, whatever their size says.
        position = data + (0 if kind in b"123456" else _padded(size))
    _refuse_what_follows(tar, position + _BLOCK)


def _read_block(tar: HeaderReader, position: int) -> bytes:
    """A header whose checksum is right, or the block of zeros that ends a tar."""
    if tar.num_bytes == 0:
        raise TarDamage("the file is empty (0 bytes)")
    if position >= tar.num_bytes:
        raise TarDamage("the tar has no end mark: it was cut, or its writer did not close it")
    block = tar.read(position, _BLOCK)
    if position == 0 and block.startswith(_COMPRESSIONS):
        raise TarDamage("the tar is compressed; unpack the compression, not the tar")
    if len(block) < _BLOCK:
        if position == 0:
            raise TarDamage("not a tar (shorter than a header)")
        raise TarDamage(f"the tar is cut in the header at byte {position}")
    if block == _END:
        return block
    # Summed with the field itself taken as eight spaces; old writers summed signed bytes.
    summed = block[:148] + b" " * 8 + block[156:]
    try:
        checksum = _number(block[148:156], position)
    except TarDamage:
        checksum = -1
    if checksum != sum(summed) and checksum != sum(memoryview(summed).cast("b")):
        if position == 0:
            raise TarDamage("not a tar (its first header has a wrong checksum)")
        raise TarDamage(f"the header at byte {position} is broken; members behind it are not read")
    return block


def _refuse_what_follows(tar: HeaderReader, position: int) -> None:
    """A tar ends in zeros, up to a whole record; two tars joined by cat do not."""
    if tar.read(position, 1 << 16).strip(b"\0"):
        raise TarDamage(
            f"{tar.num_bytes - position} bytes behind the end mark at byte {position} are not "
            "read; if tars were joined, give them one by one"
        )


def _read_extension(tar: HeaderReader, offset: int, size: int) -> bytes:
    if size > _MAX_EXTENSION_BYTES:
        raise TarDamage(
            f"the extended header at byte {offset} must have at most {_MAX_EXTENSION_BYTES} bytes; "
            f"got {size}"
        )
    if offset + size > tar.num_bytes:
        raise TarDamage(f"the tar is cut in the extended header at byte {offset}")
    return tar.read(offset, size)


def _pax_records(text: bytes, position: int) -> dict[str, str]:
    """Records `length key=value newline`; the length counts itself."""
    records = {}
    while text.strip(b"\0"):
        digits, _, _ = text.partition(b" ")
        length = int(digits) if digits.isdigit() and len(digits) < 8 else 0
        key, equals, value = text[len(digits) + 1 : length - 1].partition(b"=")
        if not equals or length > len(text) or text[length - 1 : length] != b"\n":
            raise TarDamage(f"the pax header at byte {position} is broken")
        records[_text(key)] = _text(value)
        text = text[length:]
    return records


def _behind_sparse_headers(tar: HeaderReader, block: bytes, data: int) -> int:
    """GNU's map of a sparse file goes on in further blocks, each of which says whether."""
    is_more = block[482] != 0
    while is_more and data < tar.num_bytes:
        more = tar.read(data, _BLOCK)
        is_more = len(more) == _BLOCK and more[504] != 0
        data += _BLOCK
    return data


def _name(block: bytes) -> str:
    """The name in a header; in ustar's own form with the prefix before it."""
    name = _text(block[:100])
    prefix = _text(block[345:500]) if block[257:263] == b"ustar\0" else ""
    return f"{prefix}/{name}" if prefix else name


def _number(field: bytes, position: int) -> int:
    """Octal digits, or GNU's base 256 for what they cannot hold."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.split(b"\0")[0].strip()
    if digits.strip(b"01234567"):
        raise TarDamage(f"the header at byte {position} has a broken number; got {digits!r}")
    return int(digits, 8) if digits else 0


def _decimal(text: str, position: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise TarDamage(f"the pax header before byte {position} has a broken size; got {text!r}")
    return int(text)


def _text(field: bytes) -> str:
    return field.split(b"\0")[0].decode("utf-8", "backslashreplace")


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK
