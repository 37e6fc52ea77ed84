"""The encoder of a run's checkpoint as a model file."""

from pathlib import Path

from byola_rq.audio.frontend import LogMelSpectrogram, Statistics
from byola_rq.embed.embedder import Embedder
from byola_rq.errors import CheckpointError
from byola_rq.model.encoder import build_encoder
from byola_rq.runs.best import load_best_checkpoint
from byola_rq.runs.checkpoint import Checkpoint, load_newest_checkpoint


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
    config = checkpoint.state["config"]  # of the version that wrote it: later keys are not in it
    options, n_mels = config["encoder"], config["frontend"]["n_mels"]
    encoder = build_encoder(options["name"], dim=options["dim"], n_mels=n_mels)
    prefix = "byol.encoder."
    names = [name for name in checkpoint.model if name.startswith(prefix)]
    encoder.load_state_dict({name.removeprefix(prefix): checkpoint.model[name] for name in names})
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
    Embedder(encoder, frontend, statistics, summary).save(path)
    return path
