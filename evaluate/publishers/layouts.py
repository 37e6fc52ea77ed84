"""Data sets as their publishers ship them, found under one folder by what they contain."""

import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

from byola_rq.sources.folders import leads_to_folder
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

_MAX_DEPTH = 4  # levels below the data root at which a data set's root may lie
_MAX_CLIPS = 50  # a folder with so many audio files is one of clips, not of data sets


def find_layouts(data_root: Path) -> dict[str, tuple[Path, ...]]:
    """The data sets that are under a folder, each with the folders that hold a copy of it.

    Looked at are names alone, level by level and at most four levels down, and never what lies
    in a folder of clips.

    Returns:
        Folders by the task's name, in the order of `LAYOUTS`; a layout that needs a second folder
        only where that is there, and the one that stands in for it only where it is not.

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
    """Read the one copy of a data set under a folder.

    Args:
        name: Of one of `LAYOUTS`.
        data_root: Where to look for it.
        seed: Of a split that the publisher does not give.
        by_archive: As in `Copy`.

    Raises:
        TaskError: If no copy or more than one is there, if it is half unpacked, or if its lists
            cannot be read.
        AudioError: If a file that has to be measured is not audio.
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
            f"{data_root}: {name} must be there, a folder with {layout.holds}; found none down to "
            f"{_MAX_DEPTH} levels. Point --data-root at it or a folder above it",
            code="missing",
            path=data_root,
            value=name,
        )
    if len(folders) > 1:
        raise TaskError(
            f"{data_root}: {name} must be there once; found {len(folders)} copies, in "
            f"{name_some([str(folder) for folder in folders])}. Point --data-root at one",
            code="twice",
            path=data_root,
            value=folders,
        )
    task = layout.read(Copy(folders[0], seed, tuple(partners[name]), by_archive))
    unread = describe_unread(folders[0], layout.own_folders)
    return replace(task, notes=(*task.notes, unread)) if unread else task


def _search(data_root: Path) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    """The roots of every layout, and the second folders of those that have one."""
    roots: dict[str, list[Path]] = defaultdict(list)
    partners: dict[str, list[Path]] = defaultdict(list)
    for folder, recognised in _walk(data_root):
        for layout in recognised:
            roots[layout.name].append(folder)
        for layout in LAYOUTS:
            if layout.is_partner is not None and layout.is_partner(folder):
                partners[layout.name].append(folder)
    return roots, partners


def _walk(data_root: Path) -> Iterator[tuple[Path, list[Layout]]]:
    """Folders that hold folders, level by level, with the layouts they are a root of.

    A data set's own folders are not entered, other folders beside them are: a data root may be
    the root of one set and hold the next.
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
            real = os.path.realpath(folder)  # a link leads to what is elsewhere, maybe above
            names = _folders_in(folder, is_top=depth == 0) if real not in seen else []
            seen.add(real)
            if not names:
                continue
            recognised = [layout for layout in LAYOUTS if _is_root(layout, folder)]
            yield folder, recognised
            own = [pattern for layout in recognised for pattern in layout.own_folders]
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
        return False  # what is closed to us must not hide the other sets


def _folders_in(folder: Path, *, is_top: bool) -> list[str]:
    """Names of the folders in a folder; none, and not read to its end, if it is one of clips."""
    names, num_clips = [], 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
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
