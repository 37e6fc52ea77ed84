"""Jobs of several processes under torchrun, on the CPU over gloo, to be disturbed from outside."""

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from tests.conftest import ROOT
from tests.run_process import is_running

SECONDS_AT_MOST = 180  # far more than anything here takes, the start of the processes included
_MARK = "BYOLA_RQ_TEST_JOB"  # in the environment of a job's processes, which are in many groups


class Torchrun:
    """`torchrun ARGUMENTS` on this machine; leaving its `with` block kills what is left of it.

    Args:
        arguments: What torchrun starts: a script, or `-m` and a module, then its own arguments.
        num_processes: Ranks.
        folder: For what it says; made where missing.
        max_restarts: How often torchrun starts all ranks again after one has failed.
        environment: Variables beside those of the tests.
    """

    def __init__(
        self,
        arguments: Sequence[object],
        num_processes: int,
        folder: Path,
        max_restarts: int = 0,
        environment: dict[str, str] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.mark = uuid.uuid4().hex
        # Files: a pipe would fill, and stay open as long as any process of the job lives.
        self.stdout, self.stderr = (folder / f"{self.mark}.{name}" for name in ("out", "err"))
        options = ["--standalone", f"--nproc-per-node={num_processes}"]
        with self.stdout.open("w") as stdout, self.stderr.open("w") as stderr:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "torch.distributed.run", *options),
                    *(f"--max-restarts={max_restarts}", *map(str, arguments)),
                ],
                stdout=stdout,
                stderr=stderr,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env={
                    **os.environ,
                    # As in the tests' own process: the number of threads decides about last bits.
                    "OMP_NUM_THREADS": "1",
                    "CUDA_VISIBLE_DEVICES": "",
                    "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), _python_path()])),
                    _MARK: self.mark,
                    **(environment or {}),
                },
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()

    def pids(self) -> dict[int, int]:
        """Process of each rank that is there now; after a restart they are others."""
        pids: dict[int, int] = {}
        for pid in _children(self.process.pid):
            environment = _environment(pid)
            # Between fork and exec a child still has its parent's.
            if _MARK in environment and "RANK" in environment and is_running(pid):
                pids[int(environment["RANK"])] = pid
        return dict(sorted(pids.items()))

    def wait_for(self, is_there: Callable[[], object]) -> None:
        """Wait until `is_there()` is true, while the job runs."""
        end = time.monotonic() + SECONDS_AT_MOST
        while not is_there():
            assert self.process.poll() is None, self.stderr.read_text()
            assert time.monotonic() < end, self.stderr.read_text()
            time.sleep(0.005)

    def send(self, number: int, rank: int | None = None) -> None:
        """Send a signal to one rank, or to torchrun, which forwards SIGTERM and SIGINT to all."""
        os.kill(self.process.pid if rank is None else self.pids()[rank], number)

    def end(self) -> tuple[int, str, str]:
        """Status, stdout and stderr of torchrun and all ranks, once all of them are gone."""
        end = time.monotonic() + SECONDS_AT_MOST
        try:
            self.process.wait(SECONDS_AT_MOST)
            while self._left():
                assert time.monotonic() < end, "a process outlives its job"
                time.sleep(0.01)
        except (AssertionError, subprocess.TimeoutExpired) as error:
            self.kill()
            raise AssertionError(f"{error}\n{self.stderr.read_text()}") from error
        return self.process.returncode, self.stdout.read_text(), self.stderr.read_text()

    def kill(self) -> None:
        """SIGKILL to every process of the job, until none is left; torchrun first."""
        self.process.kill()
        self.process.wait()
        end = time.monotonic() + SECONDS_AT_MOST
        while left := self._left():
            assert time.monotonic() < end, "a process outlives SIGKILL"
            for pid in left:
                try:
                    os.kill(pid, 9)
                except ProcessLookupError:
                    continue
            time.sleep(0.01)

    def _left(self) -> list[int]:
        """List all processes of the job and their children."""
        pids = (int(each.name) for each in Path("/proc").iterdir() if each.name.isdecimal())
        return [pid for pid in pids if _environment(pid).get(_MARK) == self.mark]


def _python_path() -> str | None:
    return os.environ.get("PYTHONPATH")


def _children(pid: int) -> list[int]:
    """Child processes, whichever thread has started them."""
    try:
        files = list(Path(f"/proc/{pid}/task").glob("*/children"))
        return [int(child) for file in files for child in file.read_text().split()]
    except OSError:
        return []


def _environment(pid: int) -> dict[str, str]:
    """Return the environment of a process; empty if it has ended or is another user's."""
    try:
        text = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
    except OSError:
        return {}
    return dict(each.split("=", 1) for each in text.split("\0") if "=" in each)
