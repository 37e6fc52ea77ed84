"""The best checkpoint: followed, kept from being pruned, found again, and refused when damaged."""

import json
import math
from pathlib import Path

import pytest
import torch

from byola_rq.errors import CheckpointError, Code
from byola_rq.runs.best import Best, BestCheckpoint, load_best_checkpoint, read_best
from byola_rq.runs.checkpoint import Checkpoint, save_checkpoint
from tests.refusal import refused

resource = pytest.importorskip("resource")


def checkpoint(step: int) -> Checkpoint:
    tensor = torch.full((10,), float(step))
    return Checkpoint({"weight": tensor}, {"0.step": tensor}, {"step": step})


def steps(run_dir: Path) -> list[int]:
    return sorted(int(path.name[5:]) for path in run_dir.glob("step-*"))


def run(run_dir: Path, scores: dict[int, float], keep: int = 2, measured_by: str = "a") -> None:
    """Save a checkpoint at every step, and note those that score best."""
    best = BestCheckpoint(run_dir, measured_by)
    for step, score in scores.items():
        is_best = best.is_beaten_by(score)
        before = steps(run_dir)
        save_checkpoint(run_dir, checkpoint(step), keep=keep, keep_step=best.step)
        assert best.step not in set(before) - set(steps(run_dir))
        if is_best:
            best.note(step, score)


def test_the_best_outlives_the_newest(tmp_path: Path) -> None:
    run(tmp_path, {1: 10.0, 2: 50.0, 3: 40.0, 4: 50.0, 5: math.nan})
    assert read_best(tmp_path) == Best(2, 50.0, "a")
    assert steps(tmp_path) == [2, 4, 5]
    loaded = load_best_checkpoint(tmp_path)
    assert loaded.state["step"] == 2
    assert torch.equal(loaded.model["weight"], torch.full((10,), 2.0))


def test_one_that_is_best_no_more_is_pruned(tmp_path: Path) -> None:
    run(tmp_path, {1: 30.0, 2: 20.0, 3: 25.0, 4: 60.0, 5: 50.0}, keep=1)
    assert steps(tmp_path) == [4, 5]
    assert list(json.loads((tmp_path / "best.json").read_text())) == [
        "step",
        "score",
        "measured_by",
    ]


def test_a_resumed_run_knows_its_best(tmp_path: Path) -> None:
    run(tmp_path, {1: 30.0, 2: 60.0, 3: 50.0}, keep=1)
    run(tmp_path, {4: 55.0, 5: 59.9}, keep=1)
    assert read_best(tmp_path) == Best(2, 60.0, "a")
    assert steps(tmp_path) == [2, 5]
    run(tmp_path, {6: 60.1}, keep=1)
    assert read_best(tmp_path) == Best(6, 60.1, "a")


def test_scores_of_another_measure_are_not_compared(tmp_path: Path) -> None:
    run(tmp_path, {1: 90.0, 2: 80.0}, keep=1)
    run(tmp_path, {3: 20.0}, keep=1, measured_by="b")
    assert read_best(tmp_path) == Best(3, 20.0, "b")


@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_a_best_that_is_lost_is_refused_and_replaced(tmp_path: Path, damage: str) -> None:
    run(tmp_path, {1: 90.0, 2: 80.0, 3: 70.0}, keep=1)
    path = tmp_path / "step-00000001"
    if damage == "missing":
        path.rename(tmp_path / "away")
    else:
        with (path / "model.safetensors").open("r+b") as file:
            file.seek(-1, 2)
            file.write(b"\x01")
    code: Code = "missing" if damage == "missing" else "damaged"
    with refused(CheckpointError, code, path) as caught:
        load_best_checkpoint(tmp_path)
    assert str(tmp_path / "best.json") in str(caught.value)
    run(tmp_path, {4: 10.0}, keep=1)
    assert read_best(tmp_path) == Best(4, 10.0, "a")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "malformed"),
        ("{", "malformed"),
        ("[]", "malformed"),
        ("3", "malformed"),
        ('{"step": 2}', "malformed"),
        ('{"step": "x", "score": 1, "measured_by": ""}', "malformed"),
        ('{"step": 0, "score": 1, "measured_by": ""}', "value"),
        ('{"step": 1, "score": NaN, "measured_by": ""}', "value"),
        ('{"step": Infinity, "score": 1, "measured_by": ""}', "malformed"),
        ('{"step": null, "score": 1, "measured_by": ""}', "malformed"),
        (b"\xff\xfe", "malformed"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, text: str | bytes, code: Code) -> None:
    path = tmp_path / "best.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    for function in (read_best, load_best_checkpoint, lambda folder: BestCheckpoint(folder, "a")):
        with refused(CheckpointError, code, path):
            function(tmp_path)


def test_a_run_without_a_best(tmp_path: Path) -> None:
    assert read_best(tmp_path) is None
    assert BestCheckpoint(tmp_path, "a").step is None
    with refused(CheckpointError, "missing", tmp_path):
        load_best_checkpoint(tmp_path)


def test_a_full_disk_leaves_the_best_before(tmp_path: Path) -> None:
    run(tmp_path, {1: 30.0})
    best = BestCheckpoint(tmp_path, "a")
    save_checkpoint(tmp_path, checkpoint(2), keep=1, keep_step=best.step)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5, before[1]))
    try:
        with refused(CheckpointError, "unwritable", tmp_path / "best.json"):
            best.note(2, 40.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (best.step, read_best(tmp_path)) == (1, Best(1, 30.0, "a"))
    assert best.is_beaten_by(40.0)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "best.json",
        "step-00000001",
        "step-00000002",
    ]
