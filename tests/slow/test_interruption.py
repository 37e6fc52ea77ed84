"""Signals, sent to real processes: status, what is saved, and the bits of the resumed run."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from byola_rq.config import Config
from byola_rq.runs.metrics import read_metrics
from byola_rq.runtime.signals import RUN_SIGNALS, StoppedError, signals_blocked, stop_on_signals
from byola_rq.train.loop import pretrain
from tests.conftest import small_run
from tests.hand_packed import pack
from tests.refusal import refused
from tests.run_process import SECONDS_AT_MOST, Run, is_running, model_bytes, moved


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, sounds: Path) -> Config:
    """A run of 30 steps with two loaders and no checkpoint but the last, and its end."""
    folder = tmp_path_factory.mktemp("undisturbed")
    overrides = ("data.workers=2", "train.max_steps=30", "checkpoint.every_steps=1000")
    config = small_run(folder / "run", sounds, *overrides)
    pretrain(config)
    return config


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    runs: list[Run] = []

    def start_run(config: Config, *overrides: str) -> Run:
        runs.append(Run(moved(config, tmp_path / f"run{len(runs)}", *overrides), tmp_path))
        return runs[-1]

    yield start_run
    for run in runs:
        run.kill()


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 0), (signal.SIGINT, 130)]
)
def test_a_signal_finishes_the_step_and_saves(
    undisturbed: Config, start: Callable[..., Run], number: signal.Signals, status: int
) -> None:
    run = start(undisturbed)
    run.wait_for_steps(3)
    assert len(run.children()) >= 2
    run.send(number)
    returned, stderr = run.end()
    assert returned == status, stderr
    assert "Traceback" not in stderr
    step = run.saved_step()
    assert step is not None
    assert 3 <= step < 30
    assert int(read_metrics(run.config.run.dir / "metrics.csv")[-1]["step"]) == step
    line = stderr.splitlines()[-1]
    assert f"{run.config.run.dir}: " in line
    assert number.name in line
    assert f" step {step}," in line
    assert not (run.config.run.dir / "encoder.safetensors").exists()
    pretrain(run.config)
    assert model_bytes(run.config) == model_bytes(undisturbed)
    rows = read_metrics(run.config.run.dir / "metrics.csv")
    expected = read_metrics(undisturbed.run.dir / "metrics.csv")
    assert [(row["step"], row["loss"]) for row in rows] == [
        (row["step"], row["loss"]) for row in expected
    ]


def test_loaders_end_with_a_run_that_is_killed(
    undisturbed: Config, start: Callable[..., Run]
) -> None:
    run = start(undisturbed)
    run.wait_for_steps(2)
    assert len(run.children()) >= 2
    children = run.children()
    run.process.kill()
    # The kernel ends them when it has ended their parent, which may be seen to be gone before.
    run.process.join()
    end = time.monotonic() + SECONDS_AT_MOST
    while any(is_running(child) for child in children) and time.monotonic() < end:
        time.sleep(0.01)
    assert not any(is_running(child) for child in children)


def test_a_second_interrupt_ends_at_once(undisturbed: Config, start: Callable[..., Run]) -> None:
    # Segments of 15 s make steps of seconds: the first interrupt waits for the end of one, and the
    # second meets it there.
    long_steps = ("data.segment_seconds=15", "train.max_steps=100000")
    run = start(undisturbed, "data.workers=0", "checkpoint.every_steps=1", *long_steps)
    run.wait_for(run.saved_step)
    saved = run.saved_step()
    pid = run.process.pid
    assert pid is not None
    begun = cpu_seconds(pid)
    run.wait_for(lambda: cpu_seconds(pid) > begun + 0.3)  # it computes the next step
    run.send(signal.SIGINT)
    run.wait_for(lambda: not catches(pid, signal.SIGINT))
    run.send(signal.SIGINT)
    returned, stderr = run.end()
    assert returned == -signal.SIGINT
    assert "Traceback" not in stderr
    assert "error: " not in stderr
    assert run.saved_step() == saved


def cpu_seconds(pid: int) -> float:
    """Return the time that a process has computed."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def catches(pid: int, number: signal.Signals) -> bool:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    caught = next(line for line in lines if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_signal_ends_the_measuring_of_statistics(
    undisturbed: Config, start: Callable[..., Run], tmp_path: Path, workers: int
) -> None:
    generator = np.random.default_rng(0)
    clips = [generator.integers(-9999, 9999, 400).astype(np.int16) for _ in range(12000)]
    source = pack(tmp_path / "packed", clips, clips_per_shard=12000)
    run = start(undisturbed, f"data.source={source}", f"data.workers={workers}")
    # Written when measuring begins, which takes 10,000 clips.
    run.wait_for((run.config.run.dir / "config.yaml").exists)
    if workers:
        run.wait_for(lambda: len(run.children()) >= workers)
    run.send(signal.SIGTERM)
    returned, stderr = run.end()
    assert returned == 143, stderr
    assert "Traceback" not in stderr
    assert "SIGTERM" in stderr.splitlines()[-1]
    assert run.saved_step() is None
    assert "starting" not in stderr


def test_held_work_is_finished_before_it_stops() -> None:
    done: list[str] = []

    def work() -> None:
        with stop_on_signals(RUN_SIGNALS) as stop:
            with stop.deferred():
                signal.raise_signal(signal.SIGUSR1)
                done.append("held")
            done.append("after")

    with refused(StoppedError, "stopped", value="SIGUSR1") as caught:
        work()
    assert done == ["held"]
    assert caught.value.exit_code == 0


def test_no_handler_of_errors_takes_a_stop_for_its_own() -> None:
    def work() -> None:
        with stop_on_signals():
            try:
                signal.raise_signal(signal.SIGTERM)
            except Exception as error:  # as decoders' errors are caught
                raise KeyError("x") from error

    with refused(StoppedError, "stopped", value="SIGTERM"):
        work()


def test_an_error_in_held_work_is_that_error() -> None:
    def work() -> None:
        with stop_on_signals() as stop, stop.deferred():
            signal.raise_signal(signal.SIGTERM)
            raise KeyError("x")

    with pytest.raises(KeyError):
        work()


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in RUN_SIGNALS]
    with pytest.raises(StoppedError), stop_on_signals(RUN_SIGNALS, second_interrupt_kills=True):
        signal.raise_signal(signal.SIGTERM)
    assert [signal.getsignal(number) for number in RUN_SIGNALS] == before


def test_a_signal_that_another_thread_takes_in_waits_for_the_end_of_the_block() -> None:
    """The mask of the main thread does not keep a signal from the process."""
    ends = threading.Event()
    other = threading.Thread(target=ends.wait)
    other.start()  # before the mask, which it would inherit
    is_whole = False

    def work() -> None:
        nonlocal is_whole
        with stop_on_signals(RUN_SIGNALS), signals_blocked():
            os.kill(os.getpid(), signal.SIGUSR1)
            for _ in range(1000):
                time.sleep(0)  # where a handler would run
            is_whole = True

    try:
        with pytest.raises(StoppedError):
            work()
    finally:
        ends.set()
        other.join()
    assert is_whole
