"""Positions of a tar's members, found in time linear in the size of its headers.

`tarfile` needs time quadratic in a pax header's length (Python before 3.11.10 and 3.12.6), copies
all global keys for every member, keeps an object for each, and stops silently at a broken one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, NamedTuple

from byola_rq.errors import ByolaRQError
from byola_rq.text.shown import printable

MAX_HEADER_BYTES = 1 << 14  # all headers of one member; a path has at most 4 KiB

_BLOCK = 512
_END = bytes(_BLOCK)
_BLANKS = sum(b" " * 8)  # replace the checksum field while the checksum is computed
_GNU_MAGIC = b"ustar  \0"  # times are stored where ustar has the folders of a long name
_FOLDER, _SPARSE, _LONG_NAME, _LONG_LINK, _GLOBAL = b"5", b"S", b"L", b"K", b"g"
_FILES, _LINKS, _PAX = (b"\0", b"0", b"7"), (b"1", b"2"), (b"x", b"X")
_WITHOUT_DATA = (*_LINKS, b"3", b"4", _FOLDER, b"6")  # a stated size is ignored
_SPARSE_KEYS = {b"GNU.sparse.major", b"GNU.sparse.map", b"GNU.sparse.size"}


class Member(NamedTuple):
    """Member of a tar: name, position and length of its bytes, and "file", "link" or "sparse"."""

    name: str
    offset: int
    size: int
    kind: str


class TarDamage(ByolaRQError):  # noqa: N818  a finding about a file, not a failure of this code
    """Damage from which on the tar cannot be read."""


def walk_members(file: IO[bytes], limit: int) -> Iterator[Member]:
    """Iterate over the files, links and sparse files of a tar, in order.

    Global pax headers are ignored: names and sizes never apply to all members.

    Args:
        file: Binary file at position 0. When a member is yielded, its position is at the member's
            bytes, which the caller may read; after the last member it is after the end mark.
        limit: Maximum size of the tar in bytes, for example that of its file.

    Raises:
        TarDamage: At the first position after which nothing can be read.
        OSError: If `file` cannot be read.
    """
    headers = _Headers(file, limit)
    while header := headers.read_member():
        name, offset = printable(header.name.decode("utf-8", "surrogateescape")), headers.place
        size = 0 if header.kind in _WITHOUT_DATA else header.size
        end = headers.check_place(offset + size, name)
        if header.is_sparse:
            yield Member(name, offset, 0, "sparse")
        elif header.kind in _FILES:
            yield Member(name, offset, size, "file")
        elif header.kind in _LINKS:
            yield Member(name, offset, 0, "link")
        headers.place = end + -end % _BLOCK


@dataclass
class _Header:
    """Header of a member, with the changes that its extended headers make."""

    name: bytes
    kind: bytes
    size: int
    is_sparse: bool


class _Headers:
    """Reader of a tar's headers: forward only, a limited number of bytes per member."""

    def __init__(self, file: IO[bytes], limit: int) -> None:
        self.place = 0
        self._first = 0  # byte at which the member's headers begin
        self._file = file
        self._limit = limit

    def read_member(self) -> _Header | None:
        """Read the next member's headers; None at the end mark."""
        self._first = self.place
        self._file.seek(self.place)
        name: bytes | None = None
        pax: dict[bytes, bytes] = {}
        while (block := self._read(_BLOCK)) != _END:
            header = self._parse(block)
            if header.kind in (_LONG_NAME, _LONG_LINK, _GLOBAL, *_PAX):
                content = self._read_content(header)
                if header.kind == _LONG_NAME:
                    name = content.partition(b"\0")[0]
                elif header.kind in _PAX:
                    pax.update(self._parse_pax(content))
                continue
            is_long = header.kind == _SPARSE and block[482]
            while is_long:  # the map of its parts continues in the next block
                is_long = self._read(_BLOCK)[504]
            self._apply(header, name, pax)
            return header
        return None

    def check_place(self, end: int, name: str) -> int:
        """Check that a member whose bytes begin here ends within the tar; return its end."""
        if not self.place <= end <= self._limit:
            raise TarDamage(
                f"the tar is cut, or its header is wrong: {name} claims bytes up to {end:,}; "
                f"there are at most {self._limit:,}",
                code="cut",
                key=name,
                value=end,
            )
        return end

    def _apply(self, header: _Header, name: bytes | None, pax: dict[bytes, bytes]) -> None:
        """Apply the name and size that extended headers give."""
        header.name = pax.get(b"GNU.sparse.name", pax.get(b"path", name or header.name))
        if b"size" in pax:
            header.size = self._number(pax[b"size"], 10)
        if header.kind in _FILES:
            header.is_sparse = not _SPARSE_KEYS.isdisjoint(pax)
        if header.kind == b"\0" and header.name.endswith(b"/"):  # a folder before ustar
            header.kind = _FOLDER
        if header.kind == _FOLDER:
            header.name = header.name.rstrip(b"/")

    def _parse(self, block: bytes) -> _Header:
        """Parse a header and verify its checksum of unsigned or, in old tars, signed bytes."""
        stated = self._number(block[148:156])
        total = sum(block) - sum(block[148:156]) + _BLANKS
        if stated != total and stated != total - 256 * sum(byte > 127 for byte in block):
            raise self._damage("its checksum is wrong")
        name, kind = block[:100].partition(b"\0")[0], block[156:157]
        if block[257:265] != _GNU_MAGIC and (folders := block[345:500].partition(b"\0")[0]):
            name = folders + b"/" + name
        return _Header(name, kind, self._number(block[124:136]), kind == _SPARSE)

    def _parse_pax(self, content: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Parse records `LENGTH KEY=VALUE`, each with a line end, into keys and values."""
        position = 0
        while position < len(content) and content[position]:
            digits = content[position : position + 8].partition(b" ")[0]
            length = self._number(digits, 10)
            record = content[position : position + length]
            key, equals, value = record[len(digits) + 1 : -1].partition(b"=")
            if not (equals and key and len(record) == length and record.endswith(b"\n")):
                raise self._damage("an extended header is broken")
            yield key, value
            position += length

    def _read_content(self, header: _Header) -> bytes:
        """Read the content that follows an extended header."""
        if header.size < 0:
            raise self._damage(f"its size is {header.size}")
        return self._read(header.size + -header.size % _BLOCK)[: header.size]

    def _number(self, field: bytes, base: int = 8) -> int:
        """Parse a number of octal digits or, if too large for them, in binary."""
        if base == 8 and field[0] in (0x80, 0xFF):
            return int.from_bytes(field[1:], "big") - ((field[0] & 1) << 8 * (len(field) - 1))
        digits = field.partition(b"\0")[0].strip()
        if digits and not digits.isdigit():
            raise self._damage(f"{digits[:12]!r} is no number")
        try:
            return int(digits or b"0", base)
        except ValueError:
            raise self._damage(f"{digits[:12]!r} is no number") from None

    def _read(self, num_bytes: int) -> bytes:
        num_before = self.place - self._first + num_bytes
        if num_before > MAX_HEADER_BYTES:
            raise TarDamage(
                f"the header at byte {self.place} must have at most {MAX_HEADER_BYTES} bytes; "
                f"got {num_before}",
                code="too-large",
                value=num_before,
            )
        data = self._file.read(num_bytes)
        if len(data) == num_bytes:
            self.place += num_bytes
            return data
        if self.place == 0:
            reason = f"not a tar ({len(data)} bytes, shorter than a header)"
            raise TarDamage(reason, code="foreign", value=len(data))
        if not data:
            raise TarDamage(
                "the tar has no end mark: it was cut, or its writer did not close it",
                code="cut",
                key="end mark",
            )
        reason = f"the tar is cut in the header at byte {self.place}"
        raise TarDamage(reason, code="cut", value=self.place)

    def _damage(self, reason: str) -> TarDamage:
        """Return the error for the header that was read last."""
        if self.place <= _BLOCK:
            return TarDamage(f"not a tar ({reason})", code="foreign")
        place = self.place - _BLOCK
        message = f"the header at byte {place} is broken ({reason}); members after it are not read"
        return TarDamage(message, code="damaged", value=place)
