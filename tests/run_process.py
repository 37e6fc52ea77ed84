"""Runs in processes of their own, to be disturbed from outside."""

import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

from byola_rq.cli.app import main
from byola_rq.config import Config, load_config
from byola_rq.runs.checkpoint import load_newest_checkpoint
from byola_rq.runs.metrics import read_metrics
from tests.conftest import ROOT

FORK = multiprocessing.get_context("fork")
SECONDS_AT_MOST = 60  # far more than anything here takes


class Run:
    """`byola-rq pretrain` in a process group of its own, with its stderr in a pipe.

    Forked: a new interpreter would take longer to import torch than to train.
    """

    def __init__(self, config: Config, folder: Path) -> None:
        path = folder / f"{config.run.dir.name}.yaml"
        path.write_text(config.to_yaml())
        self.config = config
        reader, writer = os.pipe()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        self.process = FORK.Process(target=become, args=(["pretrain", str(path)], nowhere, writer))
        self.process.start()
        os.close(nowhere)
        os.close(writer)
        self.stderr = os.fdopen(reader)

    def wait_for(self, is_there: Callable[[], object]) -> None:
        end = time.monotonic() + SECONDS_AT_MOST
        while not is_there():
            assert self.process.is_alive(), self.stderr.read()
            assert time.monotonic() < end
            time.sleep(0.005)

    def wait_for_steps(self, num: int) -> None:
        path = self.config.run.dir / "metrics.csv"
        self.wait_for(lambda: len(read_metrics(path)) >= num)

    def send(self, number: int) -> None:
        """Send a signal to the whole process group, as terminals and schedulers do."""
        assert self.process.pid is not None
        os.killpg(self.process.pid, number)

    def end(self) -> tuple[int, str]:
        """Status and what it said on stderr, once it and all its children are gone."""
        children = self.children()
        stderr = self.stderr.read()
        self.process.join(SECONDS_AT_MOST)
        end = time.monotonic() + SECONDS_AT_MOST
        while any(is_running(child) for child in children):
            assert time.monotonic() < end
            time.sleep(0.01)
        assert self.process.exitcode is not None
        return self.process.exitcode, stderr

    def kill(self) -> None:
        """End what is left of it."""
        if self.process.is_alive():
            self.send(signal.SIGKILL)
        self.process.join()
        self.stderr.close()

    def children(self) -> list[int]:
        try:
            tasks = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
            return [int(each) for each in tasks.read_text().split()]
        except OSError:
            return []

    def saved_step(self) -> int | None:
        checkpoint, damages = load_newest_checkpoint(self.config.run.dir)
        assert not damages
        return None if checkpoint is None else checkpoint.state["step"]


def run_command(*arguments: object, cwd: Path | None = None) -> CompletedProcess[str]:
    """Run `byola-rq ARGUMENTS`, forked as in `Run`, to its end."""
    given = [str(each) for each in arguments]
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
        files = (stdout.fileno(), stderr.fileno())
        process = FORK.Process(target=become, args=(given, *files, cwd))
        process.start()
        process.join(5 * SECONDS_AT_MOST)
        assert process.exitcode is not None
        stdout.seek(0)
        stderr.seek(0)
        return CompletedProcess(given, process.exitcode, stdout.read(), stderr.read())


def become(arguments: list[str], stdout: int, stderr: int, cwd: Path | None = None) -> None:
    """Make this process `byola-rq ARGUMENTS`."""
    os.setsid()
    os.chdir(cwd or ROOT)
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    sys.stdout, sys.stderr = open(1, "w"), open(2, "w", buffering=1)  # noqa: SIM115
    main(arguments)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def moved(config: Config, run_dir: Path, *overrides: str) -> Config:
    path = run_dir.with_suffix(".base.yaml")
    path.write_text(config.to_yaml())
    return load_config(path, [f"run.dir={run_dir}", *overrides])


def model_bytes(config: Config) -> bytes:
    return (config.run.dir / "encoder.safetensors").read_bytes()
