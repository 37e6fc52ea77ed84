"""Labels of the clips of a collection, from a csv or from folder names."""

import os
from collections.abc import Sequence
from pathlib import Path

from byola_rq.errors import CorpusError
from byola_rq.runtime.progress import log
from byola_rq.sources.labelled_csv import read_labelled_rows
from byola_rq.text.shown import printable


def shorten(paths: Sequence[str]) -> list[str]:
    """Return paths relative to the folder that all are in, at any depth."""
    whole = [os.path.abspath(path) for path in paths]
    shared = os.path.commonpath({os.path.dirname(path) for path in whole})
    return [os.path.relpath(path, shared) for path in whole]


def folder_names(paths: Sequence[str]) -> list[str]:
    """Return each clip's folder below the common one; empty for clips directly in it."""
    return [os.path.dirname(path) for path in shorten(paths)]


def read_labels(csv: Path, paths: Sequence[str]) -> list[str]:
    """Return each clip's label from a csv (`file_name,label`); empty for clips it does not list.

    Raises:
        CorpusError: If the csv cannot be read or lists none of the clips.
    """
    rows = read_labelled_rows(csv, label_columns=("label",), part_columns=()).clips
    # As in index.csv, whose names are text.
    label_of = {printable(os.path.realpath(row.path)): row.label for row in rows}
    labels = [label_of.get(printable(os.path.realpath(path)), "") for path in paths]
    num_named = sum(map(bool, labels))
    if not num_named:
        message = f"{csv}: names none of the {len(paths)} clips, such as {paths[0]}"
        raise CorpusError(message, code="different", path=csv)
    if num_named < len(paths):
        log(f"{len(paths) - num_named} of {len(paths)} clips have no label in {csv}")
    return labels
