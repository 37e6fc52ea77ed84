"""VoxForge: which of six languages a volunteer speaks."""

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
    list_archives,
)
from evaluate.tasks.task import Clip, Problem, Task, TaskError, find_overlaps

_SPLITS = ("voxforge*.csv", "split.csv")
BY_ARCHIVE = ", by archive"  # how the rule of a given split ends that divides as the published one
_CLIPS_OF_AN_ARCHIVE = 10  # sentences that the site asks for: what a damaged archive is taken for


def _is_root(folder: Path) -> bool:
    languages = find_languages(folder)
    if len(languages) < 2:
        return False
    return sum(any(map(holds_archives, folders)) for folders in languages.values()) >= 2


def _read(copy: Copy) -> Task:
    root = copy.folder
    given = _find_split(root)  # before the archives, which take a while
    archives, problems = list_archives(root)
    absent = sorted(LANGUAGES.keys() - {a.language for a in archives if a.clips})
    if absent:
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
    return _divide_by_speaker(copy, clips, problems)


def _find_split(root: Path) -> Path | None:
    found = sorted(path for pattern in _SPLITS for path in root.glob(pattern))
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
    root: Path, given: Path, clips: Iterable[Clip], problems: Sequence[Problem]
) -> Task:
    here = {clip.file_name: clip for clip in clips}
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
        clip = here.get(name, Clip(root / name, name, language, ""))
        if not language or language != clip.label:
            wanted = clip.label if language else f"one of {', '.join(LANGUAGES)}"
            raise TaskError(
                f"{given}: label of {name} must be {wanted}; got {row['label']!r}",
                code="different" if language else "value",
                path=given,
                key="label",
                value=row["label"],
            )
        listed.append(replace(clip, part=part))
    return make_task(
        LAYOUT,
        root,
        listed,
        here.keys(),
        split_rule=f"given by {given.name}",
        notes=[f"split: as {given.name} gives it"],
        problems=(*problems, *find_overlaps(listed)),
    )


def _divide_by_speaker(copy: Copy, clips: Iterable[Clip], problems: Sequence[Problem]) -> Task:
    sizes: dict[str, Counter[str]] = defaultdict(Counter)
    for clip in clips:
        sizes[clip.label][clip.group] += 1
    parts = divide_groups(sizes, copy.seed, where=str(copy.folder), group="speaker")
    divided = [replace(clip, part=parts[clip.group]) for clip in clips]
    task = make_task(
        LAYOUT,
        copy.folder,
        divided,
        split_rule=f"speaker-{SPLIT_RULE}, seed {copy.seed}",
        notes=[
            f"split: no speaker in two parts, 70/15/15 by clips in each language, seed {copy.seed}"
        ],
        problems=(*problems, *find_overlaps(divided)),
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
    holds=f"{', '.join(LANGUAGES)}, each with archives, packed or as <archive>/wav/ or flac/",
    is_root=_is_root,
    read=_read,
    group="speaker",
    # Patterns of names in any case: [Dd][Ee] and so on.
    own_folders=tuple(
        "".join(f"[{letter.upper()}{letter}]" for letter in name) for name in LANGUAGE_OF
    ),
)
