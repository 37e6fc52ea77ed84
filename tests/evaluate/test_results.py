import csv
import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from evaluate.results import (
    PredictionRow,
    ReportError,
    append_run,
    open_folder,
    predictions_path,
    read_predictions,
    read_results,
    results_path,
)
from tests.evaluate.conftest import ROW

COLUMNS = (
    "run_id,date,model,weights_sha256,task,split,fold,seed,probe,probe_params,metric,score,"
    "n_train,n_valid,n_test,n_classes,n_skipped,embedding_dim,norm,unit_seconds,fit_seconds,"
    "embed_seconds,byola_rq,torch,sklearn,device"
)
ROOT = Path(__file__).parents[2]

QUOTED = dataclasses.replace(
    ROW, run_id="r1", model='a "b", c', probe_params='{"C": 0.1}', score=66.6667, n_test=3
)
PREDICTIONS = [
    PredictionRow("x/Ü, 1.wav", "owl, small", "owl, small", "", 0),
    PredictionRow("2.wav", "梟", "梟", "", 0),
    PredictionRow("3.wav", "梟", "owl, small", "", 0),
]


@pytest.fixture
def out(tmp_path):
    open_folder(tmp_path / "out")
    append_run(tmp_path / "out", [QUOTED], PREDICTIONS)
    return tmp_path / "out"


def test_columns_are_those_of_the_published_format(out):
    assert results_path(out).read_text().splitlines()[0] == COLUMNS
    assert predictions_path(out, "r1").read_text().splitlines()[0] == (
        "file_name,label,prediction,fold,seed"
    )


def test_what_was_written_is_read(out):
    second = dataclasses.replace(QUOTED, run_id="r2", fold="3", seed=7)
    append_run(out, [second], PREDICTIONS[:1])
    assert read_results(out) == [QUOTED, second]
    assert read_predictions(out, "r1") == PREDICTIONS
    assert read_predictions(out, "r2") == PREDICTIONS[:1]
    with results_path(out).open(newline="", encoding="utf-8") as file:
        assert [row["model"] for row in csv.DictReader(file)] == [QUOTED.model] * 2


def test_folder_without_results_has_none(tmp_path):
    assert read_results(tmp_path) == []


def test_foreign_header(out):
    text = results_path(out).read_text()
    results_path(out).write_text(text.replace("weights_sha256,", ""))
    with pytest.raises(ReportError, match=r"results\.csv, row 1: the header must be run_id,date"):
        open_folder(out)


@pytest.mark.parametrize("num_bytes", [1, 10, 100])
def test_torn_last_line(out, num_bytes):
    append_run(out, [dataclasses.replace(QUOTED, run_id="r2")], PREDICTIONS)
    os.truncate(results_path(out), results_path(out).stat().st_size - num_bytes)
    with pytest.raises(ReportError, match=r"results\.csv, row 3: the last line must be whole"):
        open_folder(out)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("66.6667", "two thirds", "row 2: score: .*two thirds"),
        (",cpu\n", "\n", "row 2: a row must have 26 fields; got 25"),
        ('"a ""b"", c"', '"a "b"', "not a csv"),
    ],
)
def test_row_that_is_not_ours(out, old, new, message):
    text = results_path(out).read_text()
    assert old in text
    results_path(out).write_text(text.replace(old, new))
    with pytest.raises(ReportError, match=message):
        read_results(out)


def test_missing_predictions(out):
    with pytest.raises(ReportError, match=r"r9\.csv: cannot be read"):
        read_predictions(out, "r9")


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_folder_that_cannot_be_written(tmp_path, place):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ReportError, match=f"{place}: the output folder must be writable"):
        open_folder(tmp_path / place)
    assert (tmp_path / "file").read_text() == "in the way"


def run_python(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )


APPEND = """
import dataclasses, resource, sys
from pathlib import Path
from evaluate.results import PredictionRow, append_run, open_folder, read_results
template, out, name, limit = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
row = read_results(template)[0]
open_folder(out)
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
for number in range(20):
    append_run(out, [dataclasses.replace(row, run_id=f"{name}-{number}")],
               [PredictionRow("a.wav", "x", "x", "", 0)])
"""


def test_write_that_fails_leaves_whole_rows(out):
    """The disk is full in the middle of a row: a limit on the file's size stands in for it."""
    size = results_path(out).stat().st_size
    process = run_python(APPEND, out, out, "full", size + 1000)
    assert process.wait() != 0
    assert "OSError" in process.stderr.read()
    names = [row.run_id for row in read_results(out)]
    assert names == ["r1", *(f"full-{number}" for number in range(len(names) - 1))]
    assert 1 < len(names) < 20


def test_calls_that_share_a_folder_lose_no_row(out, tmp_path):
    shared = tmp_path / "shared"
    processes = [run_python(APPEND, out, shared, name, 0) for name in "abc"]
    assert [process.wait() for process in processes] == [0, 0, 0]
    names = [row.run_id for row in read_results(shared)]  # one header, or reading would fail
    assert sorted(names) == sorted(f"{name}-{number}" for name in "abc" for number in range(20))
