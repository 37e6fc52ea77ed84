"""Recursive search of folders, in an order that depends only on names."""

import os
import unicodedata
from collections import Counter
from collections.abc import Iterator

from byola_rq.audio import multimedia
from byola_rq.audio.io import AUDIO_SUFFIXES
from byola_rq.errors import CorpusError
from byola_rq.sources.clip_source import Listing
from byola_rq.text.shown import printable

TAR_SUFFIX = ".tar"
PARQUET_SUFFIX = ".parquet"
COMPRESSED_SUFFIXES = (
    ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tar.lz4", ".zip",
)  # fmt: skip
# Audio that is recognized but not decoded.
UNREAD_SUFFIXES = (
    frozenset({".ac3", ".amr", ".ape", ".wma", ".wv"}) | multimedia.SUFFIXES
) - AUDIO_SUFFIXES
_MOST_NAMED = 20  # suffixes


class Unread:
    """Counts by suffix of the files in a folder or tar that are not read."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, name: str) -> None:
        """Count a file by the suffix of its name."""
        suffix = printable(os.path.splitext(name)[1].lower()) or "(no suffix)"
        self._counts[f"hidden {suffix}" if name.startswith(".") else suffix] += 1

    def note(self, where: str, listing: Listing) -> None:
        """Add one line about these files to the listing's notes, if there are any."""
        if counts := self.describe():
            listing.notes.append(f"{printable(where)}: {counts}")

    def describe(self) -> str:
        """Format the counts by suffix, with advice if audio is among them; empty if no files."""
        if not self._counts:
            return ""
        named = sorted(self._counts.items(), key=lambda each: (-each[1], each[0]))
        text = ", ".join(f"{number} {suffix}" for suffix, number in named[:_MOST_NAMED])
        if others := sum(number for _, number in named[_MOST_NAMED:]):
            text += f", {others} others"
        advice = "; some are audio: convert these to wav or flac"
        is_sound = not UNREAD_SUFFIXES.isdisjoint(self._counts)
        if not multimedia.HAS_DECODER and not multimedia.SUFFIXES.isdisjoint(self._counts):
            advice += f"; {multimedia.REMEDY}"
        return f"not read: {text}{advice * is_sound}"


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is skipped: hidden, or added by macOS to archives."""
    return name.startswith(".") or name == "__MACOSX"


def is_sidecar(name: str) -> bool:
    """Return whether macOS added a file, which is then skipped without a note."""
    return name.startswith("._") or name in {".DS_Store", "__MACOSX"}


def walk_folder(folder: str, listing: Listing) -> Iterator[tuple[str, str]]:
    """Find audio files, tars and Parquet files below `folder`; hidden and macOS's are skipped.

    Links to folders are followed; a folder reached twice is searched once. Unusable entries are
    added to `listing` (`missing`, `damaged`, `duplicates`, `notes`), links to files to its
    `links`.

    Yields:
        (path, path relative to `folder`), sorted by name at each level.

    Raises:
        CorpusError: If `folder` itself cannot be read.
    """
    unread = Unread()
    # A stack, not recursion, whose depth Python limits.
    open_folders = [_OpenFolder(folder, "", os.path.realpath(folder), unread)]
    first_path_of = {open_folders[0].real: folder}
    if open_folders[0].error:
        message = f"{folder}: cannot be read ({open_folders[0].error})"
        raise CorpusError(message, code="unreadable", path=folder)
    while open_folders:
        current = open_folders[-1]
        if not current.names:
            open_folders.pop()
            continue
        name = current.names.pop()
        path = f"{current.path.rstrip('/')}/{name}"
        relative = f"{current.prefix}{name}" if current.prefix else name
        kind = current.kinds.get(name)
        if kind is None or (kind == "link" and _is_usable_link(path, listing)):
            yield path, relative
        elif kind in {"folder", "link to folder"}:
            real = f"{current.real}/{name}" if kind == "folder" else os.path.realpath(path)
            if real in first_path_of:
                listing.duplicates.append((printable(first_path_of[real]), printable(path)))
                continue
            first_path_of[real] = path
            open_folders.append(_OpenFolder(path, f"{relative}/", real, unread))
            if open_folders[-1].error:
                reason = f"cannot be read ({open_folders[-1].error})"
                listing.damaged.append((printable(path), reason))
        elif kind == "compressed":
            listing.damaged.append((printable(path), compression_advice(name)))
        elif kind == "device":
            listing.damaged.append((printable(path), "must be a file; got a device or pipe"))
    unread.note(folder, listing)


class _OpenFolder:
    """Names in one folder, in descending order, and the kinds of those that are no plain files."""

    def __init__(self, path: str, prefix: str, real: str, unread: Unread) -> None:
        self.path = path
        self.prefix = prefix
        self.real = real
        self.names: list[str] = []
        self.kinds: dict[str, str] = {}
        self.error: str | None = None
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    if not is_hidden(entry.name):
                        self._sort_in(entry, unread)
                    elif not is_sidecar(entry.name) and _is_audio(entry.name):
                        unread.add(entry.name)
        except OSError as error:
            self.error = error.strerror
        self.names.sort(reverse=True)

    def _sort_in(self, entry: "os.DirEntry[str]", unread: Unread) -> None:
        # Most file systems return the kind with the name, without a look at each file.
        name, is_link = entry.name, entry.is_symlink()
        if leads_to_folder(entry):
            self.kinds[name] = "link to folder" if is_link else "folder"
        else:
            suffix = os.path.splitext(name)[1].lower()
            if suffix in AUDIO_SUFFIXES or suffix in {TAR_SUFFIX, PARQUET_SUFFIX}:
                if is_link:
                    self.kinds[name] = "link"
                elif not leads_to_file(entry):
                    self.kinds[name] = "device"
            elif name.lower().endswith(COMPRESSED_SUFFIXES):
                self.kinds[name] = "compressed"
            else:
                unread.add(name)
                return
        self.names.append(name)


def leads_to_folder(entry: "os.DirEntry[str]") -> bool:
    """Return whether it is a folder or a link to one; False for a link to itself."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def leads_to_file(entry: "os.DirEntry[str]") -> bool:
    """Return whether it is a file or a link to one; False for a link to itself."""
    try:
        return entry.is_file()
    except OSError:
        return False


