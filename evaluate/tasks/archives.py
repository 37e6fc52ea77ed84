"""Tar archives of clips, read in place: nothing is ever unpacked to disk."""

import gzip
import posixpath
import tarfile
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from threading import Lock
from typing import IO, cast

from byola_rq.audio.io import AUDIO_SUFFIXES, EncodedAudio
from byola_rq.errors import AudioError
from evaluate.tasks.task import TaskError

ARCHIVE_SUFFIXES = (".tgz", ".tar.gz", ".tar")

# Kept in memory: the archives used last, and of each the clips read last, which is all of them
# unless it is large.
MAX_ARCHIVES_KEPT = 32
MAX_BYTES_KEPT = 256 * 2**20
MAX_ARCHIVE_BYTES_KEPT = 64 * 2**20

# What an archive may unpack to, as bytes or in times its size, whichever is more. Speech in PCM
# shrinks to a half or a third; an hour of digital silence is 115 MB.
MAX_UNPACKED_BYTES = 2**30
MAX_UNPACKED_RATIO = 50
MAX_MEMBER_BYTES = 2**30


def list_archive(path: Path) -> tuple[str, ...]:
    """Names of the audio files in a `.tgz`, `.tar.gz` or `.tar`, in their order, each once.

    Folders, links, devices, sparse and hidden files are left out. A name may have any form: it is
    looked up, never written to.

    Raises:
        TaskError: If it is not a complete tar archive, or unpacks to more than it should.
    """
    return tuple(dict.fromkeys(name for name, _ in _walk(path, with_data=False)))


def read_member(path: Path, member: str) -> EncodedAudio:
    """One audio file of an archive, from memory where it was read before.

    An archive is read once for all of its clips if they are asked for roughly in its order, or
    are not more than fit in memory. May be called from several threads at once.

    Raises:
        AudioError: If the archive has no such audio file, or cannot be read as far as it.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise AudioError(f"{path}: the archive cannot be read: {error.strerror}") from error
    key = (str(path), status.st_size, status.st_mtime_ns)
    with _lock:
        archive = _kept.setdefault(key, _Archive(path))
        _kept.move_to_end(key)
    try:
        data = archive.read(member)
    except TaskError as error:
        raise AudioError(str(error)) from error
    with _lock:
        _forget_some()
    if data is None:
        raise AudioError(f"{path}: the archive must hold the audio file {member!r}; it does not")
    return EncodedAudio(f"{path}/{member}", data)


class _Archive:
    """The clips of an archive that were read last, and the place where reading stopped."""

    def __init__(self, path: Path) -> None:
        self.num_bytes = 0
        self._path = path
        self._lock = Lock()
        self._members: OrderedDict[str, bytes] = OrderedDict()
        self._rest = _walk(path, with_data=True)
        self._is_whole = True  # nothing of it was forgotten
        self._damage = ""

    def read(self, member: str) -> bytes | None:
        """The clip of that name; who comes while it is being read waits, and finds it there."""
        with self._lock:
            if member in self._members:
                return self._members[member]
            found = self._read_on(member)
            if found is None and not self._is_whole:
                self._rest = _walk(self._path, with_data=True)
                found = self._read_on(member)
            if found is None and self._damage:
                raise TaskError(self._damage)
            return found

    def _read_on(self, member: str) -> bytes | None:
        try:
            for name, data in self._rest:
                if name in self._members:
                    continue  # the first of a name counts, as in `list_archive`
                self._members[name] = data
                self.num_bytes += len(data)
                while self.num_bytes > MAX_ARCHIVE_BYTES_KEPT and len(self._members) > 1:
                    self.num_bytes -= len(self._members.popitem(last=False)[1])
                    self._is_whole = False
                if name == member:
                    return data
        except TaskError as error:
            self._damage = str(error)
        return None


_kept: OrderedDict[tuple[str, int, int], _Archive] = OrderedDict()
_lock = Lock()  # of the dictionary alone, so that several archives are read at once


def _forget_some() -> None:
    """Keep within the limits; called with the lock held."""
    num_bytes = sum(archive.num_bytes for archive in _kept.values())
    while len(_kept) > 1 and (len(_kept) > MAX_ARCHIVES_KEPT or num_bytes > MAX_BYTES_KEPT):
        _, oldest = _kept.popitem(last=False)
        num_bytes -= oldest.num_bytes


def _walk(path: Path, *, with_data: bool) -> Iterator[tuple[str, bytes]]:
    """Name and content of each audio file; without data, the content is empty."""
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            is_packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            if is_packed:
                limit = max(MAX_UNPACKED_BYTES, MAX_UNPACKED_RATIO * size)
                with gzip.GzipFile(fileobj=file) as unpacked:
                    source = _Source(path, cast(IO[bytes], unpacked), limit)
                    yield from _walk_tar(path, source, with_data=with_data)
            else:
                yield from _walk_tar(path, _Source(path, file, size), with_data=with_data)
    except TaskError:
        raise
    except _DAMAGED as error:
        raise _unreadable(path, getattr(error, "strerror", None) or str(error)) from error


# Besides what gzip and tarfile raise on purpose: what a header of nonsense makes them stumble on.
_DAMAGED = (EOFError, OSError, zlib.error, tarfile.TarError, ValueError, RecursionError)


def _walk_tar(path: Path, source: "_Source", *, with_data: bool) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(fileobj=cast(IO[bytes], source), mode="r:") as tar:
        for member in tar:
            name = posixpath.basename(member.name)
            if not member.isreg() or member.issparse() or name.startswith("."):
                continue
            if posixpath.splitext(name)[1].lower() not in AUDIO_SUFFIXES:
                continue
            if member.size > MAX_MEMBER_BYTES:
                raise _unreadable(path, f"{member.name!r} claims {member.size:,} bytes")
            file = tar.extractfile(member) if with_data else None
            yield member.name, file.read() if file else b""
    # tarfile ends without a word at a block that is no header: only zeros say that it is the end.
    if source.last_read != bytes(tarfile.BLOCKSIZE):
        raise _unreadable(path, "it ends, or is damaged, before its end is marked")
    source.read_to_end()  # where gzip compares its checksum


class _Source:
    """What tarfile needs of a file: to be read from front to end, here as far as a limit.

    Attributes:
        last_read: What the last `read` gave.
    """

    def __init__(self, path: Path, file: IO[bytes], limit: int) -> None:
        self.last_read = b""
        self._path = path
        self._file = file
        self._limit = limit

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, position: int) -> int:
        self._check(position)
        return self._file.seek(position)

    def read(self, num_bytes: int) -> bytes:
        # One byte more than is allowed tells that there is more, whatever a header asks for.
        self.last_read = self._file.read(min(num_bytes, self._limit - self.tell() + 1))
        self._check(self.tell())
        return self.last_read

    def read_to_end(self) -> None:
        while self.read(2**20):
            pass

    def _check(self, position: int) -> None:
        if position > self._limit:
            raise _unreadable(self._path, f"it claims more than {self._limit:,} bytes")


def _unreadable(path: Path, reason: str) -> TaskError:
    return TaskError(
        f"{path}: the archive must be a complete tar or tar.gz; {reason}. Download it again"
    )
