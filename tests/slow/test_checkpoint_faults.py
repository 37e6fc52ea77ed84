"""A checkpoint writer that is disturbed at every one of its calls, and damages of what it wrote."""

import errno
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from byola_rq.config import Config
from byola_rq.errors import CheckpointError
from byola_rq.runs.checkpoint import (
    Checkpoint,
    find_damage,
    load_newest_checkpoint,
    save_checkpoint,
)

pytest.importorskip("resource")
from benchmarks import survival_damages
from tests import fault_injection
from tests.fault_injection import Call

NUM_DAMAGES = 1000


@dataclass(frozen=True)
class Scene:
    """A run directory before a save, and the save."""

    saved: tuple[int, ...]
    keep: int
    step: int
    has_partial: bool = False
    damaged: tuple[int, ...] = ()  # newer ones, which a resumed run has passed over


SCENES = {
    "one more": Scene(saved=(2, 4), keep=2, step=6),
    "the only one kept": Scene(saved=(4,), keep=1, step=6),
    "the same step again": Scene(saved=(4,), keep=1, step=4),
    "the same step again, beside others": Scene(saved=(2, 4), keep=3, step=4),
    "behind damaged ones": Scene(saved=(4,), keep=1, step=6, damaged=(7, 9)),
    "what a kill has left": Scene(saved=(4,), keep=2, step=6, has_partial=True),
}


def checkpoint(step: int, value: int) -> Checkpoint:
    model = {"weight": torch.full((64, 40), float(value)), "count": torch.tensor(value)}
    optimizer = {"0.exp_avg": torch.full((64, 40), -float(value)), "0.step": torch.tensor(1.0)}
    return Checkpoint(model, optimizer, {"step": step, "value": value})


class Stage:
    """Makes a scene's directory again and again, and looks at what a disturbed save left."""

    def __init__(self, scene: Scene, folder: Path) -> None:
        self.scene = scene
        self.run_dir = folder / "run"
        self._before = folder / "before"
        for step in scene.saved:
            save_checkpoint(self._before, checkpoint(step, value=step), keep=9)
        if scene.has_partial:
            partial = self._before / f".step-{scene.step:08d}.partial"
            shutil.copytree(self._before / f"step-{scene.saved[-1]:08d}", partial)
            (partial / "state.json").unlink()

        for step in scene.damaged:
            save_checkpoint(self._before, checkpoint(step, value=step), keep=9)
            (self._before / f"step-{step:08d}" / "state.json").write_text("{}")

    def set(self) -> None:
        shutil.rmtree(self.run_dir, ignore_errors=True)
        shutil.copytree(self._before, self.run_dir)

    def save(self) -> None:
        scene = self.scene
        save_checkpoint(self.run_dir, checkpoint(scene.step, value=100), keep=scene.keep)

    def record(self) -> list[Call]:
        self.set()
        calls = fault_injection.record(self.save)
        self.set()
        assert [(each.name, each.is_writing) for each in fault_injection.record(self.save)] == [
            (each.name, each.is_writing) for each in calls
        ]
        return calls

    def size_after(self, call: Call) -> int:
        """Bytes that a whole save writes after a call, into the file that it opens."""
        path = self.run_dir / f"step-{self.scene.step:08d}" / call.subject
        return path.stat().st_size if path.is_file() and call.is_writing else 0

    def look(self, *, is_new: bool = False) -> None:
        """Nothing is lost, nothing half there, and the next save works."""
        scene, run_dir = self.scene, self.run_dir
        broken = [run_dir / f"step-{step:08d}" for step in scene.damaged]
        for path in run_dir.glob("step-*"):
            assert path in broken or find_damage(path) is None
        newest, damages = load_newest_checkpoint(run_dir)
        assert newest is not None
        assert len(damages) == len(scene.damaged)
        step, value = newest.state["step"], newest.state["value"]
        allowed = [(scene.step, 100)]
        if not is_new:
            allowed.append((scene.saved[-1], scene.saved[-1]))
        assert (step, value) in allowed
        expected = checkpoint(step, value)
        assert torch.equal(newest.model["weight"], expected.model["weight"])
        assert torch.equal(newest.optimizer["0.exp_avg"], expected.optimizer["0.exp_avg"])
        save_checkpoint(run_dir, checkpoint(8, value=8), keep=scene.keep)
        names = sorted(path.name for path in set(run_dir.iterdir()) - set(broken))
        assert names[-1] == "step-00000008"
        assert len(names) <= scene.keep
        assert all(name.startswith("step-") for name in names)
        newest, _ = load_newest_checkpoint(run_dir)
        assert newest is not None
        assert newest.state["value"] == 8


