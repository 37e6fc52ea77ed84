"""A csv of steps: what is no such file is refused by name, and a link is not followed."""

from pathlib import Path

import pytest

from byola_rq.errors import CheckpointError, Code
from byola_rq.runs.metrics import COLUMNS, StepTable, read_metrics
from tests.refusal import refused

ROW = dict.fromkeys(COLUMNS, "1")


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"\xff\n", "unreadable"),
        (b'step,"loss\n', "unreadable"),
        (b"step,loss\n", "malformed"),
        (b"\n", "malformed"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, code: Code) -> None:
    path = tmp_path / "metrics.csv"
    path.write_bytes(content)
    with refused(CheckpointError, code, path):
        read_metrics(path)


@pytest.mark.parametrize("step", ["x", "", "\0", "-1", "1.0", "9" * 5000])
def test_rows_of_no_step_are_left_out(tmp_path: Path, step: str) -> None:
    table = StepTable(tmp_path / "metrics.csv", COLUMNS, 1)
    table.append([{**ROW, "step": step}, ROW])
    assert read_metrics(table.path) == [ROW]
    StepTable(table.path, COLUMNS, 1).append([ROW])
    assert read_metrics(table.path) == [ROW, ROW]


def test_rows_go_on_in_a_file_of_their_own(tmp_path: Path) -> None:
    path, others = tmp_path / "metrics.csv", tmp_path / "others"
    StepTable(others, COLUMNS, 0).append([ROW])
    before = others.read_bytes()
    path.symlink_to(others)
    table = StepTable(path, COLUMNS, 1)
    table.append([ROW])
    assert read_metrics(path) == [ROW, ROW]
    assert others.read_bytes() == before
    path.unlink()
    path.symlink_to(others)
    with pytest.raises(OSError, match="link"):
        table.append([ROW])
    assert others.read_bytes() == before
