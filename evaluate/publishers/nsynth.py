"""NSynth: notes of musical instruments, labeled by instrument family."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from evaluate.publishers.base import Copy, Layout, half_unpacked, make_task
from evaluate.publishers.files import find_unpacked, list_audio, reading
from evaluate.tasks.task import Clip, Problem, Task, TaskError, find_overlaps

_FOLDERS = {"train": "nsynth-train", "valid": "nsynth-valid", "test": "nsynth-test"}
_LABEL, _GROUP = "instrument_family_str", "instrument_str"


def _is_root(folder: Path) -> bool:
    parts = (find_unpacked(folder / name) for name in _FOLDERS.values())
    return any((part / "examples.json").is_file() or (part / "audio").is_dir() for part in parts)


def _read(copy: Copy) -> Task:
    clips: list[Clip] = []
    found: set[str] = set()
    repeated: list[Problem] = []
    for part, name in _FOLDERS.items():
        folder = find_unpacked(copy.folder / name)
        examples, twice = _read_examples(copy.folder, folder)
        repeated += twice
        clips += _make_clips(folder, part, examples)
        found |= set(list_audio(folder / "audio", f"{name}/audio/"))
    # The publisher keeps training instruments apart, but valid and test share instruments.
    held_out = [replace(c, part=c.part if c.part == "train" else "valid or test") for c in clips]
    num_shared = len(find_overlaps(c for c in clips if c.part != "train"))
    notes = [f"valid and test share {num_shared} instruments, train none"] if num_shared else []
    return make_task(
        LAYOUT,
        copy.folder,
        clips,
        found,
        split_rule="publisher's",
        notes=notes,
        problems=(*repeated, *find_overlaps(held_out)),
    )


def _read_examples(root: Path, folder: Path) -> tuple[dict[str, dict[str, str]], list[Problem]]:
    """Read family and instrument of each note of a part; report names that the file repeats."""
    path = folder / "examples.json"
    problems: list[Problem] = []

    def keep(pairs: list[tuple[str, object]]) -> dict[str, object]:
        # Called for every object while the file is parsed: keeping only two facts of each note
        # avoids gigabytes for the 200 MB of the train part.
        values = dict(pairs)
        if _LABEL in values and _GROUP in values:
            return {_LABEL: values[_LABEL], _GROUP: values[_GROUP]}
        if len(values) < len(pairs):
            names = [key for key, _ in pairs]
            problems.extend(
                Problem(
                    "duplicate",
                    f"{folder.name}/audio/{key}.wav",
                    f"listed {names.count(key)} times",
                )
                for key in sorted({key for key in names if names.count(key) > 1})
            )
        return values

    if not path.exists():
        what = f"{folder.name}/examples.json"
        raise half_unpacked(LAYOUT, root, f"{what} is not there", value=what)
    try:
        with reading(path, "notes"), path.open(encoding="utf-8-sig") as file:
            examples = json.load(file, object_pairs_hook=keep)
    except (json.JSONDecodeError, RecursionError) as error:
        raise TaskError(
            f"{path}: not complete JSON: {error}. Unpack the archive again",
            code="damaged",
            path=path,
        ) from error
    if not isinstance(examples, dict):
        raise TaskError(
            f"{path}: the notes must be an object by name; got {type(examples)}",
            code="malformed",
            path=path,
            value=type(examples),
        )
    return examples, problems


def _make_clips(folder: Path, part: str, examples: dict[str, dict[str, str]]) -> Iterator[Clip]:
    for note, facts in examples.items():
        for fact in (_LABEL, _GROUP):
            value = facts.get(fact) if isinstance(facts, dict) else None
            if not isinstance(value, str) or not value:
                path = folder / "examples.json"
                raise TaskError(
                    f"{path}: {fact} of note {note!r} must be a name; got {value!r}",
                    code="value",
                    path=path,
                    key=fact,
                    value=value,
                )
        yield Clip(
            path=folder / "audio" / f"{note}.wav",
            file_name=f"{folder.name}/audio/{note}.wav",
            label=facts[_LABEL],
            part=part,
            group=facts[_GROUP],
        )


LAYOUT = Layout(
    name="nsynth",
    title="NSynth",
    unit_seconds=4.0,
    num_classes=11,
    counts={"train": 289_205, "valid": 12_678, "test": 4_096},
    holds="nsynth-train, nsynth-valid and nsynth-test, each with examples.json and audio/",
    is_root=_is_root,
    read=_read,
    group="instrument",
    own_folders=tuple(_FOLDERS.values()),
)
