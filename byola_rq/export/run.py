"""The encoder of a run's checkpoint as a model file."""

from pathlib import Path

import torch

from byola_rq.audio.frontend import LogMelSpectrogram, Statistics
from byola_rq.embed.embedder import Embedder
from byola_rq.errors import CheckpointError, first_line
from byola_rq.model.encoder import build_encoder
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
        best: Instead of the newest, the checkpoint that scored best in validation.

    Raises:
        CheckpointError: If there is no whole checkpoint, or the file cannot be written.
    """
    if best:
        checkpoint: Checkpoint | None = load_best_checkpoint(run_dir)
    else:
        checkpoint, _ = load_newest_checkpoint(run_dir)
    if checkpoint is None:
        message = f"{run_dir}: no checkpoint in it (is it the run.dir of a run?)"
        raise CheckpointError(message, code="missing", path=run_dir)
    check_state(run_dir, checkpoint)
    try:
        embedder = _read_encoder(checkpoint)
    except (KeyError, TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        place = checkpoint_path(run_dir, checkpoint.state["step"])
        message = f"{place}: holds no encoder that can be rebuilt ({first_line(error)})"
        raise CheckpointError(message, code="malformed", path=place) from error
    embedder.save(path)
    return path


def _read_encoder(checkpoint: Checkpoint) -> Embedder:
    config = checkpoint.state["config"]  # of the version that wrote it: later keys are not in it
    options, n_mels = config["encoder"], config["frontend"]["n_mels"]
    # Without memory for its weights: the checkpoint brings them, once their shapes are right.
    with torch.device("meta"):
        encoder = build_encoder(options["name"], dim=options["dim"], n_mels=n_mels)
    prefix = "byol.encoder."
    names = [name for name in checkpoint.model if name.startswith(prefix)]
    weights = {name.removeprefix(prefix): checkpoint.model[name] for name in names}
    encoder.load_state_dict(weights, assign=True)
    summary = {
        "steps": checkpoint.state["step"],
        "batch_size": config["train"]["batch_size"],
        "augmentations": config["views"]["augmentations"],
        "seed": config["run"]["seed"],
        "versions": checkpoint.state["versions"],
    }
    if options.get("init") is not None:
        summary["init"] = options["init"]
    frontend = LogMelSpectrogram(**config["frontend"])
    statistics = Statistics(**checkpoint.state["statistics"])
    return Embedder(encoder, frontend, statistics, summary)
