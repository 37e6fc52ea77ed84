"""Worker processes that hang, crash, run out of memory: the others' results come, in order."""

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from byola_rq.runtime import workers
from byola_rq.runtime.sandbox import DONE, Failure, Limits, receive
from byola_rq.runtime.workers import WorkerError, count_cores, map_in_processes
from tests.conftest import ROOT
from tests.refusal import refused
from tests.runtime.worker_tasks import Unloadable, work


def run(
    items: list[object], *, num_workers: int = 2, seconds: float = 20, gigabytes: float = 0.5
) -> list[object]:
    limits = Limits(seconds, gigabytes)
    results = map_in_processes(work, items, num_workers=num_workers, limits=limits)
    return [each if isinstance(each, Failure) else each.decode() for each in results]


def test_results_come_in_order_whatever_their_time() -> None:
    items = [f"sleep:{0.3 if number % 5 == 0 else 0}" for number in range(20)]
    assert run(items, num_workers=3) == [f"done {item}" for item in items]


def test_every_end_of_a_worker_is_a_failure_of_its_item_alone() -> None:
    told = {
        "abort": "signal 6",
        "segfault": "signal 11",
        "exit:7": "exit code 7",
        "signal:9": "signal 9",
        "sleep:600": " 1 s",
        "memory:2": " 0.5 GB",
        "error": "not so good",
        "bug": "KeyError: 'lost'",
    }
    items = [each for bad in told for each in (f"good {bad}", bad)] + ["good end"]
    for item, result in zip(items, run(items, seconds=1), strict=True):
        if item in told:
            assert isinstance(result, Failure), item
            assert told[item] in result.reason
        else:
            assert result == f"done {item}"


def test_an_item_that_ends_its_worker_before_it_is_begun() -> None:
    first, failure, last = run(["a", Unloadable(), "b"], num_workers=1)
    assert (first, last) == ("done a", "done b")
    assert isinstance(failure, Failure)
    assert "exit code 3" in failure.reason


def test_an_answer_is_bytes_whatever_they_are(tmp_path: Path) -> None:
    """A worker that a file has taken over decides nothing in this process by its answers."""
    answers = map_in_processes(
        work, [f"pickle:{tmp_path / 'mark'}"], num_workers=1, limits=Limits(20, 0.5)
    )
    (answer,) = answers
    assert isinstance(answer, bytes)
    assert not (tmp_path / "mark").exists()
    pickle.loads(answer)
    assert (tmp_path / "mark").exists()


def test_an_answer_is_no_larger_than_its_worker_may_be() -> None:
    ours, theirs = multiprocessing.Pipe()
    for message in (DONE, b"0123456789"):
        theirs.send_bytes(message)
    assert receive(ours, Limits(gigabytes=1e-8)) == b"0123456789"
    for message in (DONE, b"0123456789!"):
        theirs.send_bytes(message)
    with pytest.raises(OSError, match="message length"):
        receive(ours, Limits(gigabytes=1e-8))


def test_a_worker_killed_from_outside_costs_no_item(tmp_path: Path) -> None:
    items = ["a", f"once:{tmp_path / 'mark'}", "b"]
    assert run(items, num_workers=1) == [f"done {item}" for item in items]
    assert (tmp_path / "mark").exists()


def test_memory_up_to_the_limit_is_there() -> None:
    assert run(["memory:0.3"]) == ["300000000"]


def test_results_waiting_for_a_slow_one_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "MAX_WAITING_BYTES", 5_000_000)
    taken = 0

    def items() -> Iterator[str]:
        nonlocal taken
        for item in ["sleep:1"] + ["megabytes:2"] * 40:
            taken += 1
            yield item

    results = map_in_processes(work, items(), num_workers=2, limits=Limits(20, 0.5))
    assert next(results) == b"done sleep:1"
    assert taken <= 1 + 3 + 2  # the slow one, 6 MB of others, and the next two at work
    assert len(list(results)) == 40


def test_nothing_is_left_when_the_results_are_not_wanted_any_more() -> None:
    results = map_in_processes(work, ["sleep:0"] * 50, num_workers=2, limits=Limits())
    next(results)
    before = multiprocessing.active_children()
    assert len(before) == 2
    results.close()
    assert multiprocessing.active_children() == []
    assert not any(Path(f"/proc/{process.pid}").exists() for process in before)


def test_workers_that_cannot_start_are_an_error() -> None:
    with refused(WorkerError, "unreachable") as caught:
        list(map_in_processes(Unloadable(), ["a"], num_workers=1, limits=Limits()))  # type: ignore[arg-type]
    assert caught.value.value.startswith("exit")


def test_no_items_no_results() -> None:
    assert run([]) == []


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores are chosen on Linux")
def test_cores_are_those_that_this_process_may_use() -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert count_cores() == 1
    finally:
        os.sched_setaffinity(0, before)


SCRIPT = """
import sys
from byola_rq.runtime.sandbox import Limits
from byola_rq.runtime.workers import map_in_processes
from tests.runtime.worker_tasks import work

if __name__ == "__main__":
    items = sys.argv[1:]
    for result in map_in_processes(work, items, num_workers=2, limits=Limits(1, 0.5)):
        print(result.decode(), flush=True)
"""


def start(tmp_path: Path, *items: str) -> subprocess.Popen[str]:
    (tmp_path / "script.py").write_text(SCRIPT)
    return subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py"), *items],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,  # a group of its own, as a terminal gives it
    )


def group_of(process: subprocess.Popen[str]) -> list[int]:
    """Living processes of the group that `process` leads."""
    pids = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == process.pid and fields[0] != "Z":
            pids.append(int(stat.parent.name))
    return pids


def assert_group_ends(process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 20
    while group_of(process) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert group_of(process) == []


def test_what_decoders_say_is_not_heard(tmp_path: Path) -> None:
    process = start(tmp_path, "print", "a")
    out, err = process.communicate(timeout=60)
    assert out.split("\n")[:2] == ["done print", "done a"]
    assert err == ""


def test_ctrl_c_reaches_the_caller_alone(tmp_path: Path) -> None:
    process = start(tmp_path, "first", *["sleep:0.2"] * 100)
    assert process.stdout is not None
    assert process.stdout.readline() == "done first\n"
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert err.count("Traceback") == 1, err  # the script's own KeyboardInterrupt
    assert_group_ends(process)


def test_workers_end_with_a_caller_that_is_killed(tmp_path: Path) -> None:
    # One is at work that would take for ever.
    process = start(tmp_path, "first", "sleep:600", "a")
    assert process.stdout is not None
    assert process.stdout.readline() == "done first\n"
    assert len(group_of(process)) >= 3
    process.kill()
    process.wait()
    assert_group_ends(process)
