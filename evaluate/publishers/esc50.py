"""ESC-50: environmental sounds in fifty classes and five folds."""

import os
import re
from itertools import islice
from pathlib import Path

from evaluate.publishers.base import Copy, Layout
from evaluate.publishers.fold_table import read_fold_table
from evaluate.tasks.task import Task

# Paths of the publisher, then of the copy on Kaggle.
_TABLES = ("meta/esc50.csv", "esc50.csv")
_BASES = ("audio/", "audio/audio/")
_CLIP = re.compile(r"[1-5]-\d+-[A-Z]-\d{1,2}\.wav")  # fold, recording, take, class


def _is_root(folder: Path) -> bool:
    if (folder / _TABLES[0]).is_file() or any(_has_clips(folder / base) for base in _BASES):
        return True
    return (folder / _TABLES[1]).is_file() and (folder / _BASES[0]).is_dir()


def _has_clips(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:  # only ten entries: it may be a large other set
            return any(_CLIP.fullmatch(entry.name) for entry in islice(entries, 10))
    except OSError:
        return False


def _read(copy: Copy) -> Task:
    return read_fold_table(
        LAYOUT,
        copy,
        _TABLES,
        _BASES,
        name="filename",
        label="category",
        group="src_file",
        file_name=lambda row: row["filename"],
    )


LAYOUT = Layout(
    name="esc50",
    title="ESC-50",
    unit_seconds=5.0,
    num_classes=50,
    counts={str(fold): 400 for fold in range(1, 6)},
    holds=f"{_TABLES[0]} (or {_TABLES[1]}) and audio/1-100032-A-0.wav and so on",
    is_root=_is_root,
    read=_read,
    group="recording",
    own_folders=("audio", "meta"),
)
