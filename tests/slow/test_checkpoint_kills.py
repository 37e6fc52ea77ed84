"""Checkpoints and tables on a disk that refuses: nothing whole is lost, and the run goes on."""

import errno
import os
import re
import signal
from pathlib import Path

import pytest

from byola_rq.config import Config
from byola_rq.runs.checkpoint import find_damage
from byola_rq.runs.metrics import StepTable, read_metrics
from byola_rq.train.loop import pretrain
from tests.run_process import Run, model_bytes, moved

resource = pytest.importorskip("resource")
NO_LIMIT = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


def limited(num_bytes: int) -> tuple[int, int]:
    return (num_bytes, resource.RLIM_INFINITY)


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="only Linux changes others' limits")
def test_a_run_outlives_a_full_disk(small_config: Config, tmp_path: Path) -> None:
    overrides = ("train.max_steps=30", "checkpoint.keep=1")
    whole = moved(small_config, tmp_path / "whole", *overrides)
    pretrain(whole)
    run = Run(moved(small_config, tmp_path / "full", *overrides), tmp_path)
    pid, run_dir = run.process.pid, run.config.run.dir
    assert pid is not None
    try:
        run.wait_for((run_dir / "step-00000002").exists)
        # No file may grow beyond 100 bytes: neither weights nor metrics.csv find room.
        resource.prlimit(pid, resource.RLIMIT_FSIZE, limited(100))
        said: list[str] = []
        wanted = (f"WARNING: {run_dir / 'step-'}", f"{run_dir / 'metrics.csv'}: ")
        while not all(any(each in line for line in said) for each in wanted):
            said.append(run.stderr.readline())
            assert said[-1], said
        failed = next(line for line in said if wanted[0] in line)
        kept = sorted(run_dir.glob("step-*"))
        assert len(kept) == 1
        assert find_damage(kept[0]) is None
        assert re.search(rf"\bstep {int(kept[0].name[5:])}\b", failed)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, NO_LIMIT)
        status, stderr = run.end()
    finally:
        run.kill()
    assert status == 0, stderr
    assert "Traceback" not in "".join(said) + stderr
    assert model_bytes(run.config) == model_bytes(whole)
    assert [row["loss"] for row in read_metrics(run_dir / "metrics.csv")] == [
        row["loss"] for row in read_metrics(whole.run.dir / "metrics.csv")
    ]
    assert not list(run_dir.glob(".*.partial"))


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="only Linux changes others' limits")
def test_a_stop_on_a_full_disk_says_what_is_saved(small_config: Config, tmp_path: Path) -> None:
    run = Run(moved(small_config, tmp_path / "full", "train.max_steps=100"), tmp_path)
    try:
        run.wait_for((run.config.run.dir / "step-00000002").exists)
        assert run.process.pid is not None
        resource.prlimit(run.process.pid, resource.RLIMIT_FSIZE, limited(100))
        run.send(signal.SIGTERM)
        status, stderr = run.end()
    finally:
        run.kill()
    assert status == 143, stderr
    step = run.saved_step()
    last = stderr.splitlines()[-1]
    assert re.findall(r"step (\d+)", last)[-1] == str(step)


def test_rows_that_found_no_room_are_written_later(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    table = StepTable(path, ("step", "text"), last_step=0)
    table.append([{"step": 1, "text": "a" * 50}])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        for step in (2, 3):
            with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
                table.append([{"step": step, "text": "b" * 50}])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    table.append([{"step": 4, "text": "c"}])
    lines = path.read_text().splitlines()
    assert lines == ["step,text", f"1,{'a' * 50}", f"2,{'b' * 50}", f"3,{'b' * 50}", "4,c"]
