import csv
import dataclasses
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from evaluate.reports.predictions import (
    PredictionRow,
    Predictions,
    predictions_path,
    read_predictions,
)
from evaluate.reports.records import ReportError
from evaluate.reports.results import append_fold, finished, open_folder, read_results, results_path
from tests.conftest import ROOT
from tests.evaluate.conftest import ROW
from tests.refusal import refused

COLUMNS = (
    "run_id,date,model,weights_sha256,task,split,fold,seed,probe,probe_params,metric,score,"
    "n_train,n_valid,n_test,n_classes,n_skipped,embedding_dim,norm,unit_seconds,fit_seconds,"
    "embed_seconds,byola_rq,torch,sklearn,device,model_version,label_fraction,n_unlabelled"
)
PREDICTION_COLUMNS = ["file_name", "label", "prediction", "fold", "seed"]
NOBODY = 65534

QUOTED = dataclasses.replace(
    ROW, run_id="r1", model='a "b", c', probe_params='{"C": 0.1}', score=66.6667, n_test=3
)
PREDICTIONS = [
    PredictionRow("x/Ü, 1.wav", "owl, small", "owl, small", "", 0),
    PredictionRow("2\r\n.wav", "梟", "梟", "", 0),
    PredictionRow("3.wav", "梟", "owl, small", "", 0),
]


def fold_row(run_id, fold, seed=0):
    return dataclasses.replace(ROW, run_id=run_id, fold=fold, seed=seed, split="folds")


def clips(fold, prediction, seed=0, names="ab"):
    return [PredictionRow(f"{fold}{name}.wav", "x", prediction, fold, seed) for name in names]


@pytest.fixture
def out(tmp_path):
    open_folder(tmp_path / "out")
    append_fold(tmp_path / "out", [QUOTED], PREDICTIONS)
    return tmp_path / "out"


def test_columns_are_those_of_the_published_format(out):
    assert results_path(out).read_text().splitlines()[0] == COLUMNS
    header = predictions_path(out, "r1").read_text().splitlines()[0]
    assert header.split(",") == PREDICTION_COLUMNS


def test_what_was_written_is_read(out):
    second = dataclasses.replace(QUOTED, run_id="r2", fold="3", seed=7)
    of_second = [PredictionRow("4.wav", "梟", "梟", "3", 7)]
    append_fold(out, [second], of_second)
    assert read_results(out) == [QUOTED, second]
    assert read_predictions(out, "r1") == Predictions((), tuple(PREDICTIONS))
    assert read_predictions(out, "r2") == Predictions((), tuple(of_second))
    with results_path(out).open(newline="", encoding="utf-8") as file:
        assert [row["model"] for row in csv.DictReader(file)] == [QUOTED.model] * 2


def test_scores_of_classes_keep_five_digits(out):
    classes = ("rain, light", "wind")
    row = dataclasses.replace(ROW, run_id="m", metric="mAP")
    scores = (0.123456789, -np.inf)
    append_fold(out, [row], [PredictionRow("1.wav", "wind,rain", "", "", 0, scores)], classes)
    (read,) = read_predictions(out, "m").rows
    assert read.scores == (0.12346, -np.inf)
    assert read_predictions(out, "m").classes == classes
    header = predictions_path(out, "m").read_text().splitlines()[0]
    assert header == 'file_name,label,prediction,fold,seed,"score:rain, light",score:wind'


def test_folds_of_a_run_add_up(out):
    assert finished(out, "f") == set()
    append_fold(out, [fold_row("f", "1"), fold_row("f", "1", 1)], clips("1", "x"))
    append_fold(out, [fold_row("f", "2")], clips("2", "x"))
    assert finished(out, "f") == {("1", 0), ("1", 1), ("2", 0)}
    assert finished(out, "r1") == {("", 0)}
    assert read_predictions(out, "f").rows == (*clips("1", "x"), *clips("2", "x"))


def test_fold_that_is_there_already_counts_as_it_is(out):
    append_fold(out, [fold_row("f", "1")], clips("1", "x"))
    again = dataclasses.replace(fold_row("f", "1"), score=1.0)
    append_fold(out, [again, fold_row("f", "1", 1)], clips("1", "y") + clips("1", "y", seed=1))
    assert [(row.seed, row.score) for row in read_results(out)[1:]] == [(0, 0.0), (1, 0.0)]
    assert read_predictions(out, "f").rows == (*clips("1", "x"), *clips("1", "y", seed=1))


