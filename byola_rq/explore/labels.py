"""The label of each clip of a collection: from a csv, or by the folder it lies in."""

import os
from collections.abc import Sequence
from pathlib import Path

from byola_rq.errors import CorpusError
from byola_rq.runtime.progress import log
from byola_rq.sources.labelled_csv import read_labelled_rows


def folder_names(paths: Sequence[str]) -> list[str]:
    """The folder of each clip below the one that all share; empty for clips that lie there."""
    folders = [os.path.dirname(path) for path in paths]
    shared = os.path.commonpath(folders) if len(set(folders)) > 1 else folders[0]
    return [os.path.relpath(each, shared) if each != shared else "" for each in folders]


def read_labels(csv: Path, paths: Sequence[str]) -> list[str]:
    """The label that a csv (`file_name,label`) gives each clip; empty where it names none.

    Raises:
        CorpusError: If the csv cannot be read or names none of the clips.
    """
    rows = read_labelled_rows(csv, label_columns=("label",), part_columns=()).clips
    label_of = {os.path.realpath(row.path): row.label for row in rows}
    labels = [label_of.get(os.path.realpath(path), "") for path in paths]
    num_named = sum(map(bool, labels))
    if not num_named:
        message = f"{csv}: names none of the {len(paths)} clips, such as {paths[0]}"
        raise CorpusError(message, code="different", path=csv)
    if num_named < len(paths):
        log(f"{len(paths) - num_named} of {len(paths)} clips have no label in {csv}")
    return labels
