"""A set whose table gives each file a class, a fold and the recording it was cut from."""

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
    """The task of a copy with a csv that has a column `fold`.

    Args:
        layout: The set's layout.
        copy: Where it lies.
        tables: The csv, relative to its folder: where the publisher has it, then where copies do.
        bases: Likewise, what the sound lies under, with a slash at its end; empty is the folder.
        name: Column of the files' names.
        label: Column of the classes.
        group: Column of the recordings that the clips were cut from.
        file_name: A row -> where its file lies, relative to the base.

    Raises:
        TaskError: If the csv is not there or cannot be read, or as `make_task`.
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
