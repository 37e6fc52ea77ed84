"""VoxForge archives on disk: unpacked, packed, or both."""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from byola_rq.runtime.prefetch import map_ahead
from byola_rq.runtime.progress import ProgressBar
from byola_rq.sources.folders import leads_to_file, leads_to_folder
from evaluate.publishers.base import name_some
from evaluate.publishers.files import list_audio, list_folder
from evaluate.tasks.archives import ARCHIVE_SUFFIXES, list_archive
from evaluate.tasks.task import Problem, TaskError

# Folder names of each language; SpeechCorpus is English on the publisher's server.
LANGUAGES = {
    "de": ("de", "german"),
    "en": ("en", "english", "speechcorpus"),
    "es": ("es", "spanish"),
    "fr": ("fr", "french"),
    "it": ("it", "italian"),
    "ru": ("ru", "russian"),
}
LANGUAGE_OF = {name: language for language, names in LANGUAGES.items() for name in names}

_SOUND_FOLDERS = ("wav", "flac")
_NAME = re.compile(r".*-\d{8}-[^-]+")
_PREFERRED = "16kHz_16bit"  # the publisher has some archives at other rates in other folders
_MAX_LOOKS = 100  # folders searched for an archive
_MANY_ARCHIVES = 300  # packed archives; each takes 10 ms to list, so progress is shown
_NUM_THREADS = 4


@dataclass(frozen=True)
class Archive:
    """Archive of one recording session of one user.

    Attributes:
        name: `<user>-<date>-<three letters>`.
        language: Key of `LANGUAGES`; empty outside of the folders of languages.
        folder: Unpacked folder, or the folder it would unpack to.
        packed: Packed file; None if unpacked.
        clips: Names within the folder, such as `wav/1.wav`, with their names in the packed file.
    """

    name: str
    language: str
    folder: Path
    packed: Path | None
    clips: tuple[tuple[str, str], ...] = ()

    @property
    def speaker(self) -> str:
        """User, in lower case; the archive's name for an anonymous user."""
        user = self.name.partition("-")[0].casefold()
        return self.name if user in {"", "anonymous"} else user


def find_languages(root: Path) -> dict[str, list[Path]]:
    """Find the folders of each language in a folder."""
    folders = defaultdict(list)
    for entry in list_folder(root):
        language = LANGUAGE_OF.get(entry.name.casefold())
        if language and leads_to_folder(entry):
            folders[language].append(root / entry.name)
    return folders


def holds_archives(folder: Path) -> bool:
    """Return True if a folder holds an archive; a limited search, level by level."""
    to_see = [folder]
    for position in range(_MAX_LOOKS):
        if position == len(to_see):
            break
        here = to_see[position]
        entries = list_folder(here)
        if any(entry.name.endswith(ARCHIVE_SUFFIXES) for entry in entries):
            return True
        folders = [here / entry.name for entry in entries if leads_to_folder(entry)]
        if here != folder and any(path.name in _SOUND_FOLDERS for path in folders):
            return True
        to_see += folders[:_MAX_LOOKS]
    return False


def holds_unsorted_archives(folder: Path) -> bool:
    """Return True if a folder holds archives directly, outside of folders of languages, by name."""
    names = (entry.name for entry in list_folder(folder))
    return any(_NAME.fullmatch(_strip_suffix(name)) for name in names)


def place_of(file_name: str) -> tuple[str, str]:
    """Return archive and sound (without suffix) of a file name, whatever folders it is in."""
    path = PurePosixPath(file_name)
    folders = [name for name in path.parts[:-1] if name not in _SOUND_FOLDERS]
    return (folders or [""])[-1], path.stem


