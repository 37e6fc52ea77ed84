"""GTZAN: music of ten genres."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from byola_rq.sources.folders import leads_to_folder
from evaluate.publishers.base import Copy, Layout, half_unpacked, make_task
from evaluate.publishers.disjoint import divide_groups
from evaluate.publishers.files import is_audio, list_folder, read_lines
from evaluate.tasks.task import Clip, Problem, Task, TaskError

_GENRES = (
    "blues",
    "classical",
    "country",
    "disco",
    "hiphop",
    "jazz",
    "metal",
    "pop",
    "reggae",
    "rock",
)
# Folder of the publisher's archive, of a common copy, and of either with the folder renamed.
_BASES = ("genres", "genres_original", "")
# Kereliuk et al. 2015 (arXiv:1507.04761): without repeated and distorted clips, artists apart.
_LISTS = {
    "train": "train_filtered.txt",
    "valid": "valid_filtered.txt",
    "test": "test_filtered.txt",
}
_FILTERED_COUNTS = {"train": 443, "valid": 197, "test": 290}
_CLIP = re.compile(rf"(({'|'.join(_GENRES)})\.\d{{5}})\.(\w+)")
_CLIPS_OF_A_GENRE = 100


def _is_root(folder: Path) -> bool:
    # At least half of the genres, with clips: any music library may have a folder "pop".
    return any(
        sum(any(_clips_in(folder / base / genre)) for genre in genres) >= len(_GENRES) // 2
        for base in _BASES
        if len(genres := _genres_in(folder / base)) >= len(_GENRES) // 2
    )


def _genres_in(base: Path) -> list[str]:
    return [
        entry.name
        for entry in list_folder(base)
        if entry.name in _GENRES and leads_to_folder(entry)
    ]


def _clips_in(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the clips of a genre's folder: name and file name with suffix."""
    for entry in list_folder(folder):
        match = _CLIP.fullmatch(entry.name)
        if match and match[2] == folder.name and is_audio(entry.name):
            yield match[1], entry.name


def _read(copy: Copy) -> Task:
    root = copy.folder
    found, problems = _list_clips(root)
    given = [name for name in _LISTS.values() if (root / name).is_file()]
    absent = [name for name in _LISTS.values() if name not in given]
    if given and absent:
        raise half_unpacked(
            LAYOUT, root, f"{given[0]} is there, {', '.join(absent)} not", value=absent
        )
    if given:
        parts = _read_lists(root)
        layout = replace(LAYOUT, counts=_FILTERED_COUNTS)
        split_rule = "fault-filtered"
        notes = [f"split: {', '.join(given)}; {len(found.keys() - parts.keys())} clips left out"]
    else:
        parts = _divide(root, copy.seed)
        layout, split_rule = LAYOUT, f"stratified 70/15/15, seed {copy.seed}"
        notes = [
            f"split: 70/15/15 in each genre, seed {copy.seed}; artists are in several parts, so "
            f"scores are too high: add {', '.join(_LISTS.values())} of the fault-filtered split"
        ]
    clips = [
        Clip(root / name, name, label=clip.partition(".")[0], part=part)
        for clip, part in parts.items()
        for name in [found.get(clip, f"{clip.partition('.')[0]}/{clip}.wav")]
    ]
    here = {found[clip] for clip in parts.keys() & found.keys()}
    return make_task(
        layout, root, clips, here, split_rule=split_rule, notes=notes, problems=problems
    )


def _list_clips(root: Path) -> tuple[dict[str, str], list[Problem]]:
    """Map each clip, such as blues.00000, to its file; report other files of the same clip."""
    found: dict[str, str] = {}
    problems = []
    for base in _BASES:
        for genre in _genres_in(root / base):
            # Reversed, so that .wav comes before .au if a clip is there in both formats.
            for clip, file_name in reversed(list(_clips_in(root / base / genre))):
                name = str(PurePosixPath(base, genre, file_name))
                if found.setdefault(clip, name) != name:
                    problems.append(Problem("duplicate", name, f"{found[clip]} is read"))
    return found, problems


def _divide(root: Path, seed: int) -> dict[str, str]:
    sizes = {
        genre: {f"{genre}.{number:05d}": 1 for number in range(_CLIPS_OF_A_GENRE)}
        for genre in _GENRES
    }
    return divide_groups(sizes, seed, where=str(root), group="clip")


def _read_lists(root: Path) -> dict[str, str]:
    """Read the part of each clip from the three lists."""
    parts: dict[str, str] = {}
    for part, list_name in _LISTS.items():
        for line in read_lines(root / list_name):
            match = _CLIP.fullmatch(line.rpartition("/")[2])
            if not match:
                raise TaskError(
                    f"{root / list_name}: a line must be a clip's name, such as "
                    f"blues/blues.00029.wav; got {line!r}",
                    code="malformed",
                    path=root / list_name,
                    value=line,
                )
            if parts.setdefault(match[1], part) != part:
                raise TaskError(
                    f"{root / list_name}: a clip must be in one list; {match[1]} is also in "
                    f"{_LISTS[parts[match[1]]]}",
                    code="twice",
                    path=root / list_name,
                    value=match[1],
                )
    return parts


LAYOUT = Layout(
    name="gtzan",
    title="GTZAN",
    unit_seconds=30.0,  # the whole clip, as BYOL-A v2 evaluated it
    num_classes=10,
    counts={"all": _CLIPS_OF_A_GENRE * len(_GENRES)},
    holds="genres/blues/blues.00000.wav and so on (or genres_original, or .au)",
    is_root=_is_root,
    read=_read,
    own_folders=(*_BASES[:2], *_GENRES),
)
