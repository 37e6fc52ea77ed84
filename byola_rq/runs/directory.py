"""Run directories: locking, opening, comparison of configurations, moving aside."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from byola_rq.config import Config, flatten, with_newer_keys
from byola_rq.errors import CheckpointError
from byola_rq.runs.checkpoint import Checkpoint, check_state, load_newest_checkpoint
from byola_rq.runtime.distributed import world_size
from byola_rq.runtime.files import remove_leftovers, replace_file
from byola_rq.runtime.lock import PATIENCE, locked
from byola_rq.text.shown import differences

# Keys that may change when a run is resumed; all others would change its result.
# `data.source` may change: the clips themselves are compared by their digest.
FREE_KEYS = frozenset(
    (
        "run.dir",
        "run.device",
        "run.stall_minutes",
        "run.threads",
        "data.source",
        "data.workers",
        "data.resident",
        "train.log_every",
        "train.compile",
        "train.cuda_graph",
        "checkpoint.every_steps",
        "checkpoint.keep",
        "validation.labelled",
        "validation.every_epochs",
        "validation.probe",
        "tensorboard.enabled",
        "tensorboard.views_every",
    )
)

# Keys of a run's length, which may change if no schedule depends on them.
LENGTH_KEYS = frozenset(("train.epochs", "train.segments", "train.max_steps"))

LOCK_NAME = ".lock"

# Files that a run may leave in its directory if it ends before config.yaml exists.
_FIRST_TRACES = re.compile(
    rf"{re.escape(LOCK_NAME)}|\.(?:config\.yaml|mode)\.\w+\.partial|stalled-rank\d+\.txt"
)


@contextlib.contextmanager
def locked_run(run_dir: Path) -> Iterator[None]:
    """Create `run.dir` and lock it against a second run.

    Raises:
        CheckpointError: If the directory has other content, cannot be written, or is locked by
            another run.
    """
    _check_is_run(run_dir)
    with contextlib.ExitStack() as stack:
        with _disk_errors(run_dir):
            run_dir.mkdir(parents=True, exist_ok=True)
            stack.enter_context(_locked(run_dir))
            # Left by runs that were killed; `save_checkpoint` removes its own.
            remove_leftovers(run_dir)
        yield


def open_run(config: Config) -> tuple[Checkpoint | None, list[str]]:
    """Create `run.dir`, or load the checkpoint to resume from.

    Returns:
        The newest intact checkpoint (None for a run without one), and a line for each damaged one
        skipped.

    Raises:
        CheckpointError: If the directory has other content, cannot be written, or holds a run
            whose configuration differs in a key that affects the result.
    """
    run_dir = config.run.dir
    _check_is_run(run_dir)
    checkpoint, damages = load_newest_checkpoint(run_dir)
    if checkpoint is not None:
        check_state(run_dir, checkpoint)
        _check_same_config(config, checkpoint)
    with _disk_errors(run_dir):
        run_dir.mkdir(parents=True, exist_ok=True)
        replace_file(run_dir / "config.yaml", config.to_yaml())
    return checkpoint, damages


def reset_run(run_dir: Path) -> Path | None:
    """Move a run's directory aside to the next free `<run.dir>.<N>`; nothing is deleted.

    Nothing is moved if a launcher restarts a job, as its command then is meant to resume the run.

    Returns:
        The new path; None if there was nothing to move.

    Raises:
        CheckpointError: If the directory has other content, is locked by a run, or cannot be
            moved; or if the job runs on several machines.
    """
    _check_is_run(run_dir)
    if _is_restart() or not (run_dir / "config.yaml").exists():
        return None
    if os.environ.get("LOCAL_WORLD_SIZE") != os.environ.get("WORLD_SIZE"):
        # A machine that rejoins counts its restarts from 0 again.
        message = (
            f"{run_dir}: --reset must be given on one machine; this job is one of several. "
            "Move the directory aside yourself, or choose another run.dir"
        )
        raise CheckpointError(message, code="unsupported", path=run_dir, key="--reset")
    place = Path(os.path.abspath(run_dir))  # not resolved: a link is moved, not its target
    if Path.cwd().is_relative_to(place.resolve()):
        message = f"{run_dir}: --reset must be given from outside the run's directory"
        raise CheckpointError(message, code="usage", path=run_dir, key="--reset")
    with _disk_errors(run_dir), _locked(place):
        number = 1
        while os.path.lexists(aside := place.with_name(f"{place.name}.{number}")):
            number += 1
        place.rename(aside)
        (aside / LOCK_NAME).unlink(missing_ok=True)
    return aside


def _locked(run_dir: Path) -> contextlib.AbstractContextManager[None]:
    def held(owner: str) -> CheckpointError:
        return CheckpointError(
            f"{run_dir}: run.dir must be used by one run at a time; another one is using it "
            f"({owner}). Wait for it, stop it, or choose another run.dir",
            code="held",
            path=run_dir,
            key="run.dir",
            value=owner,
        )

    return locked(run_dir / LOCK_NAME, patience=PATIENCE, held=held)


def _check_is_run(run_dir: Path) -> None:
    """Raise unless a directory is new, empty or a run."""
    try:
        names = [path.name for path in run_dir.iterdir()]
    except FileNotFoundError:
        return
    except NotADirectoryError:
        message = f"{run_dir}: run.dir must be a directory; it, or a folder above it, is a file"
        raise CheckpointError(message, code="foreign", path=run_dir, key="run.dir") from None
    except OSError as error:
        message = f"{run_dir}: run.dir cannot be read ({error})"
        raise CheckpointError(message, code="unreadable", path=run_dir, key="run.dir") from error
    if "config.yaml" not in names and not all(_FIRST_TRACES.fullmatch(name) for name in names):
        message = (
            f"{run_dir}: run.dir must be new, empty or a run; this holds other files "
            f"(such as {min(names)}). Choose another run.dir"
        )
        raise CheckpointError(message, code="exists", path=run_dir, key="run.dir", value=min(names))


@contextlib.contextmanager
def _disk_errors(run_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        message = f"{run_dir}: run.dir cannot be written ({error})"
        raise CheckpointError(message, code="unwritable", path=run_dir, key="run.dir") from error


def _is_restart() -> bool:
    """Return whether torchrun or SLURM has restarted this job."""
    counts = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")
    return any(os.environ.get(count, "0") != "0" for count in counts)


def _check_same_config(config: Config, checkpoint: Checkpoint) -> None:
    is_length_free = config.optimizer.schedule == config.byol.ema_schedule == "constant"
    free = FREE_KEYS | LENGTH_KEYS if is_length_free else FREE_KEYS
    if config.data.shuffle == "full":
        free |= {"data.window_shards"}
    before = flatten(with_newer_keys(checkpoint.state["config"]))
    now = flatten(config.model_dump(mode="json"))
    found = {key: line for key, line in differences(before, now).items() if key not in free}
    ranks_before = checkpoint.state["num_ranks"]
    if not config.train.sync_batch_norm and ranks_before != world_size():
        found["train.sync_batch_norm"] = (
            f"without train.sync_batch_norm, the number of processes was {ranks_before}, "
            f"is {world_size()}"
        )
    if found:
        raise CheckpointError(
            f"{config.run.dir}: holds a run with another configuration "
            f"({'; '.join(found.values())}); choose another run.dir, or the values it had",
            code="different",
            path=config.run.dir,
            key=next(iter(found)),
            value=found,
        )