def test_predictions_that_a_killed_call_left_are_replaced(out, monkeypatch):
    """Killed between predictions and rows, with other clips than the next call has."""
    append_fold(out, [fold_row("f", "1")], clips("1", "x"))
    with monkeypatch.context() as patch:
        patch.setattr(
            "evaluate.reports.results._append_rows", lambda *_: (_ for _ in ()).throw(SystemExit)
        )
        with pytest.raises(SystemExit):
            append_fold(out, [fold_row("f", "2")], clips("2", "x", names="abc"))
    assert finished(out, "f") == {("1", 0)}
    append_fold(out, [fold_row("f", "2")], clips("2", "y"))
    assert read_predictions(out, "f").rows == (*clips("1", "x"), *clips("2", "y"))


@pytest.mark.parametrize(
    ("split", "limit"), [("given; limit 50", "50"), ("given", ""), ("10 folds; limit 3", "3")]
)
def test_limit_is_read_from_the_split(split, limit):
    assert dataclasses.replace(ROW, split=split).limit == limit


def test_name_that_is_no_utf8_does_not_cost_the_scores(out):
    name = os.fsdecode(b"\xff.wav")
    append_fold(out, [fold_row("f", "")], [PredictionRow(name, "x", "x", "", 0)])
    assert read_predictions(out, "f").rows[0].file_name == r"\xff.wav"


def test_folder_without_results_has_none(tmp_path):
    assert read_results(tmp_path) == []
    assert finished(tmp_path, "r1") == set()


def test_foreign_header(out):
    text = results_path(out).read_text()
    results_path(out).write_text(text.replace("weights_sha256,", ""))
    header = COLUMNS.replace("weights_sha256,", "").split(",")
    with refused(ReportError, "malformed", results_path(out), value=header) as caught:
        open_folder(out)
    assert "'weights_sha256'; got 'task'" in str(caught.value)


def test_a_summary_of_another_program_stays(tmp_path):
    (tmp_path / "summary.csv").write_text("name,score\n")
    with refused(ReportError, "exists", tmp_path / "summary.csv"):
        open_folder(tmp_path)


def test_a_spreadsheet_may_have_saved_it(out):
    rows = read_results(out)
    text = results_path(out).read_text()
    results_path(out).write_text("\ufeff" + text.replace("\n", "\r\n"), newline="")
    assert read_results(out) == rows


@pytest.mark.parametrize("num_lacking", [1, 2, 3])
def test_a_file_from_before_the_last_columns_is_read_and_added_to(out, num_lacking):
    lines = results_path(out).read_text().splitlines()
    older = [line.rsplit(",", num_lacking)[0] for line in lines]
    results_path(out).write_text("\n".join([*older, ""]))
    assert read_results(out) == [QUOTED]
    second = dataclasses.replace(ROW, run_id="r2", model_version="permissive-1")
    append_fold(out, [second], PREDICTIONS)
    assert read_results(out) == [QUOTED, second]
    assert results_path(out).read_text().splitlines()[0] == COLUMNS


@pytest.mark.parametrize("num_bytes", [1, 10, 100])
def test_torn_last_line(out, num_bytes):
    append_fold(out, [dataclasses.replace(QUOTED, run_id="r2")], PREDICTIONS)
    os.truncate(results_path(out), results_path(out).stat().st_size - num_bytes)
    with refused(ReportError, "cut", results_path(out)) as caught:
        open_folder(out)
    assert "row 3" in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "code", "key", "value"),
    [
        ("66.6667", "two thirds", "value", "score", "two thirds"),
        (",cpu,,1.0,0\n", "\n", "malformed", None, 25),
        ('"a ""b"", c"', '"a "b"', "malformed", None, None),
    ],
)
def test_row_that_is_not_valid(out, old, new, code, key, value):
    text = results_path(out).read_text()
    assert old in text
    results_path(out).write_text(text.replace(old, new))
    with refused(ReportError, code, results_path(out), key=key, value=value) as caught:
        read_results(out)
    assert value is None or "row 2" in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "code", "key", "value"),
    [
        ("seed\n", "seed,extra\n", "malformed", None, [*PREDICTION_COLUMNS, "extra"]),
        (",0\n", ",first\n", "value", "seed", "first"),
        (",0\n", "\n", "malformed", None, 4),
    ],
)
def test_predictions_that_are_not_valid(out, old, new, code, key, value):
    path = predictions_path(out, "r1")
    text = path.read_bytes().decode()
    assert old in text
    path.write_bytes(text.replace(old, new, 1).encode())
    with refused(ReportError, code, path, key=key, value=value) as caught:
        read_predictions(out, "r1")
    assert f"row {1 if 'extra' in new else 2}" in str(caught.value)