def _is_audio(name: str) -> bool:
    suffix = os.path.splitext(name)[1].lower()
    return suffix in AUDIO_SUFFIXES or suffix in UNREAD_SUFFIXES


def _is_usable_link(path: str, listing: Listing) -> bool:
    real = os.path.realpath(path)
    if os.path.isfile(real):
        listing.links[path] = real
        return True
    if os.path.exists(real):
        listing.damaged.append((printable(path), "must be a file; got a link to a device or pipe"))
    else:
        listing.missing.append(
            f"{printable(path)}: links to {printable(real)}, which does not exist"
        )
    return False


def compression_advice(name: str) -> str:
    """Message for a compressed archive: the rule and the remedy."""
    if name.lower().endswith(".zip"):
        return "archives must be plain tar; got zip. Unpack it to a folder"
    return "archives must be plain tar; got a compressed one. Unpack the compression, not the tar"


class FileIndex:
    """Lookup of files that lists each folder once instead of looking at each file."""

    _KEPT = 8  # folders remembered; lists are mostly ordered by folder

    def __init__(self, listing: Listing) -> None:
        self._listing = listing
        self._names: dict[str, dict[str, bool]] = {}

    def find_file(self, path: str) -> str | None:
        """Find a file, also by another spelling of its name.

        Also records a link's real path in the listing.
        """
        folder, name = os.path.split(path)
        names = self._names_in(folder)
        if name not in names and (not path.isascii() or "\\" in path):
            path = find_spelling(path) or path
            folder, name = os.path.split(path)
            names = self._names_in(folder)
        if name not in names:
            return None
        if names[name]:
            self._listing.links[path] = os.path.realpath(path)
        return path

    def _names_in(self, folder: str) -> dict[str, bool]:
        if folder not in self._names:
            if len(self._names) == self._KEPT:
                del self._names[next(iter(self._names))]
            self._names[folder] = _file_names(folder)
        return self._names[folder]


def find_spelling(path: str) -> str | None:
    """Find the existing path that a list on another system spells as `path`.

    macOS and zip archives normalize names (`e` and an accent) differently from most lists; lists
    from Windows have backslashes.
    """
    if os.path.lexists(path):
        return path
    path = path.replace("\\", "/")
    found = os.sep if path.startswith(os.sep) else ""
    for name in filter(None, path.split(os.sep)):
        place = os.path.join(found, name)
        if not os.path.lexists(place):
            wanted = unicodedata.normalize("NFC", name)
            alike = [n for n in _names_in(found) if unicodedata.normalize("NFC", n) == wanted]
            if not alike:
                return None
            place = os.path.join(found, alike[0])
        found = place
    return found or None


def _names_in(folder: str) -> list[str]:
    try:
        return os.listdir(folder or ".")
    except (OSError, ValueError):  # a null in the name
        return []


def _file_names(folder: str) -> dict[str, bool]:
    """Map the names of the files in a folder to whether each is a link."""
    try:
        with os.scandir(folder or ".") as entries:
            return {entry.name: entry.is_symlink() for entry in entries if leads_to_file(entry)}
    except (OSError, ValueError):  # a null in the name
        return {}
