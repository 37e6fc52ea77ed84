"""UrbanSound8K: urban sounds in ten classes and ten folds."""

from pathlib import Path

from evaluate.publishers.base import Copy, Layout
from evaluate.publishers.fold_table import read_fold_table
from evaluate.tasks.task import Task

# Paths of the publisher, then of the copy on Kaggle, which has neither audio/ nor metadata/.
_TABLES = ("metadata/UrbanSound8K.csv", "UrbanSound8K.csv")
_BASES = ("audio/", "")


def _is_root(folder: Path) -> bool:
    if (folder / _TABLES[0]).is_file() or _has_fold(folder / "audio"):
        return True
    return (folder / _TABLES[1]).is_file() and _has_fold(folder)


def _has_fold(folder: Path) -> bool:
    return any((folder / f"fold{fold}").is_dir() for fold in LAYOUT.counts)


def _read(copy: Copy) -> Task:
    return read_fold_table(
        LAYOUT,
        copy,
        _TABLES,
        _BASES,
        name="slice_file_name",
        label="class",
        group="fsID",
        file_name=lambda row: f"fold{row['fold']}/{row['slice_file_name']}",
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
    holds=f"{_TABLES[0]} and audio/fold1 to audio/fold10 (or {_TABLES[1]} and fold1 to fold10)",
    is_root=_is_root,
    read=_read,
    group="recording",
    own_folders=("audio", "metadata", "fold[0-9]", "fold10"),
)
