"""UrbanSound8K: sounds of a city in ten folds."""

from pathlib import Path

from evaluate.publishers import Copy, Layout, half_unpacked, make_task
from evaluate.publishers.files import list_audio, read_table
from evaluate.tasks import Clip, Task, find_overlaps

_TABLE = "metadata/UrbanSound8K.csv"


def _is_root(folder: Path) -> bool:
    return (folder / _TABLE).is_file() or any(
        (folder / f"audio/fold{fold}").is_dir() for fold in LAYOUT.counts
    )


def _read(copy: Copy) -> Task:
    if not (copy.folder / _TABLE).is_file():
        raise half_unpacked(LAYOUT, copy.folder, f"{_TABLE} is not there")
    clips = [
        Clip(
            path=copy.folder / name,
            file_name=name,
            label=row["class"],
            part=row["fold"],
            group=row["fsID"],  # the recording that the clip was cut from
        )
        for row in read_table(copy.folder / _TABLE, ("slice_file_name", "fold", "class", "fsID"))
        for name in [f"audio/fold{row['fold']}/{row['slice_file_name']}"]
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
    name="us8k",
    title="UrbanSound8K",
    unit_seconds=4.0,
    num_classes=10,
    counts={
        "1": 873,
        "2": 888,
        "3": 925,
        "4": 990,
        "5": 936,
        "6": 823,
        "7": 838,
        "8": 806,
        "9": 816,
        "10": 837,
    },
    holds=f"{_TABLE} and audio/fold1 to audio/fold10",
    is_root=_is_root,
    read=_read,
    group="recording",
    own_folders=("audio", "metadata"),
)
