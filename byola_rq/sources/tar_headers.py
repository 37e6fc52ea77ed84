"""Where each member's bytes are in a tar: `tarfile`, within limits.

By itself `tarfile` keeps an object for every member, holds as much as a header asks for, and ends
without a word at a broken one.
"""

import tarfile
from collections.abc import Iterator
from typing import IO, NamedTuple, cast

from byola_rq.errors import ByolaRQError
from byola_rq.sources.clip_source import printable

# Of all that stands before one member's bytes. A path has at most 4 KiB; Python before 3.11.10
# and 3.12.6 takes memory and time that grow with the square of a pax header: here 80 MB, 0.3 s.
MAX_HEADER_BYTES = 1 << 14

_END = bytes(tarfile.BLOCKSIZE)
# Besides what tarfile raises on purpose: what a header of nonsense makes it stumble on.
_DAMAGE = (tarfile.TarError, ValueError, IndexError)


class Member(NamedTuple):
    """A member's name, the place of its bytes in the tar, and "file", "link" or "sparse"."""

    name: str
    offset: int
    size: int
    kind: str


class TarDamage(ByolaRQError):  # noqa: N818  what is found in a file, not what went wrong in here
    """From here on the tar cannot be read."""


def walk_members(file: IO[bytes], limit: int) -> Iterator[Member]:
    """Every file, link and sparse file of a tar, in order.

    Args:
        file: At its start. It stands at each member's bytes, which may be read before the next
            member is asked for; behind the last one it stands behind the end mark.
        limit: Bytes that the tar may have: the size of a file that is nothing else.

    Raises:
        TarDamage: At the first place from which on nothing can be read.
        OSError: As `file`.
    """
    headers = _Headers(file, limit)
    try:
        with tarfile.open(
            fileobj=cast(IO[bytes], headers), mode="r:", encoding="utf-8", errors="surrogateescape"
        ) as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]
                headers.num_read = 0
                name, offset = printable(member.name), member.offset_data
                if member.issparse():
                    yield Member(name, offset, 0, "sparse")
                elif member.isreg():
                    headers.check_place(offset + member.size, name)
                    yield Member(name, offset, member.size, "file")
                elif member.islnk() or member.issym():
                    yield Member(name, offset, 0, "link")
    except _DAMAGE as error:
        if file.tell() <= tarfile.BLOCKSIZE:
            raise TarDamage(f"not a tar ({error})", code="foreign") from error
        reason = f"the header before byte {file.tell()} is broken ({error})"
        raise TarDamage(reason, code="damaged", value=file.tell()) from error
    if headers.last_read != _END:
        place = file.tell() - tarfile.BLOCKSIZE
        reason = f"the header at byte {place} is broken; members behind it are not read"
        raise TarDamage(reason, code="damaged", value=place)


class _Headers:
    """A tar as `tarfile` may read it: forward only, and a limited amount for each member."""

    def __init__(self, file: IO[bytes], limit: int) -> None:
        self.last_read = b""
        self.num_read = 0  # since the last member
        self._file = file
        self._limit = limit

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, position: int) -> int:
        self.check_place(position, "a member")
        return self._file.seek(position)

    def check_place(self, end: int, name: str) -> None:
        """A member, whose bytes begin here, must end behind this place and within the tar."""
        if not self.tell() <= end <= self._limit:
            raise TarDamage(
                f"the tar is cut, or its header is wrong: {name} claims bytes up to {end:,}; "
                f"there are at most {self._limit:,}",
                code="cut",
                key=name,
                value=end,
            )

    def read(self, num_bytes: int) -> bytes:
        place = self.tell()
        self.num_read += num_bytes
        if num_bytes < 0 or self.num_read > MAX_HEADER_BYTES:
            raise TarDamage(
                f"the header at byte {place} must have at most {MAX_HEADER_BYTES} bytes; "
                f"got {self.num_read}",
                code="too-large",
                value=self.num_read,
            )
        self.last_read = self._file.read(num_bytes)
        if len(self.last_read) == num_bytes:
            return self.last_read
        if place == 0:
            num_bytes = len(self.last_read)
            reason = f"not a tar ({num_bytes} bytes, shorter than a header)"
            raise TarDamage(reason, code="foreign", value=num_bytes)
        if not self.last_read:
            raise TarDamage(
                "the tar has no end mark: it was cut, or its writer did not close it",
                code="cut",
                key="end mark",
            )
        raise TarDamage(f"the tar is cut in the header at byte {place}", code="cut", value=place)
