"""Export of the encoder in a run's checkpoint as a model file."""

from pathlib import Path

from byola_rq.embed.embedder import Embedder
from byola_rq.errors import CheckpointError, first_line
from byola_rq.model.model_file import give_weights, rebuild
from byola_rq.runs.best import load_best_checkpoint
from byola_rq.runs.checkpoint import (
    Checkpoint,
    check_state,
    checkpoint_path,
    load_newest_checkpoint,
)


def export_run(run_dir: Path, path: Path, *, best: bool = False) -> Path:
    """Write the online encoder of a run's newest checkpoint as a model file.

    Args:
        run_dir: Directory of a run.
        path: File to write.
        best: Use the checkpoint with the best validation score instead of the newest.

    Raises:
        CheckpointError: If there is no intact checkpoint, or the file cannot be written.
    """
    if best:
        checkpoint: Checkpoint | None = load_best_checkpoint(run_dir)
    else:
        checkpoint, _ = load_newest_checkpoint(run_dir)
    if checkpoint is None:
        message = f"{run_dir}: no checkpoint in it (is it the run.dir of a run?)"
        raise CheckpointError(message, code="missing", path=run_dir)
    check_state(run_dir, checkpoint)
    place = checkpoint_path(run_dir, checkpoint.state["step"])
    try:
        embedder = _read_encoder(place, checkpoint)
    except (KeyError, TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        message = f"{place}: holds no encoder that can be rebuilt ({first_line(error)})"
        raise CheckpointError(message, code="malformed", path=place) from error
    embedder.save(path)
    return path


def _read_encoder(place: Path, checkpoint: Checkpoint) -> Embedder:
    """Rebuild the online encoder of a checkpoint with its frontend and statistics."""
    state, prefix = checkpoint.state, "byol.encoder."
    config = state["config"]  # of the version that wrote it: newer keys are missing
    options = config["encoder"]
    weights = {
        name.removeprefix(prefix): tensor
        for name, tensor in checkpoint.model.items()
        if name.startswith(prefix)
    }
    description = {
        "encoder": {"name": options["name"], "dim": options["dim"]},
        "frontend": config["frontend"],
        "statistics": state["statistics"],
    }
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    encoder, frontend, statistics = rebuild(place, description, shapes)
    give_weights(place, encoder, weights)
    summary = {
        "steps": state["step"],
        "batch_size": config["train"]["batch_size"],
        "augmentations": config["views"]["augmentations"],
        "seed": config["run"]["seed"],
        "versions": state["versions"],
    }
    if options.get("init") is not None:
        summary["init"] = options["init"]
    return Embedder(encoder, frontend, statistics, summary)
