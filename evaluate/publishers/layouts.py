"""Find published data sets under a folder by their contents."""

import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

from byola_rq.sources.folders import is_hidden, leads_to_folder
from evaluate.publishers import (
    cremad,
    esc50,
    fsd50k,
    gtzan,
    nsynth,
    speech_commands,
    urbansound,
    voxceleb,
    voxforge,
)
from evaluate.publishers.base import Copy, Layout, name_some
from evaluate.publishers.files import describe_unread, is_audio
from evaluate.tasks.task import Task, TaskError

LAYOUTS: tuple[Layout, ...] = (
    nsynth.LAYOUT,
    urbansound.LAYOUT,
    voxceleb.LAYOUT,
    voxforge.LAYOUT,
    speech_commands.LAYOUT_12,
    speech_commands.LAYOUT_35,
    speech_commands.LAYOUT_12_LISTS,
    esc50.LAYOUT,
    gtzan.LAYOUT,
    cremad.LAYOUT,
    fsd50k.LAYOUT,
)
_BY_NAME = {layout.name: layout for layout in LAYOUTS}

_MAX_DEPTH = 4  # levels below the data root that are searched
_MAX_CLIPS = 50  # a folder with more audio files holds clips, not data sets


def find_layouts(data_root: Path) -> dict[str, tuple[Path, ...]]:
    """Find the data sets under a folder, each with the folders that hold a copy of it.

    Only names are read, at most four levels down, and folders of clips are not entered.

    Returns:
        Folders by task name, in the order of `LAYOUTS`. A layout that needs a second folder is
        included only with that folder, and its substitute only without.

    Raises:
        TaskError: If there is no such folder.
    """
    roots, partners = _search(data_root)
    return {
        layout.name: tuple(roots[layout.name])
        for layout in LAYOUTS
        if roots[layout.name]
        and (layout.is_partner is None or partners[layout.name])
        and not partners[layout.stands_in_for]
    }


def read_layout(name: str, data_root: Path, *, seed: int, by_archive: bool = False) -> Task:
    """Read the only copy of a data set under a folder.

    Args:
        name: Name of one of `LAYOUTS`.
        data_root: Folder to search.
        seed: Seed of the split, if the publisher gives none.
        by_archive: True to divide VoxForge by archive, not by speaker.

    Raises:
        TaskError: If there is no copy or more than one, if it is incomplete, or if its lists
            cannot be read.
        AudioError: If a file that must be measured is not audio.
    """
    if name not in _BY_NAME:
        known = ", ".join(layout.name for layout in LAYOUTS)
        raise TaskError(
            f"{data_root}: task must be one of {known}; got {name!r}",
            code="unknown",
            path=data_root,
            key="task",
            value=name,
        )
    layout = _BY_NAME[name]
    roots, partners = _search(data_root)
    folders = roots[name]
    if not folders:
        raise TaskError(
            f"{data_root}: {name} must exist: a folder with {layout.holds}; found none down to "
            f"{_MAX_DEPTH} levels. Point --data-root at it or a folder above it",
            code="missing",
            path=data_root,
            value=name,
        )
    if len(folders) > 1:
        raise TaskError(
            f"{data_root}: {name} must be unique; found {len(folders)} copies, in "
            f"{name_some([str(folder) for folder in folders])}. Point --data-root at one",
            code="twice",
            path=data_root,
            value=folders,
        )
    task = layout.read(Copy(folders[0], seed, tuple(partners[name]), by_archive))
    unread = describe_unread(folders[0], layout.own_folders)
    return replace(task, notes=(*task.notes, unread)) if unread else task


def _search(data_root: Path) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    """Find the root folders of every layout, and the second folders of those that have one."""
    roots: dict[str, list[Path]] = defaultdict(list)
    partners: dict[str, list[Path]] = defaultdict(list)
    for folder, recognized in _walk(data_root):
        for layout in recognized:
            roots[layout.name].append(folder)
        for layout in LAYOUTS:
            if layout.is_partner is not None and layout.is_partner(folder):
                partners[layout.name].append(folder)
    return roots, partners


def _walk(data_root: Path) -> Iterator[tuple[Path, list[Layout]]]:
    """Yield folders that hold folders, level by level, with the layouts they are a root of.

    A data set's own folders are not entered, but their siblings are: a data root may be the
    root of one set and contain another.
    """
    if not data_root.is_dir():
        raise TaskError(
            f"{data_root}: the data root must be a folder that exists",
            code="missing",
            path=data_root,
        )
    level, seen = [data_root], set[str]()
    for depth in range(_MAX_DEPTH + 1):
        below = []
        for folder in level:
            real = os.path.realpath(folder)  # a link may lead to a folder above: visit each once
            names = _folders_in(folder, is_top=depth == 0) if real not in seen else []
            seen.add(real)
            if not names:
                continue
            recognized = [layout for layout in LAYOUTS if _is_root(layout, folder)]
            yield folder, recognized
            own = [pattern for layout in recognized for pattern in layout.own_folders]
            below += [
                folder / name
                for name in sorted(names)
                if not any(fnmatch(name, pattern) for pattern in own)
            ]
        level = below


def _is_root(layout: Layout, folder: Path) -> bool:
    try:
        return layout.is_root(folder)
    except (OSError, TaskError):
        return False  # an unreadable folder must not hide other sets


def _folders_in(folder: Path, *, is_top: bool) -> list[str]:
    """List the folders in a folder; stop and return none if it holds many clips."""
    names, num_clips = [], 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if is_hidden(entry.name):
                    continue
                if is_audio(entry.name):
                    num_clips += 1
                    if num_clips > _MAX_CLIPS and not is_top:
                        return []
                elif leads_to_folder(entry):
                    names.append(entry.name)
    except OSError as error:
        if is_top:
            raise TaskError(
                f"{folder}: the folder cannot be listed: {error.strerror}",
                code="unreadable",
                path=folder,
            ) from error
        return []
    return names
