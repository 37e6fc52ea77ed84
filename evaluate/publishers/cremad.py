"""CREMA-D: sentences spoken by actors in six emotions."""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

from byola_rq.sources.labelled_csv import PART_NAMES
from evaluate.publishers.base import Copy, Layout, half_unpacked, make_task
from evaluate.publishers.disjoint import SPLIT_RULE, divide_groups
from evaluate.publishers.files import list_audio, read_table
from evaluate.tasks.task import Clip, Task, TaskError, find_overlaps

_AUDIO = "AudioWAV"
_LIST = "SentenceFilenames.csv"  # names of all clips; beside the audio folder
_SPLIT = "cremad.csv"  # EVAR's split by actor; beside the audio folder, in it, or one level up
_EMOTIONS = {
    "ANG": "anger",
    "DIS": "disgust",
    "FEA": "fear",
    "HAP": "happy",
    "NEU": "neutral",
    "SAD": "sad",
}
# Actor, sentence, emotion, intensity (LO, MD, HI, XX; in one name X).
_CLIP = re.compile(rf"(\d{{4}})_[A-Z]{{3}}_({'|'.join(_EMOTIONS)})_[A-Z]{{1,2}}\.wav")
_POINTER = b"version https://git-lfs"


def _is_root(folder: Path) -> bool:
    return (folder / _AUDIO).is_dir()


def _read(copy: Copy) -> Task:
    root = copy.folder
    found = set(list_audio(root / _AUDIO, f"{_AUDIO}/"))
    listed = found
    if (root / _LIST).is_file():
        listed = {
            f"{_AUDIO}/{row['Filename']}.wav" for row in read_table(root / _LIST, ["Filename"])
        }
    clips = [
        Clip(root / name, name, _EMOTIONS[match[2]], part="", group=match[1])
        for name in sorted(listed)
        if (match := _CLIP.fullmatch(name.removeprefix(f"{_AUDIO}/")))
    ]
    here = [clip for clip in clips if clip.file_name in found]
    if not here:
        raise half_unpacked(
            LAYOUT, root, f"{_AUDIO} has no clips such as 1001_DFA_ANG_XX.wav", value=_AUDIO
        )
    with here[0].path.open("rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            what = f"{_AUDIO} holds pointers of Git LFS, not sound; git lfs pull gets it"
            raise half_unpacked(LAYOUT, root, what, value=_AUDIO, code="foreign")
    given = [path for path in (root, root / _AUDIO, root.parent) if (path / _SPLIT).is_file()]
    if given:
        clips = _divide_as_given(root, given[0] / _SPLIT)
        split_rule, note = f"given by {_SPLIT}", f"as {_SPLIT} gives it"
    else:
        sizes = {"the set": Counter(clip.group for clip in clips)}
        parts = divide_groups(sizes, copy.seed, where=str(root), group="actor")
        clips = [replace(clip, part=parts[clip.group]) for clip in clips]
        split_rule = f"actor-{SPLIT_RULE}, seed {copy.seed}"
        note = f"no actor in two parts, 70/15/15 by clips, seed {copy.seed}"
    return make_task(
        LAYOUT,
        root,
        clips,
        found,
        split_rule=split_rule,
        notes=[f"split: {note}"],
        problems=find_overlaps(clips),
    )


def _divide_as_given(root: Path, given: Path) -> list[Clip]:
    clips = []
    for row in read_table(given, ("file_name", "label", "split")):
        file = row["file_name"].rpartition("/")[2]
        match, part = _CLIP.fullmatch(file), PART_NAMES.get(row["split"].casefold())
        emotion = match[2] if match else ""
        name = _EMOTIONS.get(emotion, "")
        rules = {
            "file_name": (match, "a clip's name, such as 1001_DFA_ANG_XX.wav"),
            "label": (row["label"] in (emotion, name), f"as in its name, {emotion} or {name}"),
            "split": (part, f"one of {', '.join(PART_NAMES)}"),
        }
        for key, (holds, rule) in rules.items():
            if not holds:
                raise TaskError(
                    f"{given}: {key} of {file} must be {rule}; got {row[key]!r}",
                    code="value",
                    path=given,
                    key=key,
                    value=row[key],
                )
        path = root / _AUDIO / file
        clips.append(Clip(path, f"{_AUDIO}/{file}", name, str(part), group=file.partition("_")[0]))
    return clips


LAYOUT = Layout(
    name="cremad",
    title="CREMA-D",
    unit_seconds=2.5,
    num_classes=6,
    counts={"all": 7_442},
    holds=f"{_AUDIO}/1001_DFA_ANG_XX.wav and so on (EVAR's split: {_SPLIT} beside it)",
    is_root=_is_root,
    read=_read,
    group="actor",
    own_folders=(_AUDIO,),
)