def list_archives(
    root: Path, *, with_unsorted: bool = False
) -> tuple[list[Archive], list[Problem]]:
    """List every archive once, with its clips; report duplicates and unreadable archives.

    Of several copies of an archive an unpacked one is preferred: it is faster to read.

    Args:
        root: Folder of the languages' folders.
        with_unsorted: True to list also archives beside the languages' folders.
    """
    copies: dict[tuple[str, str], list[Archive]] = defaultdict(list)
    languages = find_languages(root)
    folders = [(language, folder) for language in languages for folder in languages[language]]
    found = [archive for each in folders for archive in _walk(*each, frozenset())]
    if with_unsorted:
        found += _walk("", root, None)
    for archive in found:
        copies[archive.language, archive.name].append(archive)
    chosen = []
    again: dict[str, list[str]] = defaultdict(list)
    for (language, _), archives in sorted(copies.items()):
        archives.sort(key=lambda a: (a.packed is not None, _PREFERRED not in a.folder.parts))
        chosen.append(archives[0])
        paths = [(archive.packed or archive.folder) for archive in archives[1:]]
        again[language] += [path.relative_to(root).as_posix() for path in paths]
    problems = [
        Problem("duplicate", language or root.name, f"duplicate archives: {name_some(names)}")
        for language, names in again.items()
        if names
    ]
    opened, damaged = _open(root, [archive for archive in chosen if archive.packed])
    return [a for a in chosen if not a.packed] + opened, problems + damaged


def _walk(language: str, folder: Path, above: frozenset[str] | None) -> Iterator[Archive]:
    """Yield the archives in a folder and below; packed ones still without their clips.

    Links back to the real paths in `above` are not followed. If `above` is None, only the folder
    itself is listed.
    """
    here = os.path.realpath(folder)
    if above is not None and here in above:
        return
    for entry in list_folder(folder):
        path = folder / entry.name
        if leads_to_folder(entry):
            clips = [
                name
                for sounds in _SOUND_FOLDERS
                for name in list_audio(path / sounds, f"{sounds}/")
            ]
            if clips:
                yield Archive(entry.name, language, path, None, _name_clips(clips))
            elif above is not None:
                yield from _walk(language, path, above | {here})
        elif entry.name.endswith(ARCHIVE_SUFFIXES) and leads_to_file(entry):
            name = _strip_suffix(entry.name)
            if above is None and not _NAME.fullmatch(name):
                continue  # may be the file that the languages' folders were unpacked from
            yield Archive(name, language, folder / name, path)


def _strip_suffix(name: str) -> str:
    return name.removesuffix(".gz").removesuffix(".tar").removesuffix(".tgz")


def _open(root: Path, archives: Sequence[Archive]) -> tuple[list[Archive], list[Problem]]:
    """List the clips of packed archives; report archives that cannot be listed."""
    opened, damaged = [], []
    what = "voxforge: listing archives"
    with (
        ProgressBar(what, len(archives)) if len(archives) >= _MANY_ARCHIVES else nullcontext()
    ) as bar:
        for archive, found in zip(
            archives, map_ahead(_list_members, archives, _NUM_THREADS), strict=True
        ):
            if isinstance(found, TaskError):
                assert archive.packed is not None
                name = archive.packed.relative_to(root).as_posix()
                damaged.append(Problem("unreadable", name, str(found)))
            else:
                opened.append(replace(archive, clips=found))
            if bar:
                bar.advance()
    return opened, damaged


def _list_members(archive: Archive) -> tuple[tuple[str, str], ...] | TaskError:
    assert archive.packed is not None
    try:
        members = list_archive(archive.packed)
    except TaskError as error:
        return error
    return _name_clips(
        member for member in members if PurePosixPath(member).parent.name in _SOUND_FOLDERS
    )


def _name_clips(names: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Pair `wav/1.wav` of each name with the name; a sound in both formats counts once."""
    clips: dict[str, tuple[str, str]] = {}
    for name in names:
        path = PurePosixPath(name)
        clips.setdefault(path.stem, (f"{path.parent.name}/{path.name}", name))
    return tuple(clips.values())
