"""Read publishers' folders, lists and tables."""

import csv
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

from byola_rq.audio.io import AUDIO_SUFFIXES
from byola_rq.sources.folders import Unread, is_hidden, is_sidecar, leads_to_file, leads_to_folder
from byola_rq.text.cells import find_separator
from evaluate.tasks.task import TaskError

# Suffixes of publishers' texts and tables, and of VoxForge's archives.
_READ_SUFFIXES = frozenset({"", ".csv", ".json", ".md", ".tsv", ".txt", ".tgz", ".gz", ".tar"})


def list_audio(
    folder: Path, prefix: str = "", above: frozenset[str] = frozenset()
) -> Iterator[str]:
    """Yield the names of audio files in a folder and below, relative to it, with a `prefix`.

    A missing folder has none. Hidden files and folders are skipped; links to folders are
    followed, except to the real paths in `above`.

    Raises:
        TaskError: If a folder cannot be listed.
    """
    here = os.path.realpath(folder)
    if here in above:
        return
    for entry in list_folder(folder):
        if leads_to_folder(entry):
            yield from list_audio(folder / entry.name, f"{prefix}{entry.name}/", above | {here})
        elif is_audio(entry.name) and leads_to_file(entry):  # a link may be broken
            yield prefix + entry.name


def list_folder(folder: Path) -> list["os.DirEntry[str]"]:
    """List the entries of a folder by name, without hidden ones; empty if it is missing.

    Raises:
        TaskError: If the folder cannot be listed.
    """
    try:
        with os.scandir(folder) as entries:
            # Hidden files include those that macOS adds to archives: ._name.wav
            return sorted(
                (entry for entry in entries if not is_hidden(entry.name)),
                key=lambda entry: entry.name,
            )
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise TaskError(
            f"{folder}: the folder cannot be listed: {error.strerror}",
            code="unreadable",
            path=folder,
        ) from error


def find_unpacked(folder: Path) -> Path:
    """Return the folder, or that of its name within: many programs unpack x.zip into x/x."""
    within = folder / folder.name
    return within if within.is_dir() else folder


def describe_unread(folder: Path, own_folders: Sequence[str]) -> str:
    """Count the files of a copy that no reader uses, by suffix; empty if there are none.

    Audio is not counted: it is in the task or reported as unlisted. Neither are texts and tables.

    Args:
        folder: Root of the copy.
        own_folders: Name patterns of its subfolders; others may belong to another set.
    """
    unread = Unread()
    for here, folders, names in os.walk(folder):
        is_top = here == os.fspath(folder)
        folders[:] = [
            each
            for each in folders
            if not is_hidden(each)
            and (not is_top or any(fnmatch(each, own) for own in own_folders))
        ]
        for name in names:
            suffix = os.path.splitext(name)[1].lower()
            is_hidden_sound = is_hidden(name) and is_audio(name) and not is_sidecar(name)
            is_foreign = not (is_hidden(name) or is_audio(name) or suffix in _READ_SUFFIXES)
            if is_hidden_sound or is_foreign:
                unread.add(name)
    return unread.describe()


def is_audio(name: str) -> bool:
    """Return True if a file name has the suffix of an audio format."""
    return os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Turn errors of reading a publisher's text file inside the context into `TaskError`.

    Raises:
        TaskError: If the file cannot be read, or is not UTF-8.
    """
    try:
        yield
    except OSError as error:
        raise TaskError(
            f"{path}: the {what} cannot be read: {error.strerror}", code="unreadable", path=path
        ) from error
    except UnicodeDecodeError as error:
        raise TaskError(
            f"{path}: the {what} must be UTF-8; {error.reason}", code="malformed", path=path
        ) from error


def read_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Read the rows of a publisher's csv as column -> value, without surrounding spaces.

    What separates the cells is found in the header.

    Raises:
        TaskError: If it is not a UTF-8 csv, or the header or a row lacks one of `columns`.
    """
    rows = []
    try:
        # utf-8-sig: spreadsheets write a byte order mark before the first column's name.
        with reading(path, "csv"), path.open(encoding="utf-8-sig", newline="") as file:
            separator = find_separator(file.readline())
            file.seek(0)
            reader = csv.DictReader(file, delimiter=separator, strict=True)
            header = [name.strip() for name in reader.fieldnames or ()]
            absent = [column for column in columns if column not in header]
            if absent:
                raise TaskError(
                    f"{path}: the header must name {', '.join(absent)}; got {header}",
                    code="malformed",
                    path=path,
                    key=absent[0],
                    value=header,
                )
            reader.fieldnames = header
            for row in reader:
                values = {column: _cell(row[column]) for column in columns}
                empty = [column for column in columns if not values[column]]
                if empty:
                    where = f"{path}, row {reader.line_num}"
                    raise TaskError(
                        f"{where}: {empty[0]} must not be empty; got {row}",
                        code="empty",
                        path=path,
                        key=empty[0],
                    )
                rows.append(values)
    except csv.Error as error:
        raise TaskError(f"{path}: not a csv: {error}", code="malformed", path=path) from error
    return rows


def read_lines(path: Path) -> list[str]:
    """Read the non-empty lines of a publisher's list, without surrounding spaces.

    Raises:
        TaskError: If it is not UTF-8 text.
    """
    with reading(path, "list"):
        text = path.read_text(encoding="utf-8-sig")
    return [_cell(line) for line in text.split("\n") if line.strip()]


def _cell(text: str | None) -> str:
    """Strip a text; a list that was written again on Windows has backslashes in its paths."""
    return (text or "").strip().replace("\\", "/")
