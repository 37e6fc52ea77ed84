"""Run directories: the lock, moving aside, and what is refused, each in one clear line."""

import contextlib
import ctypes
import errno
import fcntl
import json
import multiprocessing
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from byola_rq import CheckpointError
from byola_rq.config import Config, load_config
from byola_rq.export.run import export_run
from byola_rq.runs.checkpoint import load_newest_checkpoint, save_checkpoint
from byola_rq.runs.directory import (
    FREE_KEYS,
    LENGTH_KEYS,
    locked_run,
    open_run,
    reset_run,
)
from byola_rq.train.loop import pretrain
from tests.conftest import ROOT, small_run
from tests.refusal import refused
from tests.run_process import SECONDS_AT_MOST, is_running


def changed(config: Config, tmp_path: Path, *overrides: str) -> Config:
    path = tmp_path / "base.yaml"
    path.write_text(config.to_yaml())
    return load_config(path, overrides)


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


# ---------------------------------------------------------------------------------------- the lock

HOLDER = """
import multiprocessing, sys, time
from pathlib import Path
from byola_rq.runtime.signals import leave_signals_to_parent
from byola_rq.runs.directory import locked_run

print("begins", flush=True)
with locked_run(Path(sys.argv[1])):
    if sys.argv[2] == "child":  # one that outlives its parent
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(1000,))
        child.start()
        print(child.pid, flush=True)
    print("held", flush=True)
    time.sleep(1000)
"""


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait 0.2 s for a lock instead of 5."""
    monkeypatch.setattr("byola_rq.runs.directory.PATIENCE", 0.2)


@pytest.fixture
def hold() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts processes that hold a run's directory."""
    processes: list[subprocess.Popen[str]] = []

    def start(folder: Path, way: str = "alone") -> subprocess.Popen[str]:
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", HOLDER, str(folder), way],
                stdout=subprocess.PIPE,
                text=True,
                cwd=ROOT,
            )
        )
        assert first_line(processes[-1]) == "begins\n"
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_a_second_run_in_a_directory_is_refused(
    tmp_path: Path, hold: Callable[..., subprocess.Popen[str]]
) -> None:
    folder = tmp_path / "run"
    first = hold(folder)
    assert first_line(first) == "held\n"
    holder = f"process {first.pid} on {socket.gethostname()}"
    held = refused(CheckpointError, "held", folder, key="run.dir", value=holder)
    with held as caught, locked_run(folder):
        pass
    assert holder in str(caught.value)
    assert first.poll() is None
    assert [path.name for path in folder.iterdir()] == [".lock"]
    # However its holder ends, the kernel frees it.
    first.kill()
    first.wait()
    with locked_run(folder):
        assert (folder / ".lock").read_text() == f"{os.getpid()} {socket.gethostname()}\n"
    assert list(folder.iterdir()) == []


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_a_second_pretrain_is_refused_before_it_writes_anything(
    trained_config: Config, hold: Callable[..., subprocess.Popen[str]]
) -> None:
    """Needs `locked_run` in pretrain."""
    first = hold(trained_config.run.dir)
    assert first_line(first) == "held\n"
    before = content(trained_config.run.dir)
    with refused(CheckpointError, "held", trained_config.run.dir):
        pretrain(trained_config)
    assert content(trained_config.run.dir) == before


@pytest.mark.slow
def test_children_do_not_keep_the_lock(
    tmp_path: Path, hold: Callable[..., subprocess.Popen[str]]
) -> None:
    first = hold(tmp_path, "child")
    child = int(first_line(first))
    try:
        assert first_line(first) == "held\n"
        first.kill()
        first.wait()
        with locked_run(tmp_path):
            assert is_running(child)
    finally:
        os.kill(child, signal.SIGKILL)


@pytest.mark.slow
def test_a_run_waits_for_one_that_is_about_to_end(
    tmp_path: Path, hold: Callable[..., subprocess.Popen[str]]
) -> None:
    first = hold(tmp_path)
    assert first_line(first) == "held\n"
    second = hold(tmp_path)
    time.sleep(1)  # by now it has been turned away
    first.kill()
    first.wait()
    assert first_line(second) == "held\n"


