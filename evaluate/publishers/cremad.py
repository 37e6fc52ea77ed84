"""CREMA-D: actors say a dozen sentences in six emotions."""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

from evaluate.publishers.base import Copy, Layout, half_unpacked, make_task
from evaluate.publishers.disjoint import SPLIT_RULE, divide_groups
from evaluate.publishers.files import list_audio, read_table
from evaluate.tasks.task import Clip, Task, find_overlaps

_AUDIO = "AudioWAV"
_LIST = "SentenceFilenames.csv"  # every clip's name; beside the audio in the publisher's repository
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
    sizes = {"the set": Counter(clip.group for clip in clips)}
    parts = divide_groups(sizes, copy.seed, where=str(root), group="actor")
    clips = [replace(clip, part=parts[clip.group]) for clip in clips]
    return make_task(
        LAYOUT,
        root,
        clips,
        found,
        split_rule=f"actor-{SPLIT_RULE}, seed {copy.seed}",
        notes=[f"split: no actor in two parts, 70/15/15 by clips, seed {copy.seed}"],
        problems=find_overlaps(clips),
    )


LAYOUT = Layout(
    name="cremad",
    title="CREMA-D",
    unit_seconds=2.5,
    num_classes=6,
    counts={"all": 7_442},
    holds=f"{_AUDIO}/1001_DFA_ANG_XX.wav and so on",
    is_root=_is_root,
    read=_read,
    group="actor",
    own_folders=(_AUDIO,),
)
