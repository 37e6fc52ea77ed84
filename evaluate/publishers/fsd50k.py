"""FSD50K: sound events of Freesound, several to a clip."""

from pathlib import Path

from evaluate.publishers.base import Copy, Layout, half_unpacked, make_task
from evaluate.publishers.files import find_unpacked, list_audio, read_table
from evaluate.tasks.task import Clip, Task, TaskError

_TRUTH = "FSD50K.ground_truth"
_DEV, _EVAL = "FSD50K.dev_audio", "FSD50K.eval_audio"
_PARTS = {"train": "train", "val": "valid"}  # development set; the evaluation set is test


def _is_root(folder: Path) -> bool:
    return any((folder / name).is_dir() for name in (_TRUTH, _DEV, _EVAL))


def _read(copy: Copy) -> Task:
    clips = _list_clips(copy.folder, _DEV, "dev.csv") + _list_clips(copy.folder, _EVAL, "eval.csv")
    audio = {part: find_unpacked(copy.folder / part) for part in (_DEV, _EVAL)}
    return make_task(
        LAYOUT,
        copy.folder,
        clips,
        {name for part, folder in audio.items() for name in list_audio(folder, f"{part}/")},
        split_rule="publisher's",
        is_multilabel=True,
        notes=["multi-label: mean average precision over the classes"],
    )


def _list_clips(root: Path, audio: str, table: str) -> list[Clip]:
    path = find_unpacked(root / _TRUTH) / table
    folder = find_unpacked(root / audio)
    if not path.is_file():
        raise half_unpacked(
            LAYOUT, root, f"{_TRUTH}/{table} is not there", value=f"{_TRUTH}/{table}"
        )
    clips = []
    columns = ("fname", "labels", "split") if audio == _DEV else ("fname", "labels")
    for row in read_table(path, columns):
        part = _PARTS.get(row["split"]) if audio == _DEV else "test"
        if part is None:
            raise TaskError(
                f"{path}: split of clip {row['fname']} must be one of {', '.join(_PARTS)}; "
                f"got {row['split']!r}",
                code="value",
                path=path,
                key="split",
                value=row["split"],
            )
        name = f"{row['fname']}.wav"
        clips.append(Clip(folder / name, f"{audio}/{name}", row["labels"], part))
    return clips


LAYOUT = Layout(
    name="fsd50k",
    title="FSD50K",
    unit_seconds=7.6,
    num_classes=200,
    counts={"train": 36_796, "valid": 4_170, "test": 10_231},
    holds=f"{_DEV}, {_EVAL} and {_TRUTH}",
    is_root=_is_root,
    read=_read,
    own_folders=("FSD50K.*",),
)
