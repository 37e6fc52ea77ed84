"""Training checkpoints: atomic, with digests, no pickled objects."""

import contextlib
import hashlib
import json
import os
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
from byola_rq.text.parse import check_shape, open_file, read_json

FORMAT_VERSION = 1
_FILES = {"model.safetensors", "optimizer.safetensors", "state.json"}
# The suffix marks a checkpoint that is being replaced by another of the same step.
_NAME = re.compile(r"\.?step-(\d{8,})(?:\.replaced)?")
_LEFT = re.compile(
    r"\.step-\d{8,}(?:\.replaced)?\.(?:partial|removed)"
)  # of saves that were killed
_OF_ADAM = {"step", "exp_avg", "exp_avg_sq"}
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
    """Checkpoint of a step: named tensors, and a JSON-serializable state with at least `step`."""

    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: dict[str, Any]


def save_checkpoint(
    run_dir: Path, checkpoint: Checkpoint, *, keep: int, keep_step: int | None = None
) -> Path:
    """Write `run_dir/step-XXXXXXXX/`, then remove all but the newest `keep` and `keep_step`.

    The files are written under a temporary name, flushed to disk, and renamed at once: an
    interruption never leaves an incomplete checkpoint under its final name. After a failure the
    new files are removed and older checkpoints are kept.

    Returns:
        The checkpoint's directory.

    Raises:
        CheckpointError: If it cannot be written.
    """
    step = checkpoint.state["step"]
    final = checkpoint_path(run_dir, step)
    temporary = run_dir / f".{final.name}.partial"
    try:
        _tidy(run_dir)
        _write(temporary, checkpoint)
        _give_name(temporary, final)
    except (OSError, SafetensorError) as error:
        # Free the space at once: the disk may be full.
        with contextlib.suppress(OSError):
            _tidy(run_dir)
        message = f"{final}: the checkpoint cannot be written ({error})"
        raise CheckpointError(message, code="unwritable", path=final) from error
    with contextlib.suppress(OSError):
        # Newer checkpoints are damaged ones that a resumed run has skipped: they do not count.
        saved = [(number, path) for number, path in _checkpoints(run_dir) if number <= step]
        for number, older in saved[keep:]:
            if number != keep_step:
                _discard(older)
    return final


def load_newest_checkpoint(run_dir: Path) -> tuple[Checkpoint | None, list[str]]:
    """Read the newest intact checkpoint of a run.

    Returns:
        The checkpoint (None if there is none yet), and a line for each damaged one skipped.

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
            f"{run_dir}: no checkpoint in it is intact ({damages[0]}); "
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
    """Check that a checkpoint's state was written by training.

    Raises:
        CheckpointError: If it has another form.
    """
    try:
        check_shape(checkpoint.state, _TRAINING_SHAPE)
    except ValueError as error:
        path = checkpoint_path(run_dir, checkpoint.state["step"])
        message = f"{path}: its state.json is not of a run ({error})"
        raise CheckpointError(message, code="malformed", path=path) from error


def checkpoint_path(run_dir: Path, step: int) -> Path:
    """Path of the checkpoint of a step, which may not exist."""
    return run_dir / f"step-{step:08d}"


def find_damage(path: Path) -> str | None:
    """Describe damage of a checkpoint's files; None if sizes and digests are right."""
    try:
        manifest = read_json(path / "manifest.json", {str: {"size": int, "sha256": str}})
        # Other names could lead out of the folder.
        if odd := sorted(_FILES ^ set(manifest)):
            names = ", ".join(sorted(_FILES))
            return f"its manifest must name {names}, and no other file; {odd[0]!r} is wrong"
        for name, expected in manifest.items():
            if _fingerprint(path / name) != expected:
                return f"{name} is not what was written (size or SHA-256 differs)"
        state = read_json(path / "state.json", _STATE_SHAPE)
    except (OSError, ValueError) as error:
        return f"cannot be verified ({error})"
    # Intact, but copied to the wrong directory.
    step, name = state["step"], _NAME.match(path.name)
    return f"holds step {step}" if name and int(name[1]) != step else None


def _tidy(run_dir: Path) -> None:
    """Clean up after a save that was killed or failed."""
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
    """Rename a complete checkpoint to its final name; a previous one stays readable until then."""
    replaced = final.with_name(f".{final.name}.replaced")
    is_replacing = final.exists()
    if is_replacing:
        final.rename(replaced)
    temporary.rename(final)
    flush(final.parent)
    if is_replacing:
        _discard(replaced)


def _discard(path: Path) -> None:
    """Remove a checkpoint; an interruption leaves no incomplete one under its name."""
    # A checkpoint that cannot be removed only takes space.
    with contextlib.suppress(OSError):
        removed = path.rename(path.with_name(f".{path.name.lstrip('.')}.removed"))
        remove_folder(removed)


def _write(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint's files into a new folder and flush them to disk."""
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
    """Iterate over (step, directory) of checkpoints, newest first; per step the last written."""
    found = []
    for pattern in ("step-*", ".step-*.replaced"):
        for path in run_dir.glob(pattern):
            match = _NAME.fullmatch(path.name)
            if match and path.is_dir():
                found.append((int(match[1]), path))
    # In reverse order a name with a dot comes after one without.
    yield from sorted(found, key=lambda each: (each[0], each[1].name), reverse=True)


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    # Copied to the host at once; safetensors stores only row-major tensors.
    return {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}


def _fingerprint(path: Path) -> dict[str, int | str]:
    with open_file(path) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"size": os.fstat(file.fileno()).st_size, "sha256": digest}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return an optimizer's state as named tensors: `<parameter index>.<name>`."""
    return {
        f"{index}.{name}": value
        for index, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Load the result of `optimizer_tensors` into a new Adam of the same parameters.

    Raises:
        ValueError, LookupError, RuntimeError: If the tensors are not those of such an optimizer.
    """
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    # Stored row-major; fused kernels need the parameter's memory layout.
    for parameter, values in optimizer.state.items():
        if not isinstance(parameter, Tensor) or set(values) != _OF_ADAM:
            raise ValueError(f"it has other optimizer states, {sorted(tensors)[:3]} among them")
        for name, value in values.items():
            if value.shape == parameter.shape:
                values[name] = torch.empty_like(parameter).copy_(value)
            elif value.numel() != 1:
                raise ValueError(f"{name} must have the shape of its parameter, or one number")
