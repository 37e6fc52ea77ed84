"""UrbanSound8K: sounds of a city in ten folds."""

from pathlib import Path

from evaluate.publishers.base import Copy, Layout
from evaluate.publishers.fold_table import read_fold_table
from evaluate.tasks.task import Task

_TABLE = "metadata/UrbanSound8K.csv"


def _is_root(folder: Path) -> bool:
    return (folder / _TABLE).is_file() or any(
        (folder / f"audio/fold{fold}").is_dir() for fold in LAYOUT.counts
    )


def _read(copy: Copy) -> Task:
    return read_fold_table(
        LAYOUT,
        copy,
        _TABLE,
        name="slice_file_name",
        label="class",
        group="fsID",
        file_name=lambda row: f"audio/fold{row['fold']}/{row['slice_file_name']}",
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
