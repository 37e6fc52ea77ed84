"""The watchdog, in processes that really hang: their status, and whose stacks are told."""

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from byola_rq.config import Config, load_config
from byola_rq.runtime.watchdog import STALLED_STATUS, Watchdog
from tests.conftest import ROOT
from tests.run_process import SECONDS_AT_MOST, Run, is_running

LIMIT = 1.2  # seconds

BEGIN = f"""
import ctypes, sys, time
from pathlib import Path
from byola_rq.config import Config, load_config
from byola_rq.runtime.watchdog import Watchdog

folder = Path(sys.argv[1])
limit = {LIMIT}
"""

LOADING = """
from contextlib import closing
import numpy as np
from byola_rq.corpus.segments import SegmentCorpus, find_clips
from byola_rq.corpus.decoded_clips import measure_clips
from byola_rq.corpus.loading import load_batches

class HangingCorpus(SegmentCorpus):
    def load_into(self, segments, items):
        if len(sys.argv) > 3 and 5 in items[:, 1]:
            hangs_here()
        return super().load_into(segments, items)

def hangs_here():
    ctypes.CDLL(None).pause()

if __name__ == "__main__":
    found, _ = find_clips([Path(sys.argv[2])])
    clips = measure_clips(found, 16000, lambda: None)
    corpus = HangingCorpus(clips, segment_samples=16000, seed=0)
    items = [np.array([[0, n % len(clips)], [0, (n + 1) % len(clips)]]) for n in range(10**5)]
    batches = load_batches(corpus, items, batch_size=2, num_workers=2)
    with closing(batches), Watchdog(limit / 60, folder) as watchdog:
        for batch in batches:
            watchdog.heartbeat("waiting for data")
            print("batch", flush=True)
            time.sleep(0.01)
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Runs a script, with the folder for reports as its argument."""
    processes: list[subprocess.Popen[str]] = []

    def start_script(body: str, *arguments: str) -> subprocess.Popen[str]:
        path = tmp_path / "script.py"
        path.write_text(BEGIN + body)
        processes.append(
            subprocess.Popen(
                [sys.executable, str(path), str(tmp_path), *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.curdir},
            )
        )
        return processes[-1]

    yield start_script
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, stderr = process.communicate(timeout=SECONDS_AT_MOST)
    return process.returncode, stderr


HANGING = {
    "sleep": ("time.sleep(1000)", "hangs_here"),
    "call to C": ("ctypes.CDLL(None).pause()", "hangs_here"),
    "another thread's lock": (
        "import threading; lock = threading.Lock(); lock.acquire(); lock.acquire()",
        "hangs_here",
    ),
    "endless work": ("\n    while True: pass", "hangs_here"),
}


@pytest.mark.parametrize("way", HANGING)
def test_a_process_that_hangs_is_ended_and_says_where(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path, way: str
) -> None:
    statement, name = HANGING[way]
    process = start(
        f"def {name}(): {statement}\n"
        "with Watchdog(limit / 60, folder) as watchdog:\n"
        "    watchdog.heartbeat('step 7')\n"
        f"    {name}()\n"
    )
    status, stderr = end(process)
    assert status == STALLED_STATUS == 75
    report = tmp_path / "stalled-rank0.txt"
    line = stderr.splitlines()[0]
    assert re.match(
        rf"error: rank 0 of 1 \(process {process.pid} on \S+\).* step 7, .* 0\.02\d* .*"
        r"at most 0\.02 \(run\.stall_minutes\)",
        line,
    )
    assert str(report) in line
    for text in (stderr, report.read_text()):
        assert f"in {name}\n" in text
        assert "step 7" in text
    assert "Traceback" not in stderr


