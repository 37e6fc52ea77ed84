"""VoxCeleb1: identification of 1,251 speakers."""

import re
from collections.abc import Iterator
from pathlib import Path

from byola_rq.sources.folders import leads_to_folder
from evaluate.publishers.base import Copy, Layout, half_unpacked, make_task
from evaluate.publishers.files import list_audio, list_folder, read_lines
from evaluate.tasks.task import Clip, Problem, Task, TaskError, find_overlaps

_LIST = "iden_split.txt"
_PARTS = {"1": "train", "2": "valid", "3": "test"}
# Possible parents of the speakers' folders: development and test archive unpacked together, or
# apart (the identification split uses both); "" is the root itself.
_BASES = (
    "wav",
    "dev/wav",
    "test/wav",
    "vox1_dev_wav/wav",
    "vox1_test_wav/wav",
    "vox1_dev_wav",
    "vox1_test_wav",
    "",
)
_SPEAKER = re.compile(r"id1\d{4}")  # VoxCeleb2's ids begin with id0


def _is_root(folder: Path) -> bool:
    return any(_speakers_in(folder / base) for base in _BASES)


def _speakers_in(base: Path) -> list[str]:
    return [
        entry.name
        for entry in list_folder(base)
        if _SPEAKER.fullmatch(entry.name) and leads_to_folder(entry)
    ]


def _read(copy: Copy) -> Task:
    where, repeated = _list_clips(copy.folder)
    clips = list(_make_clips(_find_list(copy.folder), copy.folder, where))
    # Speakers are the classes, so each is in every part; the publisher does not keep videos apart.
    num_shared = len(find_overlaps(clips))
    notes = [f"{num_shared:,} videos are in more than one part"] if num_shared else []
    return make_task(
        LAYOUT,
        copy.folder,
        clips,
        where.keys(),
        split_rule="publisher's",
        notes=notes,
        problems=repeated,
    )


def _list_clips(folder: Path) -> tuple[dict[str, Path], list[Problem]]:
    """Map each clip's name in the list to its path; report clips in two places."""
    where: dict[str, Path] = {}
    problems = []
    for base in _BASES:
        for speaker in _speakers_in(folder / base):
            for name in list_audio(folder / base / speaker, f"{speaker}/"):
                path = folder / base / name
                if where.setdefault(name, path) != path:
                    other = where[name].relative_to(folder)
                    problems.append(Problem("duplicate", name, f"in {base}; read from {other}"))
    return where, problems


def _find_list(folder: Path) -> Path:
    """Find the list of the split: in the root, one level up, or one level down."""
    for candidate in (folder / _LIST, folder.parent / _LIST, *sorted(folder.glob(f"*/{_LIST}"))):
        if candidate.is_file():
            return candidate
    raise half_unpacked(
        LAYOUT, folder, f"{_LIST}, the publisher's identification split, is not there", value=_LIST
    )


def _make_clips(list_path: Path, folder: Path, where: dict[str, Path]) -> Iterator[Clip]:
    for line in read_lines(list_path):
        number, _, name = line.partition(" ")
        speaker, _, rest = name.strip().partition("/")
        video = rest.partition("/")[0]
        if number not in _PARTS or not rest:
            raise TaskError(
                f"{list_path}: a line must be 1, 2 or 3 and speaker/video/file; got {line!r}",
                code="malformed",
                path=list_path,
                value=line,
            )
        file_name = f"{speaker}/{rest}"
        yield Clip(
            path=where.get(file_name, folder / file_name),
            file_name=file_name,
            label=speaker,
            part=_PARTS[number],
            group=f"{speaker}/{video}",
        )


LAYOUT = Layout(
    name="vc1",
    title="VoxCeleb1",
    unit_seconds=8.2,
    num_classes=1251,
    counts={"train": 138_361, "valid": 6_904, "test": 8_251},
    holds=f"{_LIST} and wav/id10001/... (or dev/wav and test/wav, from both archives)",
    is_root=_is_root,
    read=_read,
    group="video",
    own_folders=("wav", "dev", "test", "vox1_dev_wav", "vox1_test_wav", "id1????"),
)
