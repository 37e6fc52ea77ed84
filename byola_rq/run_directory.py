"""A run's directory: opened, guarded against another configuration, exported."""

from pathlib import Path
from typing import Any

from byola_rq.checkpoint import Checkpoint, load_newest_checkpoint
from byola_rq.config import Config
from byola_rq.embedder import Embedder
from byola_rq.encoder import build_encoder
from byola_rq.errors import CheckpointError
from byola_rq.files import replace_file
from byola_rq.frontend import LogMelSpectrogram, Statistics

# What may change between a run and its resumption; everything else would change its result.
# `data.source` may move: the clips themselves are compared by their digest.
FREE_KEYS = frozenset(
    (
        "run.dir",
        "run.device",
        "run.stall_minutes",
        "data.source",
        "data.workers",
        "train.log_every",
        "train.compile",
        "checkpoint.every_steps",
        "checkpoint.keep",
        "validation.labelled",
        "validation.every_epochs",
        "validation.probe",
        "tensorboard.enabled",
        "tensorboard.views_every",
    )
)

# What a run did before these keys were there.
NEWER_KEYS: dict[str, Any] = {
    "data.shuffle": "full",
    "data.window_shards": 4,
    "run.stall_minutes": None,
    "train.accumulate": 1,
    "train.sync_batch_norm": True,
    "validation.labelled": None,
    "validation.every_epochs": 1.0,
    "validation.probe": "knn",
    "tensorboard.enabled": False,
    "tensorboard.views_every": 1000,
}

# What a run's length may be changed to as long as no schedule depends on it.
LENGTH_KEYS = frozenset(("train.epochs", "train.max_steps"))


def open_run(config: Config) -> tuple[Checkpoint | None, list[str]]:
    """Make `run.dir`, or find the checkpoint to go on from.

    Returns:
        The newest whole checkpoint (None for a run without one), and a line for each damaged
        one passed over.

    Raises:
        CheckpointError: If the directory belongs to something else, cannot be written, or holds a
            run whose configuration differs in what makes its result.
    """
    run_dir = config.run.dir
    config_path = run_dir / "config.yaml"
    if run_dir.exists() and not run_dir.is_dir():
        raise CheckpointError(f"{run_dir}: run.dir must be a directory; this is a file")
    if run_dir.exists() and any(run_dir.iterdir()) and not config_path.exists():
        raise CheckpointError(
            f"{run_dir}: run.dir must be new, empty or a run; this holds other files"
        )
    checkpoint, damages = load_newest_checkpoint(run_dir)
    if checkpoint is not None:
        _refuse_other_config(config, checkpoint)
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        replace_file(config_path, config.to_yaml())
    except OSError as error:
        raise CheckpointError(f"{run_dir}: run.dir cannot be written ({error})") from error
    return checkpoint, damages


def export_run(run_dir: Path, path: Path) -> Path:
    """Write the online encoder of a run's newest checkpoint as a model file.

    Raises:
        CheckpointError: If there is no whole checkpoint, or the file cannot be written.
    """
    checkpoint, _ = load_newest_checkpoint(run_dir)
    if checkpoint is None:
        raise CheckpointError(f"{run_dir}: no checkpoint in it (is it the run.dir of a run?)")
    config = Config.model_validate(_with_newer_keys(checkpoint.state["config"]))
    encoder = build_encoder(
        config.encoder.name, dim=config.encoder.dim, n_mels=config.frontend.n_mels
    )
    prefix = "byol.encoder."
    names = [name for name in checkpoint.model if name.startswith(prefix)]
    encoder.load_state_dict({name.removeprefix(prefix): checkpoint.model[name] for name in names})
    summary = {
        "steps": checkpoint.state["step"],
        "batch_size": config.train.batch_size,
        "augmentations": config.views.augmentations,
        "seed": config.run.seed,
        "versions": checkpoint.state["versions"],
    }
    frontend = LogMelSpectrogram(**config.frontend.model_dump())
    statistics = Statistics(**checkpoint.state["statistics"])
    Embedder(encoder, frontend, statistics, summary).save(path)
    return path


def _refuse_other_config(config: Config, checkpoint: Checkpoint) -> None:
    is_length_free = config.optimizer.schedule == config.byol.ema_schedule == "constant"
    free = FREE_KEYS | LENGTH_KEYS if is_length_free else FREE_KEYS
    if config.data.shuffle == "full":
        free |= {"data.window_shards"}
    before = _flatten(_with_newer_keys(checkpoint.state["config"]))
    now = _flatten(config.model_dump(mode="json"))
    differences = [
        f"{key} was {before.get(key)}, is {now.get(key)}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and key not in free
    ]
    if differences:
        raise CheckpointError(
            f"{config.run.dir}: holds a run with another configuration "
            f"({'; '.join(differences)}); choose another run.dir, or the values it had"
        )


def _with_newer_keys(values: dict[str, Any]) -> dict[str, Any]:
    """An earlier version's configuration, completed by what that version did."""
    completed = {name: dict(section) for name, section in values.items()}
    for dotted, value in NEWER_KEYS.items():
        section, key = dotted.split(".")
        completed.setdefault(section, {}).setdefault(key, value)
    return completed


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
