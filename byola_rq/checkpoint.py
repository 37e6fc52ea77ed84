"""The training checkpoint: atomic, checksummed, no pickle."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from byola_rq.errors import CheckpointError

FORMAT_VERSION = 1
_NAME = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True)
class Checkpoint:
    """What a step leaves behind: named tensors, and a JSON-able state with at least `step`."""

    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: dict[str, Any]


def save_checkpoint(run_dir: Path, checkpoint: Checkpoint, *, keep: int) -> Path:
    """Write `run_dir/step-XXXXXXXX/`, then remove all but the newest `keep`.

    The files are written under a temporary name, flushed to the disk, and appear by one rename:
    whatever interrupts it, no half checkpoint carries a final name. One that could not be written
    is removed again, and the older ones are left alone.

    Returns:
        The checkpoint's directory.

    Raises:
        CheckpointError: If the disk refuses.
    """
    final = run_dir / f"step-{checkpoint.state['step']:08d}"
    temporary = run_dir / f".{final.name}.partial"
    # Also what a run that was killed while saving has left.
    for partial in run_dir.glob(".step-*.partial"):
        shutil.rmtree(partial, ignore_errors=True)
    try:
        _write(temporary, checkpoint)
        if final.exists():
            shutil.rmtree(final)
        temporary.rename(final)
        _flush(run_dir)
    except (OSError, SafetensorError) as error:
        # On a full disk, the room is somebody's.
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(f"{final}: the checkpoint cannot be written ({error})") from error
    for _, older in list(_checkpoints(run_dir))[keep:]:
        # One that cannot be removed costs room, but no result.
        shutil.rmtree(older, ignore_errors=True)
    return final


def load_newest_checkpoint(run_dir: Path) -> tuple[Checkpoint | None, list[str]]:
    """Read the newest checkpoint of a run that verifies.

    Returns:
        The checkpoint, None where there is none yet, and a line for every damaged one passed over.

    Raises:
        CheckpointError: If there are checkpoints and all are damaged, or one has a newer format.
    """
    damages: list[str] = []
    for _, path in _checkpoints(run_dir):
        damage = find_damage(path)
        if damage is None:
            return _read(path), damages
        damages.append(f"{path}: {damage}")
    if damages:
        raise CheckpointError(
            f"{run_dir}: no checkpoint in it is whole ({damages[0]}); "
            "restore one from a backup, or start over in another run.dir"
        )
    return None, []


def find_damage(path: Path) -> str | None:
    """Say what is wrong with a checkpoint's files; None where sizes and digests are right."""
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        for name, expected in manifest.items():
            if _fingerprint(path / name) != expected:
                return f"{name} is not what was written (size or SHA-256 differs)"
    except (OSError, ValueError, AttributeError) as error:
        return f"cannot be verified ({error})"
    missing = {"model.safetensors", "optimizer.safetensors", "state.json"} - set(manifest)
    return f"its manifest lacks {', '.join(sorted(missing))}" if missing else None


def _write(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint's files into a new folder, and all of it to the disk."""
    folder.mkdir(parents=True)
    for name in ("model", "optimizer"):
        save_file(_contiguous(getattr(checkpoint, name)), folder / f"{name}.safetensors")
    state = {"format_version": FORMAT_VERSION, **checkpoint.state}
    (folder / "state.json").write_text(json.dumps(state, indent=1))
    manifest = {path.name: _fingerprint(path) for path in sorted(folder.iterdir())}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1))
    for path in (*folder.iterdir(), folder):
        _flush(path)


def _read(path: Path) -> Checkpoint:
    state = json.loads((path / "state.json").read_text())
    if state["format_version"] > FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: format version must be at most {FORMAT_VERSION}; "
            f"got {state['format_version']}. Update byola_rq."
        )
    try:
        return Checkpoint(
            model=load_file(path / "model.safetensors"),
            optimizer=load_file(path / "optimizer.safetensors"),
            state=state,
        )
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from error


def _checkpoints(run_dir: Path) -> Iterator[tuple[int, Path]]:
    """Step and directory of each checkpoint, newest first."""
    found = []
    for path in run_dir.glob("step-*"):
        match = _NAME.fullmatch(path.name)
        if match and path.is_dir():
            found.append((int(match[1]), path))
    yield from sorted(found, reverse=True)


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    # Copied to the host at once; safetensors stores plain row-major tensors only.
    return {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}


def _fingerprint(path: Path) -> dict[str, int | str]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"size": path.stat().st_size, "sha256": digest}


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimizer's state as named tensors: `<parameter index>.<name>`."""
    return {
        f"{index}.{name}": value
        for index, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put what `optimizer_tensors` gave back into a fresh optimizer of the same parameters."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    # Stored row-major; fused kernels walk parameter and state together, in the parameter's layout.
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if value.shape == parameter.shape:
                values[name] = torch.empty_like(parameter).copy_(value)