@pytest.fixture(params=SCENES)
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Stage:
    return Stage(SCENES[request.param], tmp_path)


def try_save(stage: Stage) -> bool:
    """Return True if saving worked; an error other than `CheckpointError` fails the test."""
    try:
        stage.save()
    except CheckpointError as error:
        refusal = error
    else:
        return True
    assert refusal.code == "unwritable"
    assert refusal.path == stage.run_dir / f"step-{stage.scene.step:08d}"
    return False


def test_a_save_is_made_of_what_is_disturbed_here(stage: Stage) -> None:
    calls = stage.record()
    written = {each.subject for each in calls if each.is_writing and stage.size_after(each)}
    # Also what is added later: no file comes from a call that is not seen.
    saved = stage.run_dir / f"step-{stage.scene.step:08d}"
    assert {path.name for path in saved.iterdir()} == written
    names = [each.name for each in calls]
    assert names.count("fsync") >= len(written) + 2  # the files, their folder, and its own
    assert {"mkdir", "rename", "fsync"} <= set(names)


def test_a_name_is_given_to_what_is_on_the_disk(tmp_path: Path) -> None:
    stage = Stage(SCENES["one more"], tmp_path)
    calls = stage.record()
    names = [each.name for each in calls]
    named = next(n for n, each in enumerate(calls) if each.name in ("rename", "replace"))
    # Files and folder are on the disk before the name, and that is before the oldest one goes.
    last_write = max(n for n, each in enumerate(calls[:named]) if stage.size_after(each))
    num_files = len(list((stage.run_dir / "step-00000006").iterdir()))
    assert names[last_write:named].count("fsync") == num_files + 1
    gone = next(n for n, name in enumerate(names) if n > named and name in ("unlink", "rmdir"))
    assert "fsync" in names[named:gone]


@pytest.mark.parametrize("lasts", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO], ids=["ENOSPC", "EIO"])
def test_a_failure_at_any_call_loses_nothing(stage: Stage, number: int, lasts: bool) -> None:
    for call in stage.record():
        stage.set()
        with fault_injection.failing(call, number, lasts=lasts):
            is_saved = try_save(stage)
        stage.look(is_new=is_saved)


def test_a_kill_at_any_call_loses_nothing(stage: Stage) -> None:
    for call in stage.record():
        stage.set()
        fault_injection.killed_at(call, stage.save)
        stage.look()


def at_bytes(stage: Stage, act: Callable[[Call, int], None]) -> int:
    """Do something for places within every file that is written; returns their number."""
    writes = [(call, stage.size_after(call)) for call in stage.record()]
    places = 0
    for call, size in writes:
        for num_bytes in sorted({0, 1, size // 4, size // 2, 3 * size // 4, size - 1}):
            if 0 <= num_bytes < size:
                stage.set()
                act(call, num_bytes)
                places += 1
    return places


def test_a_disk_that_is_full_at_any_byte_loses_nothing(stage: Stage) -> None:
    def act(call: Call, num_bytes: int) -> None:
        with fault_injection.limited_after(call, num_bytes):
            assert not try_save(stage)
        stage.look()

    assert at_bytes(stage, act) >= 4 * 6


def test_a_kill_at_any_byte_loses_nothing(stage: Stage) -> None:
    def act(call: Call, num_bytes: int) -> None:
        fault_injection.killed_within(call, num_bytes, stage.save)
        stage.look()

    assert at_bytes(stage, act) >= 4 * 6


def test_every_damage_is_noticed(trained_config: Config) -> None:
    counts, missed = survival_damages.damage_often(trained_config.run.dir, NUM_DAMAGES, seed=0)
    assert counts.total() == NUM_DAMAGES
    assert min(counts.values()) > NUM_DAMAGES / 20  # of every kind
    assert counts.keys() == survival_damages.DAMAGES.keys()
    assert missed == []
    # And each was undone: the last thing that the damages could break is this test itself.
    assert all(find_damage(path) is None for path in trained_config.run.dir.glob("step-*"))
