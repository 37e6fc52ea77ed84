"""Write miniatures of the paper's six data sets, with their publishers' file names."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from evaluate.miniature.nsynth import plan_nsynth
from evaluate.miniature.plans import SetPlan, write_plan
from evaluate.miniature.speech_commands import plan_commands, plan_commands_test
from evaluate.miniature.urbansound import plan_urbansound8k
from evaluate.miniature.voxceleb import plan_voxceleb1
from evaluate.miniature.voxforge import plan_voxforge
from evaluate.publishers.base import MINIATURE_MARKER
from evaluate.tasks.task import PAPER_TASKS, TaskError

_PLANS: dict[str, Callable[[int, float], SetPlan]] = {
    "nsynth": plan_nsynth,
    "us8k": plan_urbansound8k,
    "vc1": plan_voxceleb1,
    "voxforge": plan_voxforge,
    "spcv2_12": plan_commands_test,
    "spcv2": plan_commands,
}


def write_miniatures(
    folder: Path,
    *,
    seed: int,
    size: float = 1.0,
    on_clip: Callable[[int], None] | None = None,
    tasks: Sequence[str] | None = None,
) -> dict[str, Path]:
    """Write miniatures of data sets: synthetic sounds in the publishers' layouts.

    The same seed and size write the same bytes. Every set is written under a temporary name and
    renamed when it is complete; repeating an interrupted call continues it.

    Args:
        folder: Parent of the data sets' folders; made if missing.
        seed: Seed of all sounds and names.
        size: Share of the clips of the full miniature, at most 1; every class and part is kept.
        on_clip: Called with the number of clips written so far.
        tasks: Names in PAPER_TASKS, all by default; `spcv2_12` includes the data set of `spcv2`.

    Returns:
        Data set folder of each task, in the order of PAPER_TASKS; for `spcv2_12` that of the
        separate test set.

    Raises:
        TaskError: If a task is unknown, `size` is out of range, another folder is in the way
            (nothing is written then), or a file cannot be written.
    """
    plans = _make_plans(seed, size, tasks)
    for plan in plans.values():
        _check_free(folder / plan.folder, plan.texts[MINIATURE_MARKER])
    count = 0
    for plan in plans.values():
        final = folder / plan.folder
        unfinished = final.with_name(f".{plan.folder}.unfinished")
        try:
            if _read_mark(unfinished) not in {"", plan.texts[MINIATURE_MARKER]}:
                shutil.rmtree(unfinished)  # of another seed or size, so not reusable
            for num_sounds in write_plan(plan, final if final.exists() else unfinished):
                for _ in range(num_sounds):
                    count += 1
                    if on_clip is not None:
                        on_clip(count)
            if not final.exists():
                unfinished.rename(final)
        except OSError as error:
            raise TaskError(
                f"{error.filename or final}: the miniature cannot be written: {error.strerror}. "
                "Repeat the call to continue",
                code="unwritable",
                path=error.filename or final,
            ) from error
    return {task: folder / plan.folder for task, plan in plans.items()}


def num_clips(*, size: float = 1.0, tasks: Sequence[str] | None = None) -> int:
    """Return the number of clips that `write_miniatures` writes, for any seed.

    Raises:
        TaskError: If a task is unknown or `size` out of range.
    """
    return sum(len(plan.sounds) for plan in _make_plans(0, size, tasks).values())


def _make_plans(seed: int, size: float, tasks: Sequence[str] | None) -> dict[str, SetPlan]:
    if not 0 < size <= 1:
        raise TaskError(
            f"size must be above 0 and at most 1; got {size}", code="value", key="size", value=size
        )
    wanted = set(PAPER_TASKS if tasks is None else tasks)
    unknown = sorted(wanted - set(PAPER_TASKS))
    if unknown:
        raise TaskError(
            f"tasks must be of {', '.join(PAPER_TASKS)}; got {unknown[0]!r}",
            code="unknown",
            key="tasks",
            value=unknown[0],
        )
    if "spcv2_12" in wanted:  # trained on the words and noises of spcv2
        wanted.add("spcv2")
    mark = {"is": "synthetic sounds in place of the publisher's", "seed": seed, "size": size}
    plans = {task: _PLANS[task](seed, size) for task in PAPER_TASKS if task in wanted}
    # Written first, because it identifies what an interrupted call left.
    marked = {MINIATURE_MARKER: json.dumps(mark) + "\n"}
    return {task: replace(plan, texts=marked | plan.texts) for task, plan in plans.items()}


def _read_mark(folder: Path) -> str:
    try:
        return (folder / MINIATURE_MARKER).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _check_free(folder: Path, mark: str) -> None:
    if folder.exists() and _read_mark(folder) != mark:
        found = _read_mark(folder).strip() or "a folder that is none"
        raise TaskError(
            f"{folder}: must be this miniature, {mark.strip()}, or not exist; got {found}. "
            "Nothing was written; name another folder",
            code="exists",
            path=folder,
            value=found,
        )