def test_a_report_comes_after_earlier_ones(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    (tmp_path / "stalled-rank0.txt").write_text("of yesterday\n")
    status, _ = end(start("with Watchdog(limit / 60, folder): time.sleep(1000)"))
    assert status == STALLED_STATUS
    text = (tmp_path / "stalled-rank0.txt").read_text()
    assert text.startswith("of yesterday\n")
    assert "stalled: starting" in text


@pytest.mark.parametrize("place", ["a file", "nothing"])
def test_a_report_that_cannot_be_written_ends_it_too(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path, place: str
) -> None:
    where = {"a file": "Path('/proc')", "nothing": "folder / 'nowhere'"}[place]
    status, stderr = end(start(f"with Watchdog(limit / 60, {where}): time.sleep(1000)"))
    assert status == STALLED_STATUS
    assert "stalled: starting" in stderr
    assert "cannot be written" in stderr
    assert "Traceback" not in stderr
    assert not (tmp_path / "nowhere").exists()


def test_stderr_that_hangs_ends_it_too(tmp_path: Path) -> None:
    """Nobody reads the pipe, and it is full."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    while True:
        try:
            os.write(writer, b" " * 4096)
        except BlockingIOError:
            break
    os.set_blocking(writer, True)
    script = f"{BEGIN}with Watchdog(limit / 60, folder): time.sleep(1000)"
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stderr=writer)
    os.close(writer)
    try:
        assert process.wait(timeout=SECONDS_AT_MOST) == STALLED_STATUS
    finally:
        process.kill()
        os.close(reader)


def loaders(process: subprocess.Popen[str]) -> list[int]:
    tasks = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [int(pid) for pid in tasks.split()]


def test_a_loader_that_is_stopped_is_named(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path, sounds: Path
) -> None:
    process = start(LOADING, str(sounds))
    assert process.stdout is not None
    assert process.stdout.readline() == "batch\n"
    stopped, other = loaders(process)
    os.kill(stopped, signal.SIGSTOP)
    status, stderr = end(process)
    assert status == STALLED_STATUS
    report = (tmp_path / "stalled-rank0.txt").read_text()
    for text in (stderr, report):
        assert "stalled: waiting for data" in text
        assert f"loader process {stopped} is stopped\n  it does not answer\n" in text
        theirs = text[text.index(f"loader process {other} is") :]
        assert "in _worker_loop" in theirs.split("loader process")[1]
        assert re.search(r'loading\.py", line \d+ in load_batches', text)
    until = time.monotonic() + SECONDS_AT_MOST
    while any(is_running(pid) for pid in (stopped, other)):
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_loader_that_hangs_says_where(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path, sounds: Path
) -> None:
    status, stderr = end(start(LOADING, str(sounds), "hang"))
    assert status == STALLED_STATUS
    for text in (stderr, (tmp_path / "stalled-rank0.txt").read_text()):
        ours, *theirs = text.split("loader process")
        assert "in hangs_here" not in ours
        assert len(theirs) == 2
        assert any("in hangs_here\n" in each for each in theirs)


def test_a_healthy_process_is_left_alone(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    status, stderr = end(
        start(
            "began = time.monotonic()\n"
            "with Watchdog(limit / 60, folder) as watchdog:\n"
            "    while time.monotonic() < began + 3 * limit:\n"
            "        watchdog.heartbeat('step')\n"
            "        time.sleep(0.01)\n"
            "    with watchdog.paused():\n"
            "        with watchdog.paused(): pass\n"
            "        time.sleep(1.5 * limit)\n"
            "time.sleep(1.5 * limit)\n"  # after the end
        )
    )
    assert (status, stderr) == (0, "")
    assert not (tmp_path / "stalled-rank0.txt").exists()


def test_after_a_pause_it_watches_again(start: Callable[..., subprocess.Popen[str]]) -> None:
    status, stderr = end(
        start(
            "with Watchdog(limit / 60, folder) as watchdog:\n"
            "    watchdog.heartbeat('saving')\n"
            "    with watchdog.paused(): pass\n"
            "    time.sleep(1000)\n"
        )
    )
    assert status == STALLED_STATUS
    assert "stalled: saving" in stderr


def test_a_process_that_was_suspended_has_not_hung(
    start: Callable[..., subprocess.Popen[str]],
) -> None:
    process = start(
        "with Watchdog(limit / 60, folder) as watchdog:\n"
        "    watchdog.heartbeat('step')\n"
        "    print('ready', flush=True)\n"
        "    sys.stdin.readline()\n"
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGSTOP)
    time.sleep(1.5 * LIMIT)
    process.send_signal(signal.SIGCONT)
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    assert end(process) == (0, "")


def test_stacks_come_also_where_a_call_keeps_pythons_lock(
    start: Callable[..., subprocess.Popen[str]],
) -> None:
    process = start(
        "def hangs_here():\n"
        "    ctypes.PyDLL(None).pause()\n"  # unlike CDLL, which lets other threads run
        "with Watchdog(limit / 60, folder):\n"
        "    time.sleep(limit / 2)\n"  # until the first look
        "    hangs_here()\n"
    )
    assert process.stderr is not None
    said, until = "", time.monotonic() + SECONDS_AT_MOST
    while "in hangs_here" not in said:
        assert select.select([process.stderr], [], [], max(until - time.monotonic(), 0))[0], said
        said += process.stderr.readline()
    assert process.poll() is None


RANKS = """
import torch
import torch.distributed as dist
from byola_rq.runtime.signals import RUN_SIGNALS, stop_on_signals
from byola_rq.runtime.distributed import process_group, rank

def hangs_here():
    time.sleep(1000)

with stop_on_signals(RUN_SIGNALS) as stop, process_group(torch.device("cpu")), stop.deferred():
    with Watchdog(limit / 60, folder) as watchdog:
        watchdog.heartbeat("step 3")
        if rank() == 1:
            hangs_here()
        dist.all_reduce(torch.ones(1))
"""


def test_of_several_ranks_the_one_that_hangs_says_so(tmp_path: Path) -> None:
    """Though it heeds no SIGTERM, which torchrun sends it when another one was sooner to end."""
    script = tmp_path / "script.py"
    script.write_text(BEGIN + RANKS)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    process = subprocess.run(
        [*command, str(script), str(tmp_path)],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        timeout=3 * SECONDS_AT_MOST,
    )
    assert process.returncode == 1
    assert re.search(r"exitcode +: 75 ", process.stderr)
    report = (tmp_path / "stalled-rank1.txt").read_text()
    assert "rank 1 of 2 (process" in report
    assert "in hangs_here\n" in report
    # The other one was as soon, or was told by the loss of its peer.
    other = tmp_path / "stalled-rank0.txt"
    assert "in all_reduce\n" in (other.read_text() if other.exists() else process.stderr)


def test_a_run_that_hangs_is_ended(small_config: Config, tmp_path: Path) -> None:
    """Needs the watchdog in pretrain."""
    path = tmp_path / "base.yaml"
    path.write_text(small_config.to_yaml())
    overrides = ["data.workers=2", "train.max_steps=1000", "run.stall_minutes=0.05"]
    run = Run(load_config(path, overrides), tmp_path)
    try:
        run.wait_for_steps(3)
        os.kill(run.children()[0], signal.SIGSTOP)
        status, stderr = run.end()
    finally:
        run.kill()
    assert status == STALLED_STATUS
    report = (small_config.run.dir / "stalled-rank0.txt").read_text()
    for text in (stderr, report):
        assert re.search(r"stalled: .*waiting for its data, for 0\.0\d+ minutes", text)
        assert re.search(r"loader process \d+ is stopped\n  it does not answer", text)


def test_without_a_limit_nothing_is_watched(tmp_path: Path) -> None:
    import threading

    before = threading.active_count()
    with Watchdog(None, tmp_path) as watchdog:
        watchdog.heartbeat("step")
        with watchdog.paused():
            assert threading.active_count() == before
    with Watchdog(30, tmp_path) as watchdog:
        assert threading.active_count() == before + 1
    assert threading.active_count() == before


def test_an_error_passes_through(tmp_path: Path) -> None:
    with pytest.raises(KeyError), Watchdog(30, tmp_path) as watchdog, watchdog.paused():
        raise KeyError("x")
