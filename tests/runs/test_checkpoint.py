"""The checkpoint: what is written is read, what is damaged is not, and no more is kept than asked.

What kills and full disks leave behind, call by call, is in `tests/slow/test_checkpoint_faults.py`.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from byola_rq.errors import CheckpointError
from byola_rq.runs.checkpoint import (
    Checkpoint,
    checkpoint_path,
    find_damage,
    load_checkpoint,
    load_newest_checkpoint,
    load_optimizer_tensors,
    optimizer_tensors,
    save_checkpoint,
)
from tests.refusal import refused

resource = pytest.importorskip("resource")


def checkpoint(step: int, value: float = 1.0) -> Checkpoint:
    tensor = torch.full((3000,), value)
    return Checkpoint({"weight": tensor}, {"0.step": tensor}, {"step": step})


def save(run_dir: Path, *steps: int, keep: int = 9) -> None:
    for step in steps:
        save_checkpoint(run_dir, checkpoint(step), keep=keep)


def names(run_dir: Path) -> list[str]:
    return sorted(path.name for path in run_dir.iterdir())


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    model = {
        "rows": torch.randn(5, 3),
        "columns": torch.randn(5, 3).T,  # not row-major
        "frames": torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        "count": torch.tensor(7),
        "narrow": torch.randn(4).bfloat16().requires_grad_(),
    }
    optimizer = {"0.exp_avg": torch.randn(3, 5).T}
    state = {"step": 12, "config": {"run": {"seed": 3}}, "none": None}
    path = save_checkpoint(tmp_path, Checkpoint(model, optimizer, state), keep=1)
    assert path == checkpoint_path(tmp_path, 12) == tmp_path / "step-00000012"
    newest, damages = load_newest_checkpoint(tmp_path)
    assert newest is not None
    assert damages == []
    for loaded in (newest, load_checkpoint(tmp_path, 12)):
        assert state.items() <= loaded.state.items()
        for saved, read in ((model, loaded.model), (optimizer, loaded.optimizer)):
            assert read.keys() == saved.keys()
            for name, tensor in saved.items():
                assert read[name].dtype == tensor.dtype
                assert torch.equal(read[name], tensor)


def test_there_may_be_none(tmp_path: Path) -> None:
    assert load_newest_checkpoint(tmp_path) == (None, [])
    with refused(CheckpointError, "missing", tmp_path / "step-00000003"):
        load_checkpoint(tmp_path, 3)


def test_an_optimizer_goes_on_as_if_it_had_not_stopped() -> None:
    def step(weight: torch.Tensor, optimizer: torch.optim.Optimizer, number: int) -> None:
        weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(number))
        optimizer.step()

    channels_last = torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    weights = [torch.nn.Parameter(channels_last.clone()) for _ in range(2)]
    first, second = (torch.optim.Adam([weight], lr=0.1) for weight in weights)
    step(weights[0], first, 1)
    weights[1].data.copy_(weights[0])
    saved = optimizer_tensors(first)
    assert saved.keys() == {"0.step", "0.exp_avg", "0.exp_avg_sq"}
    row_major = {name: torch.empty(each.shape).copy_(each) for name, each in saved.items()}
    load_optimizer_tensors(second, row_major)
    for weight, optimizer in zip(weights, (first, second), strict=True):
        # In the parameter's layout: fused kernels walk both together.
        assert optimizer.state[weight]["exp_avg"].stride() == weight.stride()
        step(weight, optimizer, 2)
    assert torch.equal(*weights)
    for name in ("x.step", "0.step", "0.other", "5.exp_avg"):
        other = torch.optim.Adam([torch.nn.Parameter(torch.ones(2))])
        with pytest.raises((ValueError, LookupError)):
            load_optimizer_tensors(other, {name: torch.ones(2)})


def test_the_newest_are_kept_and_one_more(tmp_path: Path) -> None:
    save(tmp_path, 8, 9, 10, keep=2)
    assert names(tmp_path) == ["step-00000009", "step-00000010"]
    save_checkpoint(tmp_path, checkpoint(11), keep=1, keep_step=9)
    assert names(tmp_path) == ["step-00000009", "step-00000011"]
    newest, _ = load_newest_checkpoint(tmp_path)
    assert newest is not None
    assert newest.state["step"] == 11


def test_newer_ones_that_were_passed_over_do_not_count(tmp_path: Path) -> None:
    save(tmp_path, 4, 7, 9)
    for step in (7, 9):
        (checkpoint_path(tmp_path, step) / "state.json").unlink()
    newest, damages = load_newest_checkpoint(tmp_path)
    assert newest is not None
    assert newest.state["step"] == 4
    assert [line.partition(":")[0] for line in damages] == [
        str(checkpoint_path(tmp_path, step)) for step in (9, 7)
    ]
    save(tmp_path, 6, keep=1)
    assert names(tmp_path) == ["step-00000006", "step-00000007", "step-00000009"]


def test_a_step_that_is_saved_again_is_replaced(tmp_path: Path) -> None:
    save(tmp_path, 4)
    save_checkpoint(tmp_path, checkpoint(4, value=2.0), keep=9)
    assert names(tmp_path) == ["step-00000004"]
    assert load_checkpoint(tmp_path, 4).model["weight"][0] == 2


def test_one_that_was_being_replaced_comes_back(tmp_path: Path) -> None:
    """A kill between the two renames leaves it under its other name alone."""
    save(tmp_path, 2, 4)
    checkpoint_path(tmp_path, 4).rename(tmp_path / ".step-00000004.replaced")
    newest, _ = load_newest_checkpoint(tmp_path)
    assert newest is not None
    assert newest.state["step"] == 4
    save(tmp_path, 6)
    assert names(tmp_path) == [f"step-0000000{step}" for step in (2, 4, 6)]
    # Beside its successor it is what is to be removed, and not what is read.
    save_checkpoint(tmp_path, checkpoint(7, value=2.0), keep=9)
    shutil.copytree(checkpoint_path(tmp_path, 4), tmp_path / ".step-00000007.replaced")
    newest, damages = load_newest_checkpoint(tmp_path)
    assert newest is not None
    assert newest.model["weight"][0] == 2
    assert damages == []
    save(tmp_path, 8)
    assert names(tmp_path) == [f"step-0000000{step}" for step in (2, 4, 6, 7, 8)]


def test_a_failed_save_leaves_the_checkpoints_alone(tmp_path: Path) -> None:
    save(tmp_path, 1, keep=1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
    try:
        with refused(CheckpointError, "unwritable", tmp_path / "step-00000002"):
            save(tmp_path, 2, keep=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names(tmp_path) == ["step-00000001"]
    assert load_checkpoint(tmp_path, 1).state["step"] == 1
    save(tmp_path, 3, keep=1)
    assert names(tmp_path) == ["step-00000003"]


def test_what_a_killed_save_left_is_removed(tmp_path: Path) -> None:
    save(tmp_path, 1)
    for kind in ("partial", "removed"):
        shutil.copytree(tmp_path / "step-00000001", tmp_path / f".step-00000002.{kind}")
    save(tmp_path, 3)
    assert names(tmp_path) == ["step-00000001", "step-00000003"]


FILES = ("model.safetensors", "optimizer.safetensors", "state.json", "manifest.json")


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "flip":
        content[len(content) // 2] ^= 1
    path.write_bytes(content[:-1] if how == "truncate" else content)
    if how == "remove":
        path.unlink()


@pytest.mark.parametrize("how", ["flip", "truncate", "remove"])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_one_is_passed_over(tmp_path: Path, name: str, how: str) -> None:
    save(tmp_path, 2, 4)
    newest = checkpoint_path(tmp_path, 4)
    damage(newest / name, how)
    loaded, (line,) = load_newest_checkpoint(tmp_path)
    assert loaded is not None
    assert loaded.state["step"] == 2
    assert line.startswith(f"{newest}: ")
    assert name in line or name == "manifest.json"
    assert "\n" not in line
    with refused(CheckpointError, "damaged", newest):
        load_checkpoint(tmp_path, 4)
    damage(checkpoint_path(tmp_path, 2) / "state.json", "truncate")
    with refused(CheckpointError, "damaged", tmp_path):
        load_newest_checkpoint(tmp_path)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    save(tmp_path, 2, 4)
    path = checkpoint_path(tmp_path, 4)
    state = {**json.loads((path / "state.json").read_text()), "format_version": 99}
    content = json.dumps(state).encode()
    (path / "state.json").write_bytes(content)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["state.json"] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (path / "manifest.json").write_text(json.dumps(manifest))
    with refused(CheckpointError, "newer", path, value=99):
        load_newest_checkpoint(tmp_path)


@pytest.mark.parametrize("name", FILES[:3])
def test_a_manifest_without_a_file_is_a_damage(tmp_path: Path, name: str) -> None:
    save(tmp_path, 4)
    path = checkpoint_path(tmp_path, 4)
    manifest = json.loads((path / "manifest.json").read_text())
    assert find_damage(path) is None
    del manifest[name]
    (path / "manifest.json").write_text(json.dumps(manifest))
    assert name in (find_damage(path) or "")


@pytest.mark.parametrize("step", [3, 5])
def test_a_copy_of_another_step_is_a_damage(tmp_path: Path, step: int) -> None:
    save(tmp_path, 4)
    shutil.copytree(checkpoint_path(tmp_path, 4), checkpoint_path(tmp_path, step))
    assert "step 4" in (find_damage(checkpoint_path(tmp_path, step)) or "")
    with refused(CheckpointError, "damaged", checkpoint_path(tmp_path, step)):
        load_checkpoint(tmp_path, step)


@pytest.mark.parametrize("name", ["../around", "/dev/zero", "fifo"])
def test_foreign_files_are_ignored(tmp_path: Path, name: str) -> None:
    """A pipe or a device would keep whoever computes its digest for ever."""
    path = save_checkpoint(tmp_path, checkpoint(1), keep=1)
    os.mkfifo(path / "fifo")
    manifest = json.loads((path / "manifest.json").read_text())
    manifest[name] = {"size": 0, "sha256": "0"}
    (path / "manifest.json").write_text(json.dumps(manifest))
    assert name in (find_damage(path) or "")


def test_a_pipe_in_a_files_place_is_a_damage(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, checkpoint(1), keep=1)
    (path / "state.json").unlink()
    os.mkfifo(path / "state.json")
    assert "state.json" in (find_damage(path) or "")


@pytest.mark.parametrize(
    "text",
    ["[]", "1", "{}", '{"step": 1}', '{"format_version": 1, "step": "1"}', "[" * 10**5, "\udce9"],
)
@pytest.mark.parametrize("name", ["state.json", "manifest.json"])
def test_states_of_another_shape_are_damages(tmp_path: Path, name: str, text: str) -> None:
    save(tmp_path, 1)
    folder = checkpoint_path(tmp_path, 1)
    (folder / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    if name == "state.json":  # whole, as far as the manifest goes
        manifest = json.loads((folder / "manifest.json").read_text())
        content = (folder / name).read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        manifest[name] = {"size": len(content), "sha256": digest}
        (folder / "manifest.json").write_text(json.dumps(manifest))
    damage = find_damage(folder)
    assert damage is not None
    assert len(damage) < 700
    with refused(CheckpointError, "damaged", tmp_path):
        load_newest_checkpoint(tmp_path)


def test_nothing_is_removed_behind_a_link(tmp_path: Path) -> None:
    (others := tmp_path / "others").mkdir()
    (others / "file").touch()
    (run_dir := tmp_path / "run").mkdir()
    for name in (".step-00000003.partial", ".step-00000001.removed", ".step-00000009.replaced"):
        (run_dir / name).symlink_to(others)
    (run_dir / "step-00000009").symlink_to(others)
    (run_dir / "step-00000001").symlink_to(others)
    (run_dir / ".step-notes.partial").mkdir()
    save(run_dir, 3, 10, keep=1)
    assert (others / "file").exists()
    assert names(run_dir) == [".step-notes.partial", "step-00000010"]
