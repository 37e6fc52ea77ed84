"""Sounds for all tests: synthesized ones always, real recordings where they are at hand."""

import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from byola_rq.config import Config, default_config_path, load_config
from byola_rq.synthesis.generate import write_corpus
from tests.browser import Browser, find_chromium

torch.set_num_threads(1)  # the tensors are small; two threads would mostly wait for each other

# A shell without job control starts what runs in the background with SIGINT ignored; the processes
# that a test starts and interrupts would inherit that.
if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Triton makes its functions for a GPU or for its interpreter when it is first imported.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

ROOT = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of tests/slow are slow; those for a GPU need one."""
    for item in items:
        if "slow" in item.path.relative_to(ROOT).parts:
            item.add_marker(pytest.mark.slow)
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Count the tests that would need a GPU."""
    skipped = terminalreporter.stats.get("skipped", [])
    # A file that cannot be imported is reported without keywords.
    if num_gpu := sum("gpu" in getattr(report, "keywords", ()) for report in skipped):
        terminalreporter.write_line(f"{num_gpu} tests need a CUDA device and did not run")


@pytest.fixture(scope="session")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 24 synthesized clips of 1 to 2 s, of every kind."""
    folder = tmp_path_factory.mktemp("sounds")
    write_corpus(folder, num_clips=24, seed=5, seconds=(1.0, 2.0))
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A Chromium with one tab."""
    if find_chromium() is None:
        pytest.skip("pages are tried in Chromium, which is not installed")
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="session")
def recordings() -> Path:
    """The folder of real recordings, named by BYOLA_RQ_DATA or beside the checkout."""
    folder = Path(os.environ.get("BYOLA_RQ_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "pool" / "metadata.csv").exists():
        pytest.skip(f"no real recordings at {folder} (BYOLA_RQ_DATA names their folder)")
    return folder


def small_run(run_dir: Path, sounds: Path, *overrides: str) -> Config:
    """The paper's recipe, shrunk to a few seconds of training on `sounds`, then changed."""
    values = [*SMALL, f"data.source={sounds}", f"run.dir={run_dir}", *overrides]
    return load_config(default_config_path(), values)


@pytest.fixture
def small_config(tmp_path: Path, sounds: Path) -> Config:
    return small_run(tmp_path / "run", sounds)


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory, sounds: Path) -> Path:
    """The directory of a run of `SMALL`, trained once; not to be changed."""
    from byola_rq.train.loop import pretrain  # after what Triton looks at

    run_dir = tmp_path_factory.mktemp("trained") / "run"
    pretrain(small_run(run_dir, sounds))
    return run_dir


@pytest.fixture
def trained_config(small_config: Config, trained_run: Path) -> Config:
    """`small_config` with a run of its own that is at its end: checkpoints of steps 2 and 4."""
    shutil.copytree(trained_run, small_config.run.dir)
    return small_config


SMALL = [
    "encoder.dim=16",
    "byol.hidden_dim=32",
    "byol.projection_dim=16",
    "train.batch_size=8",
    "train.max_steps=4",
    "train.log_every=1",
    "checkpoint.every_steps=2",
    "data.workers=0",
    "run.device=cpu",
    "run.precision=float32",  # on every CPU the same
]
