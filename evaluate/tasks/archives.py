"""Tar archives of clips, read in place: nothing is ever unpacked to disk."""

import gzip
import posixpath
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from threading import Lock
from typing import IO, Any, cast

from byola_rq.audio.io import AUDIO_SUFFIXES, EncodedAudio
from byola_rq.errors import AudioError
from byola_rq.sources.tar_headers import TarDamage, walk_members
from evaluate.tasks.task import TaskError

ARCHIVE_SUFFIXES = (".tgz", ".tar.gz", ".tar")

# Kept in memory: the archives used last, and of each the clips read last, which is all of them
# unless it is large.
MAX_ARCHIVES_KEPT = 32
MAX_BYTES_KEPT = 256 * 2**20
MAX_ARCHIVE_BYTES_KEPT = 64 * 2**20

# The most an archive may unpack to: bytes, or a multiple of its size, whichever is more. PCM speech
# compresses to a half or a third; an hour of digital silence unpacks to 115 MB.
MAX_UNPACKED_BYTES = 2**30
MAX_UNPACKED_RATIO = 50
MAX_MEMBER_BYTES = 2**30


def list_archive(path: Path) -> tuple[str, ...]:
    """List the audio files of a `.tgz`, `.tar.gz` or `.tar` in archive order, each name once.

    Folders, links, devices, sparse and hidden files are skipped. Names are only looked up, never
    written to, so any name is accepted.

    Raises:
        TaskError: If it is not a complete tar archive, or unpacks to more than the limits allow.
    """
    return tuple(dict.fromkeys(name for name, _ in _walk(path, with_data=False)))


def read_member(path: Path, member: str) -> EncodedAudio:
    """Return one audio file of an archive, from memory if it was read before.

    An archive is read once for all of its clips if they are requested roughly in archive order or
    fit in memory together. Thread-safe.

    Raises:
        AudioError: If the archive has no such audio file, or is unreadable before reaching it.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise AudioError(
            f"{path}: the archive cannot be read: {error.strerror}", code="unreadable", path=path
        ) from error
    key = (str(path), status.st_size, status.st_mtime_ns)
    with _lock:
        archive = _kept.setdefault(key, _Archive(path))
        _kept.move_to_end(key)
    data = archive.read(member)
    with _lock:
        _evict_oldest()
    if data is None:
        raise AudioError(
            f"{path}: the archive must hold the audio file {member!r}; it does not",
            code="missing",
            path=path,
            value=member,
        )
    return EncodedAudio(f"{path}/{member}", data)


class _Archive:
    """Clips of an archive that were read last, and the position where reading stopped."""

    def __init__(self, path: Path) -> None:
        self.num_bytes = 0
        self._path = path
        self._lock = Lock()
        self._members: OrderedDict[str, bytes] = OrderedDict()
        self._rest = _walk(path, with_data=True)
        self._is_whole = True  # no clip was evicted yet
        self._damage: tuple[str, dict[str, Any]] | None = None

    def read(self, member: str) -> bytes | None:
        """Return the clip named `member`; a concurrent caller waits for it."""
        with self._lock:
            if member in self._members:
                return self._members[member]
            found = self._read_on(member)
            if found is None and not self._is_whole:
                self._rest = _walk(self._path, with_data=True)
                found = self._read_on(member)
            if found is None and self._damage:
                message, facts = self._damage
                raise AudioError(message, **facts)
            return found

    def _read_on(self, member: str) -> bytes | None:
        try:
            for name, data in self._rest:
                if name in self._members:
                    continue  # of equal names the first counts, as in `list_archive`
                self._members[name] = data
                self.num_bytes += len(data)
                while self.num_bytes > MAX_ARCHIVE_BYTES_KEPT and len(self._members) > 1:
                    self.num_bytes -= len(self._members.popitem(last=False)[1])
                    self._is_whole = False
                if name == member:
                    return data
        except TaskError as error:
            self._damage = (str(error), error.facts)
        return None


_kept: OrderedDict[tuple[str, int, int], _Archive] = OrderedDict()
_lock = Lock()  # guards the dictionary only, so that several archives are read in parallel


def _evict_oldest() -> None:
    """Evict the archives used longest ago until the limits hold; `_lock` must be held."""
    num_bytes = sum(archive.num_bytes for archive in _kept.values())
    while len(_kept) > 1 and (len(_kept) > MAX_ARCHIVES_KEPT or num_bytes > MAX_BYTES_KEPT):
        _, oldest = _kept.popitem(last=False)
        num_bytes -= oldest.num_bytes


def _walk(path: Path, *, with_data: bool) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of each audio file; without data, the content is empty."""
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            is_packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            if is_packed:
                limit = max(MAX_UNPACKED_BYTES, MAX_UNPACKED_RATIO * size)
                with gzip.GzipFile(fileobj=file) as unpacked:
                    yield from _walk_tar(cast(IO[bytes], unpacked), limit, with_data=with_data)
            else:
                yield from _walk_tar(file, size, with_data=with_data)
    except (TarDamage, EOFError, OSError, zlib.error) as error:
        # gzip's own errors are OSErrors without strerror: the file is damaged, not the disk.
        os_reason = getattr(error, "strerror", None)
        facts: dict[str, Any] = {"code": "unreadable" if os_reason else "damaged"}
        if isinstance(error, EOFError):  # within gzip's stream
            facts = {"code": "cut"}
        elif isinstance(error, TarDamage):
            facts = error.facts
        raise TaskError(
            f"{path}: the archive must be a complete tar or tar.gz; {os_reason or error}. "
            "Download it again",
            **{**facts, "path": path},
        ) from error


def _walk_tar(file: IO[bytes], limit: int, *, with_data: bool) -> Iterator[tuple[str, bytes]]:
    for member in walk_members(file, limit):
        name = posixpath.basename(member.name)
        if member.kind != "file" or name.startswith("."):
            continue
        if posixpath.splitext(name)[1].lower() not in AUDIO_SUFFIXES:
            continue
        if member.size > MAX_MEMBER_BYTES:
            reason = f"{member.name!r} claims {member.size:,} bytes"
            raise TarDamage(reason, code="too-large", value=member.size)
        yield member.name, file.read(member.size) if with_data else b""
    while file.read(2**20):  # to the end, where gzip verifies its checksum
        if file.tell() > limit:
            reason = f"it unpacks to more than {limit:,} bytes"
            raise TarDamage(reason, code="too-large", value=file.tell())
