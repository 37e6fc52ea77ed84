"""A set whose table gives each file a class, a fold and the recording it was cut from."""

from collections.abc import Callable, Mapping

from evaluate.publishers.base import Copy, Layout, half_unpacked, make_task
from evaluate.publishers.files import list_audio, read_table
from evaluate.tasks.task import Clip, Task, find_overlaps


def read_fold_table(
    layout: Layout,
    copy: Copy,
    table: str,
    *,
    name: str,
    label: str,
    group: str,
    file_name: Callable[[Mapping[str, str]], str],
) -> Task:
    """The task of a copy with sound under `audio/` and a csv with a column `fold`.

    Args:
        layout: The set's layout.
        copy: Where it lies.
        table: The csv, relative to its folder.
        name: Column of the files' names.
        label: Column of the classes.
        group: Column of the recordings that the clips were cut from.
        file_name: A row -> where its file lies, relative to the folder.

    Raises:
        TaskError: If the csv is not there or cannot be read, or as `make_task`.
    """
    if not (copy.folder / table).is_file():
        raise half_unpacked(layout, copy.folder, f"{table} is not there", value=table)
    rows = read_table(copy.folder / table, (name, "fold", label, group))
    clips = [
        Clip(
            path=copy.folder / file_name(row),
            file_name=file_name(row),
            label=row[label],
            part=row["fold"],
            group=row[group],
        )
        for row in rows
    ]
    return make_task(
        layout,
        copy.folder,
        clips,
        set(list_audio(copy.folder / "audio", "audio/")),
        split_rule="leave one fold out",
        has_folds=True,
        problems=find_overlaps(clips),
    )