@pytest.mark.slow
def test_only_one_of_many_gets_it(
    tmp_path: Path, hold: Callable[..., subprocess.Popen[str]]
) -> None:
    """Also while each that had it takes the file away."""
    log = tmp_path / "log"
    script = f"""
import os, sys
from pathlib import Path
from byola_rq.runs.directory import locked_run
for _ in range(20):
    with locked_run(Path({str(tmp_path / "run")!r})):
        descriptor = os.open({str(log)!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, b"in\\n")
        os.sched_yield()
        os.write(descriptor, b"out\\n")
        os.close(descriptor)
"""
    processes = [subprocess.Popen([sys.executable, "-c", script], cwd=ROOT) for _ in range(3)]
    for process in processes:
        process.wait(timeout=SECONDS_AT_MOST)
    lines = log.read_text().split()
    assert len(lines) >= 2 * 20
    assert lines == ["in", "out"] * (len(lines) // 2)


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_it_is_held_once_in_a_process_too(tmp_path: Path) -> None:
    with locked_run(tmp_path), refused(CheckpointError, "held", tmp_path), locked_run(tmp_path):
        pass
    with locked_run(tmp_path):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_warned_of(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    number: int,
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with locked_run(tmp_path):
        stderr = capfd.readouterr().err
        assert stderr.startswith(f"warning: {tmp_path}: ")
        assert os.strerror(number) in stderr
        assert stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_other_errors_of_a_lock_are_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with refused(CheckpointError, "unwritable", tmp_path) as caught, locked_run(tmp_path):
        pass
    assert os.strerror(errno.EIO) in str(caught.value)


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_an_error_in_a_child_leaves_the_lock_to_its_parent(tmp_path: Path) -> None:
    def fail() -> None:
        raise SystemExit(3)

    with locked_run(tmp_path):
        context: Any = multiprocessing.get_context("fork")
        child = context.Process(target=fail)
        child.start()
        child.join()
        assert child.exitcode == 3
        with refused(CheckpointError, "held", tmp_path) as caught, locked_run(tmp_path):
            pass
        assert f" {os.getpid()} " in caught.value.value


# --------------------------------------------------------------------------------- starting over


def test_reset_moves_a_run_aside(trained_config: Config, tmp_path: Path) -> None:
    run_dir = trained_config.run.dir
    whole = content(run_dir)
    (tmp_path / "run.1").symlink_to("nowhere")  # taken, too
    assert reset_run(run_dir) == tmp_path / "run.2"
    assert not run_dir.exists()
    assert content(tmp_path / "run.2") == whole
    # From the start again, with another configuration where that is wanted.
    pretrain(changed(trained_config, tmp_path, "run.seed=1"))
    assert reset_run(run_dir) == tmp_path / "run.3"
    assert content(tmp_path / "run.2") == whole


def test_who_moved_a_run_leaves_the_lock_of_the_next_one(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with contextlib.ExitStack() as first:
        first.enter_context(locked_run(folder))
        folder.rename(tmp_path / "aside")
        with locked_run(folder):
            first.close()
            assert (folder / ".lock").exists()


def test_reset_of_nothing_moves_nothing(tmp_path: Path) -> None:
    assert reset_run(tmp_path / "new") is None
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / ".lock").touch()
    assert reset_run(tmp_path / "empty") is None
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_reset_refuses_what_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("do not touch")
    (tmp_path / "file").write_text("do not touch")
    before = content(tmp_path)
    with refused(CheckpointError, "exists", tmp_path / "thesis", value="thesis.tex"):
        reset_run(tmp_path / "thesis")
    with refused(CheckpointError, "foreign", tmp_path / "file"):
        reset_run(tmp_path / "file")
    assert content(tmp_path) == before


def test_reset_does_not_move_the_ground_it_stands_on(
    small_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_run(small_config)
    monkeypatch.chdir(small_config.run.dir)
    with refused(CheckpointError, "usage", key="--reset"):
        reset_run(Path("."))
    assert (small_config.run.dir / "config.yaml").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_reset_refuses_a_run_that_is_at_work(
    small_config: Config, hold: Callable[..., subprocess.Popen[str]]
) -> None:
    with locked_run(small_config.run.dir):
        open_run(small_config)
    first = hold(small_config.run.dir)
    assert first_line(first) == "held\n"
    with refused(CheckpointError, "held", small_config.run.dir) as caught:
        reset_run(small_config.run.dir)
    assert f" {first.pid} " in caught.value.value
    assert small_config.run.dir.exists()


@pytest.mark.parametrize("variable", ["TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"])
def test_a_job_that_is_restarted_does_not_start_over(
    small_config: Config, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    open_run(small_config)
    monkeypatch.setenv(variable, "1")
    assert reset_run(small_config.run.dir) is None
    assert small_config.run.dir.exists()
    monkeypatch.setenv(variable, "0")
    assert reset_run(small_config.run.dir) is not None


def test_reset_is_refused_to_a_job_of_several_machines(
    small_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_run(small_config)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with refused(CheckpointError, "unsupported", small_config.run.dir, key="--reset"):
        reset_run(small_config.run.dir)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert reset_run(small_config.run.dir) is not None


# ------------------------------------------------------------------------- what is found in run.dir


@pytest.mark.parametrize(
    "names", [[], [".lock"], [".config.yaml.0a1b2c3d.partial", "stalled-rank0.txt"]]
)
def test_a_directory_with_nothing_but_a_runs_first_traces_is_fine(
    small_config: Config, names: list[str]
) -> None:
    small_config.run.dir.mkdir()
    for name in names:
        (small_config.run.dir / name).touch()
    with locked_run(small_config.run.dir):
        assert open_run(small_config) == (None, [])
    left = {path.name for path in small_config.run.dir.iterdir()}
    assert left == {"config.yaml", *(name for name in names if name.startswith("stalled"))}


@pytest.mark.parametrize("name", ["thesis.tex", ".config.yaml", "step-00000004", ".lock.txt"])
def test_a_foreign_directory_is_left_as_it_is(small_config: Config, name: str) -> None:
    small_config.run.dir.mkdir()
    (small_config.run.dir / name).write_text("do not touch")
    before = content(small_config.run.dir)
    for touch in (locked_run(small_config.run.dir).__enter__, lambda: open_run(small_config)):
        with refused(CheckpointError, "exists", small_config.run.dir, value=name):
            touch()
    assert content(small_config.run.dir) == before


@pytest.mark.parametrize("place", ["file", "below"])
def test_a_file_is_no_run_dir(small_config: Config, tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("do not touch")
    run_dir = tmp_path / "file" if place == "file" else tmp_path / "file" / "run"
    config = changed(small_config, tmp_path, f"run.dir={run_dir}")
    for touch in (
        locked_run(run_dir).__enter__,
        lambda: open_run(config),
        lambda: pretrain(config),
    ):
        with refused(CheckpointError, "foreign", run_dir, key="run.dir"):
            touch()
    assert (tmp_path / "file").read_text() == "do not touch"


@pytest.mark.parametrize("run_dir", ["/proc/run", f"/tmp/{'x' * 300}"])
def test_a_place_where_nothing_can_be_made(
    small_config: Config, tmp_path: Path, run_dir: str
) -> None:
    config = changed(small_config, tmp_path, f"run.dir={run_dir}")
    for touch in (locked_run(Path(run_dir)).__enter__, lambda: open_run(config)):
        with pytest.raises(CheckpointError) as caught:
            touch()
        assert caught.value.code in ("unreadable", "unwritable")
        assert (caught.value.path, caught.value.key) == (Path(run_dir), "run.dir")


def drop_power_over_files() -> None:
    """Make root in a child process a user who is bound by file permissions."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP; others than root have none


@pytest.mark.parametrize("mode", [0o555, 0o000])
@pytest.mark.parametrize("state", ["empty", "run"])
@pytest.mark.slow
def test_a_directory_without_permission(
    small_config: Config, tmp_path: Path, mode: int, state: str
) -> None:
    run_dir = small_config.run.dir
    run_dir.mkdir()
    if state == "run":
        pretrain(small_config)
    before = content(run_dir)
    path = tmp_path / "run.yaml"
    path.write_text(small_config.to_yaml())
    run_dir.chmod(mode)
    try:
        process = subprocess.run(
            [sys.executable, "-m", "byola_rq", "pretrain", str(path)],
            check=False,
            capture_output=True,
            text=True,
            preexec_fn=drop_power_over_files,
            cwd=ROOT,
            timeout=SECONDS_AT_MOST,
        )
    finally:
        run_dir.chmod(0o755)
    assert process.returncode == 2, process.stderr
    *_, line = process.stderr.splitlines()
    word = "written" if mode else "read"
    assert re.match(rf"error: {run_dir}: .*{word}.*{os.strerror(errno.EACCES)}", line)
    assert "Traceback" not in process.stderr
    assert content(run_dir) == before


# ------------------------------------------------------------------------------------- checkpoints


def test_checkpoints_that_are_all_damaged_are_an_error(trained_config: Config) -> None:
    for path in trained_config.run.dir.glob("step-*"):
        (path / "optimizer.safetensors").unlink()
    before = content(trained_config.run.dir)
    with refused(CheckpointError, "damaged", trained_config.run.dir):
        open_run(trained_config)
    assert content(trained_config.run.dir) == before


# ----------------------------------------------------------------------------------- configuration

# Of every key either may change in the middle of a run, or not, or only while nothing depends on
# it; another valid value of each. A new key has to be put into one of these.
FREE = {
    "run.dir": "elsewhere",
    "run.device": "cuda",
    "run.stall_minutes": 7,
    "run.threads": 2,
    "data.source": "elsewhere",
    "data.workers": 1,
    "data.resident": False,
    "train.log_every": 3,
    "train.compile": True,
    "train.cuda_graph": False,
    "checkpoint.every_steps": 1,
    "checkpoint.keep": 1,
    "validation.labelled": "labelled.csv",
    "validation.every_epochs": 0.5,
    "validation.probe": "logistic",
    "tensorboard.enabled": True,
    "tensorboard.views_every": 3,
}
SCIENCE = {
    "run.seed": 1,
    "run.precision": "bfloat16",
    "data.segment_seconds": 0.5,
    "data.shuffle": "windows",
    "frontend.backend": "librosa",
    "frontend.sample_rate": 22050,
    "frontend.n_fft": 2048,
    "frontend.win_length": 512,
    "frontend.hop_length": 80,
    "frontend.n_mels": 32,
    "frontend.f_min": 50,
    "frontend.f_max": 7000,
    "views.augmentations": ["random_resized_crop"],
    "views.post_norm": False,
    "views.random_resized_crop.canvas": [1.0, 2.0],
    "views.random_resized_crop.freq_scale": [0.5, 1.5],
    "views.random_resized_crop.time_scale": [0.5, 1.5],
    "views.randomized_quantization.num_bins": 8,
    "views.randomized_quantization.bins": "uniform",
    "views.randomized_quantization.values": "midpoint",
    "views.randomized_quantization.per": "instance",
    "views.randomized_quantization.p": 0.5,
    "views.mixup.ratio": 0.2,
    "views.mixup.memory": 12,
    "views.random_linear_fader.gain": 2.0,
    "views.dacl.alpha": 0.8,
    "views.spec_augment.num_freq_masks": 1,
    "views.spec_augment.freq_width": 8,
    "views.spec_augment.num_time_masks": 1,
    "views.spec_augment.time_width": 12,
    "views.imix.alpha": 2.0,
    "views.ssql.weight_bits": [4, 8],
    "views.ssql.activation_bits": [6, 8],
    "encoder.name": "audio_ntt_2022",
    "encoder.dim": 24,
    "encoder.init": "builtin",
    "encoder.freeze_steps": 2,
    "objective.name": "infonce",
    "objective.temperature": 0.1,
    "byol.projection_dim": 8,
    "byol.hidden_dim": 16,
    "byol.ema_decay": 0.9,
    "byol.ema_schedule": "cosine",
    "optimizer.name": "adamw",
    "optimizer.lr": 1e-5,
    "optimizer.weight_decay": 0.1,
    "optimizer.schedule": "cosine",
    "optimizer.warmup_steps": 3,
    "optimizer.clip_norm": 1.0,
    "train.batch_size": 4,
    "train.accumulate": 2,
    "train.sync_batch_norm": False,
}
CONDITIONAL = {
    "data.window_shards": 2,
    "train.epochs": 50,
    "train.segments": 48,
    "train.max_steps": 6,
}

# What moves last bits (other kernels), or needs a GPU, a labeled set or a further package.
NOT_TO_THE_BIT = {
    "run.dir",
    "run.device",
    "run.threads",
    "data.source",
    "train.compile",
    "validation.labelled",
    "tensorboard.enabled",
}


def flat_keys(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flat_keys(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def override(key: str, value: Any) -> str:
    return f"{key}={json.dumps(value)}"


def free_overrides(key: str) -> list[str]:
    """Return overrides that change a free key; a run has only one of the two budgets."""
    budget = ["train.max_steps=null"] if key == "train.segments" else []
    return [*budget, override(key, {**FREE, **CONDITIONAL}[key])]


def test_every_key_is_free_or_science(small_config: Config) -> None:
    keys = sorted(flat_keys(small_config.model_dump(mode="json")))
    assert sorted([*FREE, *SCIENCE, *CONDITIONAL]) == keys
    assert FREE.keys() == FREE_KEYS
    assert CONDITIONAL.keys() == LENGTH_KEYS | {"data.window_shards"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, sounds: Path) -> Config:
    config = small_run(tmp_path_factory.mktemp("trained") / "run", sounds, "encoder.dim=1040")
    pretrain(config)
    return config


@pytest.fixture
def again(trained: Config, tmp_path: Path) -> Config:
    """A copy of it, to be opened with other values."""
    run_dir = tmp_path / "run"
    shutil.copytree(trained.run.dir, run_dir, copy_function=link_weights)
    return changed(trained, tmp_path, f"run.dir={run_dir}")


def link_weights(source: str, target: str) -> None:
    """Copy a file of a run; weights, which nothing writes in place, are linked: 60 MB a test."""
    (os.link if source.endswith(".safetensors") else shutil.copy2)(source, target)


@pytest.mark.parametrize("key", sorted({**FREE, **CONDITIONAL}.keys() - {"run.dir"}))
def test_a_free_key_may_change(again: Config, tmp_path: Path, key: str) -> None:
    checkpoint, _ = open_run(changed(again, tmp_path, *free_overrides(key)))
    assert checkpoint is not None


@pytest.mark.parametrize("key", sorted(SCIENCE))
def test_a_key_of_science_may_not_and_the_difference_is_shown(
    again: Config, tmp_path: Path, key: str
) -> None:
    other = changed(again, tmp_path, override(key, SCIENCE[key]))
    before = content(again.run.dir)
    with refused(CheckpointError, "different", again.run.dir, key=key) as caught:
        open_run(other)
    assert list(caught.value.value) == [key]
    for value in (value_of(again, key), value_of(other, key)):
        assert str(value) in str(caught.value)
    assert content(again.run.dir) == before


def value_of(config: Config, key: str) -> Any:
    value: Any = config.model_dump(mode="json")
    for step in key.split("."):
        value = value[step]
    return value


@pytest.mark.parametrize("schedule", ["optimizer.schedule=cosine", "byol.ema_schedule=cosine"])
def test_the_length_is_science_where_a_schedule_depends_on_it(
    again: Config, tmp_path: Path, schedule: str
) -> None:
    scheduled = changed(again, tmp_path, schedule)
    checkpoint, _ = load_newest_checkpoint(again.run.dir)
    assert checkpoint is not None
    checkpoint.state["config"] = scheduled.model_dump(mode="json")
    save_checkpoint(again.run.dir, checkpoint, keep=1)
    for key in LENGTH_KEYS:
        with refused(CheckpointError, "different", again.run.dir) as caught:
            open_run(changed(scheduled, tmp_path, *free_overrides(key)))
        assert key in caught.value.value


def test_free_keys_change_no_bit(again: Config, trained: Config, tmp_path: Path) -> None:
    """Change all free keys at once after step 2: the run keeps its bits."""
    shutil.rmtree(again.run.dir / "step-00000004")
    (again.run.dir / "encoder.safetensors").unlink()
    overrides = [override(key, FREE[key]) for key in sorted(FREE.keys() - NOT_TO_THE_BIT)]
    pretrain(changed(again, tmp_path, *overrides))
    name = "encoder.safetensors"
    assert (again.run.dir / name).read_bytes() == (trained.run.dir / name).read_bytes()
    for name in ("model.safetensors", "optimizer.safetensors"):
        ours = (again.run.dir / "step-00000004" / name).read_bytes()
        assert ours == (trained.run.dir / "step-00000004" / name).read_bytes()


def test_a_run_from_before_a_free_key_goes_on_and_is_exported(
    again: Config, tmp_path: Path
) -> None:
    checkpoint, _ = load_newest_checkpoint(again.run.dir)
    assert checkpoint is not None
    for key in FREE:
        section, name = key.split(".")
        del checkpoint.state["config"][section][name]
    save_checkpoint(again.run.dir, checkpoint, keep=1)
    opened, _ = open_run(again)
    assert opened is not None
    exported = export_run(again.run.dir, tmp_path / "encoder.safetensors")
    assert exported.read_bytes() == (again.run.dir / "encoder.safetensors").read_bytes()


@pytest.mark.parametrize("is_synchronised", [True, False])
def test_processes_are_free_where_batch_norm_is_synchronised(
    again: Config, tmp_path: Path, is_synchronised: bool
) -> None:
    config = changed(again, tmp_path, override("train.sync_batch_norm", is_synchronised))
    checkpoint, _ = load_newest_checkpoint(again.run.dir)
    assert checkpoint is not None
    checkpoint.state.update(config=config.model_dump(mode="json"), num_ranks=2)
    save_checkpoint(again.run.dir, checkpoint, keep=1)
    if is_synchronised:
        open_run(config)
        return
    with refused(CheckpointError, "different", again.run.dir, key="train.sync_batch_norm"):
        open_run(config)
