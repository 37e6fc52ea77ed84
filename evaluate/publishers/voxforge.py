"""VoxForge: identification of six languages in recordings of volunteers."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from byola_rq.sources.labelled_csv import PART_NAMES
from evaluate.publishers.base import (
    MAX_SKIPPED,
    Copy,
    Layout,
    half_unpacked,
    make_task,
    name_some,
)
from evaluate.publishers.disjoint import SPLIT_RULE, divide_groups
from evaluate.publishers.files import read_table
from evaluate.publishers.voxforge_archives import (
    LANGUAGE_OF,
    LANGUAGES,
    find_languages,
    holds_archives,
    holds_unsorted_archives,
    list_archives,
    place_of,
)
from evaluate.tasks.task import Clip, Problem, Task, TaskError, find_overlaps

_SPLITS = ("voxforge*.csv", "split.csv")
_SPLIT_ABOVE = "voxforge.csv"  # EVAR's file name
BY_ARCHIVE = ", by archive"  # suffix of the split rule if it divides by archive, as published
_CLIPS_OF_AN_ARCHIVE = 10  # assumed for a damaged archive: the site asks for ten sentences


def _is_root(folder: Path) -> bool:
    languages = find_languages(folder)
    if sum(any(map(holds_archives, folders)) for folders in languages.values()) >= 2:
        return True
    # Without folders of languages a csv must give each archive's language, as EVAR's does.
    return any("voxforge" in path.name for path in _list_splits(folder)) and (
        holds_unsorted_archives(folder)
    )


def _read(copy: Copy) -> Task:
    root = copy.folder
    given = _find_split(root)  # before listing the archives, which is slow
    archives, problems = list_archives(root, with_unsorted=given is not None)
    languages = {archive.language for archive in archives if archive.clips}
    absent = sorted(LANGUAGES.keys() - languages)
    if absent and "" not in languages:
        raise half_unpacked(
            LAYOUT, root, f"no clips of {', '.join(absent)} are there", value=absent
        )
    clips = [
        Clip(
            path=archive.packed or archive.folder / name,
            file_name=(archive.folder / name).relative_to(root).as_posix(),
            label=archive.language,
            part="",
            member=member if archive.packed else "",
            group=archive.speaker,
        )
        for archive in archives
        for name, member in archive.clips
    ]
    if given:
        return _divide_as_given(root, given, clips, problems)
    return _divide(copy, clips, problems)


def _list_splits(root: Path) -> list[Path]:
    found = sorted(path for pattern in _SPLITS for path in root.glob(pattern))
    above = root.parent / _SPLIT_ABOVE
    return found or [above] * above.is_file()


def _find_split(root: Path) -> Path | None:
    found = _list_splits(root)
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise TaskError(
            f"{root}: there must be one csv of the split at most; got {names}",
            code="twice",
            path=root,
            value=found,
        )
    return found[0] if found else None


def _divide_as_given(
    root: Path, given: Path, clips: Sequence[Clip], problems: Sequence[Problem]
) -> Task:
    here: dict[tuple[str, str], list[Clip]] = defaultdict(list)
    for clip in clips:
        here[place_of(clip.file_name)].append(clip)
    listed = []
    for row in read_table(given, ("file_name", "label", "split")):
        name, part = row["file_name"], PART_NAMES.get(row["split"].casefold())
        if part is None:
            raise TaskError(
                f"{given}: split of {name} must be one of {', '.join(PART_NAMES)}; "
                f"got {row['split']!r}",
                code="value",
                path=given,
                key="split",
                value=row["split"],
            )
        language = LANGUAGE_OF.get(row["label"].casefold(), "")
        missing = Clip(root / name, name, language, "")
        clip = _choose(here.get(place_of(name), [missing]), name, language)
        if not language or language != (clip.label or language):
            wanted = clip.label if language else f"one of {', '.join(LANGUAGES)}"
            raise TaskError(
                f"{given}: label of {name} must be {wanted}; got {row['label']!r}",
                code="different" if language else "value",
                path=given,
                key="label",
                value=row["label"],
            )
        listed.append(replace(clip, label=language, part=part))
    overlaps = find_overlaps(listed)
    by_archive = BY_ARCHIVE if overlaps and not _share_archives(listed) else ""
    return make_task(
        LAYOUT,
        root,
        listed,
        {clip.file_name for clip in clips},
        split_rule=f"given by {given.name}{by_archive}",
        notes=[
            f"split: as {given.name} gives it{by_archive}",
            *([_describe_shared(overlaps)] if by_archive else []),
        ],
        problems=(*problems, *(() if by_archive else overlaps)),
    )


def _choose(found: Sequence[Clip], name: str, language: str) -> Clip:
    """Choose among clips of equal archive and name: by the row's path, then by its language."""
    return min(found, key=lambda c: (c.file_name != name, c.label not in ("", language)))


def _share_archives(clips: Iterable[Clip]) -> bool:
    """Return True if an archive is in two parts."""
    return bool(find_overlaps(replace(c, group=place_of(c.file_name)[0]) for c in clips))


def _describe_shared(overlaps: Sequence[Problem]) -> str:
    return f"{len(overlaps):,} speakers are in more than one part"


def _divide(copy: Copy, clips: Sequence[Clip], problems: Sequence[Problem]) -> Task:
    """Divide by speaker, or, as in the published split, by archive."""
    unit = "archive" if copy.by_archive else "speaker"
    units = [place_of(c.file_name)[0] if copy.by_archive else c.group for c in clips]
    sizes: dict[str, Counter[str]] = defaultdict(Counter)
    for clip, name in zip(clips, units, strict=True):
        sizes[clip.label][name] += 1
    parts = divide_groups(sizes, copy.seed, where=str(copy.folder), group=unit)
    divided = [replace(clip, part=parts[name]) for clip, name in zip(clips, units, strict=True)]
    overlaps = find_overlaps(divided)
    task = make_task(
        LAYOUT,
        copy.folder,
        divided,
        split_rule=f"{unit}-{SPLIT_RULE}, seed {copy.seed}",
        notes=[
            f"split: no {unit} in two parts, 70/15/15 by clips in each language, seed {copy.seed}",
            *([_describe_shared(overlaps)] if copy.by_archive else []),
        ],
        problems=(*problems, *(() if copy.by_archive else overlaps)),
    )
    damaged = [problem.name for problem in problems if problem.kind == "unreadable"]
    num_missing = _CLIPS_OF_AN_ARCHIVE * len(damaged)
    if num_missing > MAX_SKIPPED * (num_missing + len(divided)):
        what = f"{len(damaged):,} of its archives cannot be read ({name_some(damaged)})"
        raise half_unpacked(LAYOUT, copy.folder, what, value=damaged, code="too-many")
    return replace(task, num_missing=num_missing)


LAYOUT = Layout(
    name="voxforge",
    title="VoxForge",
    unit_seconds=5.8,
    num_classes=6,
    counts={"all": 176_438},
    holds=f"{', '.join(LANGUAGES)}, each with archives, packed or as <archive>/wav/ or flac/; "
    f"or <archive>/wav/ and EVAR's {_SPLIT_ABOVE}",
    is_root=_is_root,
    read=_read,
    group="speaker",
    # Case-insensitive patterns of languages, such as [Dd][Ee]; and archives.
    own_folders=(
        *("".join(f"[{letter.upper()}{letter}]" for letter in name) for name in LANGUAGE_OF),
        f"*-{'[0-9]' * 8}-*",
    ),
)
