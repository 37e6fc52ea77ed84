"""The training checkpoint: atomic, checksummed, no pickle."""

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from byola_rq.errors import CheckpointError
from byola_rq.runtime.files import flush, remove_folder, text_name
from byola_rq.text.parse import check_shape, read_json

FORMAT_VERSION = 1
_FILES = {"model.safetensors", "optimizer.safetensors", "state.json"}
# The second name is that of one that is being replaced by another of the same step.
_NAME = re.compile(r"\.?step-(\d{8,})(?:\.replaced)?")
_LEFT = re.compile(
    r"\.step-\d{8,}(?:\.replaced)?\.(?:partial|removed)"
)  # of saves that were killed
_STATE_SHAPE = {"format_version": int, "step": int}
_TRAINING_SHAPE = {
    "config": {str: dict},
    "statistics": {"mean": float, "std": float},
    "corpus_digest": str,
    "num_ranks": int,
    "precision": str,
    "versions": dict,
}


@dataclass(frozen=True)
class Checkpoint:
    """What a step leaves behind: named tensors, and a JSON-able state with at least `step`."""

    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: dict[str, Any]


def save_checkpoint(
    run_dir: Path, checkpoint: Checkpoint, *, keep: int, keep_step: int | None = None
) -> Path:
    """Write `run_dir/step-XXXXXXXX/`, then remove all but the newest `keep` and `keep_step`.

    The files are written under a temporary name, flushed to the disk, and appear by one rename:
    whatever interrupts it, no half checkpoint carries a final name. One that could not be written
    is removed again, and the older ones are left alone.

    Returns:
        The checkpoint's directory.

    Raises:
        CheckpointError: If the disk refuses.
    """
    step = checkpoint.state["step"]
    final = checkpoint_path(run_dir, step)
    temporary = run_dir / f".{final.name}.partial"
    try:
        _tidy(run_dir)
        _write(temporary, checkpoint)
        _give_name(temporary, final)
    except (OSError, SafetensorError) as error:
        # On a full disk, the room is somebody's.
        with contextlib.suppress(OSError):
            _tidy(run_dir)
        message = f"{final}: the checkpoint cannot be written ({error})"
        raise CheckpointError(message, code="unwritable", path=final) from error
    with contextlib.suppress(OSError):
        # Newer ones are damaged ones that a resumed run has passed over: they must not count.
        saved = [(number, path) for number, path in _checkpoints(run_dir) if number <= step]
        for number, older in saved[keep:]:
            if number != keep_step:
                _discard(older)
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
        message = (
            f"{run_dir}: no checkpoint in it is whole ({damages[0]}); "
            "restore one from a backup, or start over in another run.dir"
        )
        raise CheckpointError(message, code="damaged", path=run_dir)
    return None, []


def load_checkpoint(run_dir: Path, step: int) -> Checkpoint:
    """Read the checkpoint of one step.

    Raises:
        CheckpointError: If it is missing or damaged, or has a newer format.
    """
    path = checkpoint_path(run_dir, step)
    if not path.is_dir():
        raise CheckpointError(f"{path}: there is no such checkpoint", code="missing", path=path)
    if (damage := find_damage(path)) is not None:
        raise CheckpointError(f"{path}: {damage}", code="damaged", path=path)
    return _read(path)


def check_state(run_dir: Path, checkpoint: Checkpoint) -> None:
    """See that a checkpoint's state is one that training has written.

    Raises:
        CheckpointError: If it is another's.
    """
    try:
        check_shape(checkpoint.state, _TRAINING_SHAPE)
    except ValueError as error:
        path = checkpoint_path(run_dir, checkpoint.state["step"])
        message = f"{path}: its state.json is not of a run ({error})"
        raise CheckpointError(message, code="malformed", path=path) from error


def checkpoint_path(run_dir: Path, step: int) -> Path:
    """Where the checkpoint of a step is, if there is one."""
    return run_dir / f"step-{step:08d}"


def find_damage(path: Path) -> str | None:
    """Say what is wrong with a checkpoint's files; None where sizes and digests are right."""
    try:
        manifest = read_json(path / "manifest.json", {str: {"size": int, "sha256": str}})
        # Others would be read wherever they lead to.
        if odd := sorted(_FILES ^ set(manifest)):
            names = ", ".join(sorted(_FILES))
            return f"its manifest must name {names}, and no other file; {odd[0]!r} is wrong"
        for name, expected in manifest.items():
            if _fingerprint(path / name) != expected:
                return f"{name} is not what was written (size or SHA-256 differs)"
        state = read_json(path / "state.json", _STATE_SHAPE)
    except (OSError, ValueError) as error:
        return f"cannot be verified ({error})"
    # Whole in itself, but another's: a copy in the wrong place.
    step, name = state["step"], _NAME.match(path.name)
    return f"holds step {step}" if name and int(name[1]) != step else None


def _tidy(run_dir: Path) -> None:
    """Put right what a save that was killed or failed has left."""
    for path in run_dir.glob(".step-*"):
        if _LEFT.fullmatch(path.name):
            remove_folder(path)
    for path in run_dir.glob(".step-*.replaced"):
        if not _NAME.fullmatch(path.name):
            continue
        final = path.with_name(path.name[1:].removesuffix(".replaced"))
        if final.exists():
            _discard(path)
        else:
            path.rename(final)


def _give_name(temporary: Path, final: Path) -> None:
    """Give a whole checkpoint its name; one that has it stays readable under another until then."""
    replaced = final.with_name(f".{final.name}.replaced")
    is_replacing = final.exists()
    if is_replacing:
        final.rename(replaced)
    temporary.rename(final)
    flush(final.parent)
    if is_replacing:
        _discard(replaced)


def _discard(path: Path) -> None:
    """Remove a checkpoint; a kill in the middle leaves no half one under its name."""
    # One that cannot be removed costs room, but no result.
    with contextlib.suppress(OSError):
        removed = path.rename(path.with_name(f".{path.name.lstrip('.')}.removed"))
        remove_folder(removed)


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
        flush(path)


def _read(path: Path) -> Checkpoint:
    state = read_json(path / "state.json", _STATE_SHAPE)
    if state["format_version"] > FORMAT_VERSION:
        message = (
            f"{path}: format version must be at most {FORMAT_VERSION}; "
            f"got {state['format_version']}. Update byola_rq."
        )
        raise CheckpointError(message, code="newer", path=path, value=state["format_version"])
    try:
        with (
            text_name(path / "model.safetensors") as model,
            text_name(path / "optimizer.safetensors") as optimizer,
        ):
            return Checkpoint(model=load_file(model), optimizer=load_file(optimizer), state=state)
    except (OSError, SafetensorError) as error:
        message = f"{path}: cannot be read ({error})"
        raise CheckpointError(message, code="unreadable", path=path) from error


def _checkpoints(run_dir: Path) -> Iterator[tuple[int, Path]]:
    """Step and directory of each checkpoint, newest first; of one step, the last written first."""
    found = []
    for pattern in ("step-*", ".step-*.replaced"):
        for path in run_dir.glob(pattern):
            match = _NAME.fullmatch(path.name)
            if match and path.is_dir():
                found.append((int(match[1]), path))
    # A name with a dot comes before one without.
    yield from sorted(found, key=lambda each: (each[0], each[1].name), reverse=True)


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    # Copied to the host at once; safetensors stores plain row-major tensors only.
    return {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}


def _fingerprint(path: Path) -> dict[str, int | str]:
    if path.exists() and not path.is_file():
        raise OSError(f"{path.name} must be a regular file")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"size": path.stat().st_size, "sha256": digest}


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
