"""Reader of sets whose table gives each file's class, fold and source recording."""

from collections.abc import Callable, Mapping, Sequence

from evaluate.publishers.base import Copy, Layout, half_unpacked, make_task
from evaluate.publishers.files import list_audio, read_table
from evaluate.tasks.task import Clip, Task, find_overlaps


def read_fold_table(
    layout: Layout,
    copy: Copy,
    tables: Sequence[str],
    bases: Sequence[str],
    *,
    name: str,
    label: str,
    group: str,
    file_name: Callable[[Mapping[str, str]], str],
) -> Task:
    """Read a copy with a csv that has a column `fold`.

    Args:
        layout: Layout of the set.
        copy: Copy to read.
        tables: Candidate paths of the csv, relative to the root: the publisher's, then others.
        bases: Candidate folders of the audio, relative to the root, with a trailing slash; empty
            for the root itself.
        name: Column of the file names.
        label: Column of the classes.
        group: Column of the recordings that the clips were cut from.
        file_name: Maps a row to its file, relative to the base.

    Raises:
        TaskError: If the csv is missing or cannot be read, or as for `make_task`.
    """
    root = copy.folder
    table = next((each for each in tables if (root / each).is_file()), None)
    if table is None:
        raise half_unpacked(layout, root, f"{tables[0]} is not there", value=tables[0])
    rows = read_table(root / table, (name, "fold", label, group))
    base = next(
        (each for each in bases if any((root / each / file_name(row)).is_file() for row in rows)),
        bases[0],
    )
    clips = [
        Clip(
            path=root / base / file_name(row),
            file_name=base + file_name(row),
            label=row[label],
            part=row["fold"],
            group=row[group],
        )
        for row in rows
    ]
    tops = sorted({clip.file_name.partition("/")[0] for clip in clips})
    return make_task(
        layout,
        root,
        clips,
        {found for top in tops for found in list_audio(root / top, f"{top}/")},
        split_rule="leave one fold out",
        has_folds=True,
        problems=find_overlaps(clips),
    )
