"""ESC-50: environmental sounds in fifty classes and five folds."""

import os
import re
from itertools import islice
from pathlib import Path

from evaluate.publishers import Copy, Layout, half_unpacked, make_task
from evaluate.publishers.files import list_audio, read_table
from evaluate.tasks import Clip, Task, find_overlaps

_TABLE = "meta/esc50.csv"
_CLIP = re.compile(r"[1-5]-\d+-[A-Z]-\d{1,2}\.wav")  # fold, recording, take, class


def _is_root(folder: Path) -> bool:
    if (folder / _TABLE).is_file():
        return True
    try:
        with os.scandir(folder / "audio") as entries:  # maybe another set's: not read to its end
            return any(_CLIP.fullmatch(entry.name) for entry in islice(entries, 10))
    except OSError:
        return False


def _read(copy: Copy) -> Task:
    if not (copy.folder / _TABLE).is_file():
        raise half_unpacked(LAYOUT, copy.folder, f"{_TABLE} is not there")
    clips = [
        Clip(
            path=copy.folder / name,
            file_name=name,
            label=row["category"],
            part=row["fold"],
            group=row["src_file"],  # the recording that the clip was cut from
        )
        for row in read_table(copy.folder / _TABLE, ("filename", "fold", "category", "src_file"))
        for name in [f"audio/{row['filename']}"]
    ]
    return make_task(
        LAYOUT,
        copy.folder,
        clips,
        set(list_audio(copy.folder / "audio", "audio/")),
        split_rule="leave one fold out",
        has_folds=True,
        problems=find_overlaps(clips),
    )


LAYOUT = Layout(
    name="esc50",
    title="ESC-50",
    unit_seconds=5.0,
    num_classes=50,
    counts={str(fold): 400 for fold in range(1, 6)},
    holds=f"{_TABLE} and audio/1-100032-A-0.wav and so on",
    is_root=_is_root,
    read=_read,
    group="recording",
    own_folders=("audio", "meta"),
)