def test_missing_predictions(out):
    with refused(ReportError, "unreadable", predictions_path(out, "r9")):
        read_predictions(out, "r9")


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_folder_that_is_in_the_way(tmp_path, place):
    (tmp_path / "file").write_text("in the way")
    with refused(ReportError, "unwritable", tmp_path / place):
        open_folder(tmp_path / place)
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.fixture
def foreign_folder():
    """A folder of results, and this process made somebody whom file modes bind."""
    folder = Path(tempfile.mkdtemp())
    open_folder(folder)
    append_fold(folder, [QUOTED], PREDICTIONS)
    folder.chmod(0o755)
    is_root = os.geteuid() == 0
    if is_root:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
        os.seteuid(NOBODY)
    yield folder
    if is_root:
        os.seteuid(0)
    for path in (folder, folder / "predictions"):
        path.chmod(0o755)
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("place", "mode"), [("", 0o555), ("predictions", 0o555), ("results.csv", 0o444)]
)
def test_read_only_place_is_found_before_any_work(foreign_folder, place, mode):
    open_folder(foreign_folder)
    (foreign_folder / place).chmod(mode)
    with refused(ReportError, "unwritable", foreign_folder):
        open_folder(foreign_folder)
    assert len(read_results(foreign_folder)) == 1


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
from evaluate.reports.predictions import PredictionRow
from evaluate.reports.results import append_fold, open_folder, read_results
template, out, name, limit = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
num_clips = int(sys.argv[5])
row = read_results(template)[0]
open_folder(out)
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
for number in range(20):
    append_fold(out, [dataclasses.replace(row, run_id=name, fold=f"{name}{number}")],
                [PredictionRow(f"{clip}.wav", "x", "x", f"{name}{number}", 0)
                 for clip in range(num_clips)])
"""


@pytest.mark.parametrize(
    ("num_clips", "bytes_left", "full"),
    [(1, 1000, "results"), (400, 60_000, "predictions")],
)
def test_full_disk_leaves_both_files_as_they_were(out, num_clips, bytes_left, full):
    """A limit on the size of a file fails as a full disk does, in the middle of a write."""
    limit = results_path(out).stat().st_size + bytes_left
    process = run_python(APPEND, out, out, "f", limit, num_clips)
    _, errors = process.communicate()
    assert process.returncode == 1
    assert "WriteError" in errors.splitlines()[-1]
    assert str(results_path(out)) in errors.splitlines()[-1]
    folds = [row.fold for row in read_results(out)[1:]]
    assert folds == [f"f{number}" for number in range(len(folds))]
    assert 0 < len(folds) < 20
    tested = {row.fold for row in read_predictions(out, "f").rows}
    # Predictions come first: those of the row that found no room may be there, none may lack.
    assert tested - {f"f{len(folds)}"} == set(folds)
    assert (len(tested) == len(folds)) == (full == "predictions")
    names = {path.name for path in (out / "predictions").iterdir()}
    assert names == {"r1.csv", "f.csv"}


def test_calls_that_share_a_folder_lose_nothing(out, tmp_path):
    """Two of the three even share a run."""
    shared = tmp_path / "shared"
    processes = [run_python(APPEND, out, shared, name, 0, 3) for name in "aab"]
    assert [process.wait() for process in processes] == [0, 0, 0]
    keys = [(row.run_id, row.fold) for row in read_results(shared)]  # one header, or this fails
    assert sorted(keys) == sorted((name, f"{name}{n}") for name in "ab" for n in range(20))
    for name in "ab":
        clips = [(row.fold, row.file_name) for row in read_predictions(shared, name).rows]
        assert len(clips) == len(set(clips)) == 60


def test_no_name_is_a_formula_and_each_comes_back(tmp_path):
    folder = tmp_path / "odd"
    open_folder(folder)
    row = dataclasses.replace(ROW, run_id="r3", model="=1+1", n_test=2)
    predictions = [
        PredictionRow("@a\r.wav", "-x", "'=x", "", row.seed),
        PredictionRow("b.wav", "'x", "+1", "", row.seed),
    ]
    append_fold(folder, [row], predictions)
    assert read_results(folder) == [row]
    assert read_predictions(folder, "r3").rows == tuple(predictions)
    with results_path(folder).open(newline="", encoding="utf-8") as file:
        assert [record["model"] for record in csv.DictReader(file)] == ["'=1+1"]


def test_results_behind_a_link_are_refused(tmp_path):
    (others := tmp_path / "others").mkdir()
    for name in ("results.csv", "predictions"):
        (folder := tmp_path / f"out of {name}").mkdir()
        (folder / name).symlink_to(others / "x" if name == "results.csv" else others)
        if name == "results.csv":
            (others / "x").write_text(COLUMNS + "\n")
        with refused(ReportError, "unwritable", folder):
            open_folder(folder)
    assert (others / "x").read_text() == COLUMNS + "\n"
    assert len(list(others.iterdir())) == 1
