import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from byola_rq.embedder import Embedder
from evaluate.__main__ import app

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("BYOLA_RQ_DATA", ROOT.parent / "shared/data"))

VOLATILE = ("run_id", "date", "fit_seconds", "embed_seconds")


def call(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def split_csv(tmp_path, write_set, split_rows):
    return write_set(tmp_path / "pitch.csv", split_rows)


@pytest.fixture
def model_file(tmp_path):
    path = tmp_path / "runs/a/encoder.safetensors"
    Embedder.untrained(dim=16, seed=1).save(path)
    return path


def test_model_and_baselines_on_two_sets(tmp_path, split_csv, model_file, write_set, fold_rows):
    fold_csv = write_set(tmp_path / "tones/metadata.csv", fold_rows, "fold")
    result = call(
        model_file, "--baseline", "logmel", "--baseline", "random", "--task", split_csv,
        "--task", fold_csv, "--probe", "logistic", "--probe", "adam", "--out", tmp_path / "out",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    rows = read(tmp_path / "out/results.csv")
    expected = {
        (model, task, fold, probe, seed)
        for model in ("a", "logmel", "random")
        for task, folds in (("pitch", [""]), ("tones", "123"))
        for fold in folds
        for probe, seeds in (("logistic", "0"), ("adam", "012"))
        for seed in seeds
    }
    keys = [tuple(row[name] for name in ("model", "task", "fold", "probe", "seed")) for row in rows]
    assert len(keys) == len(expected)
    assert set(keys) == expected
    dims = {row["model"]: row["embedding_dim"] for row in rows}
    assert dims == {"a": "16", "logmel": "128", "random": "16"}  # random takes the model's size
    for row in rows:
        hits = [
            clip["label"] == clip["prediction"]
            for clip in read(tmp_path / f"out/predictions/{row['run_id']}.csv")
            if (clip["fold"], clip["seed"]) == (row["fold"], row["seed"])
        ]
        assert len(hits) == int(row["n_test"])
        assert float(row["score"]) == pytest.approx(100 * sum(hits) / len(hits), abs=1e-4)
    scores = {(r["model"], r["probe"]): r["pitch"] for r in read(tmp_path / "out/summary.csv")}
    assert float(scores["logmel", "logistic"]) > 90  # a pitch per class: bands tell them apart
    assert "unit 0.3 s, the longest clip" in result.stdout


def test_same_seed_same_rows(tmp_path, split_csv):
    for name in ("first", "second"):
        arguments = ["--baseline", "random", "--dim", 16, "--probe", "logistic", "--probe", "adam"]
        result = call(*arguments, "--task", split_csv, "--seed", 3, "--out", tmp_path / name)
        assert result.exit_code == 0, result.output
    first, second = (read(tmp_path / name / "results.csv") for name in ("first", "second"))
    for row in (*first, *second):
        for name in VOLATILE:
            row.pop(name)
    assert first == second
    assert [row["seed"] for row in first] == ["3", "3", "4", "5"]


def test_calls_add_up(tmp_path, split_csv):
    out = tmp_path / "out"
    assert call("--baseline", "logmel", "--task", split_csv, "--out", out).exit_code == 0
    before = (out / "results.csv").read_text()
    arguments = ["--baseline", "random", "--dim", 8, "--task", split_csv, "--out", out]
    assert call(*arguments).exit_code == 0
    assert (out / "results.csv").read_text().startswith(before)
    models = [row["model"] for row in read(out / "summary.csv") if row["source"] == "measured"]
    assert models == ["logmel", "random"]


def test_norm_of_the_checkpoint(tmp_path, split_csv, model_file):
    arguments = [model_file, "--baseline", "random", "--task", split_csv, "--out", tmp_path / "out"]
    assert call(*arguments, "--norm", "checkpoint").exit_code == 0
    norms = {row["model"]: row["norm"] for row in read(tmp_path / "out/results.csv")}
    assert norms == {"a": "checkpoint", "random": "task"}


def swap(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


BAD_INPUT = {
    "no csv": (["--task", "nowhere.csv"], lambda path: None, "nowhere.csv: .*No such file"),
    "missing clip": ([], lambda p: swap(p, "audio/low_1.wav", "x.wav"), "row 3: file_name.*x.wav"),
    "empty label": ([], lambda p: swap(p, "low_1.wav,low", "low_1.wav,"), "row 3: label"),
    "untrained class": ([], lambda p: p.write_text(p.read_text().replace("high,train", "high,test")
    ), "class 'high' must have training"),
    "no audio": ([], lambda p: (p.parent / "audio/low_1.wav").write_text("x"), "low_1.wav: not an"),
    "no model file": (["no.safetensors"], lambda path: None, "no.safetensors: no such model"),
    "csv as model": ([__file__], lambda path: None, "test_main.py: not a model file"),
    "same name": (["--task", "{csv}"], lambda path: None, "task names must differ"),
    "unit": (["--unit-seconds", "0.01"], lambda path: None, "unit_seconds must be at least 0.1"),
    "norm": (["--norm", "checkpoint"], lambda path: None, "--norm checkpoint needs a model file"),
    "foreign results": (
        [], lambda p: (p.parent / "out/results.csv").write_text("a,b\n1,2\n"), "row 1: the header"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("extra", "spoil", "message"), BAD_INPUT.values(), ids=BAD_INPUT.keys())
def test_bad_input_is_one_line_and_exit_2(tmp_path, split_csv, extra, spoil, message):
    (tmp_path / "out").mkdir()
    spoil(split_csv)
    kept = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    extra = [argument.format(csv=split_csv) for argument in extra]
    result = call("--baseline", "logmel", "--task", split_csv, "--out", tmp_path / "out", *extra)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("error: ")
    assert re.search(message, result.stderr), result.stderr
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == kept


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "a.csv"], "name a model file or a --baseline"),
        (["--baseline", "logmel"], "name a --task"),
        (["--baseline", "logmel", "--task", "{csv}", "--out", "{csv}/x"], "must be writable"),
    ],
)
def test_wrong_use(split_csv, arguments, message):
    result = call(*(argument.format(csv=split_csv) for argument in arguments))
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert message in result.stderr


def test_failure_at_work_is_exit_1(tmp_path, split_csv):
    (tmp_path / "out/summary.csv").mkdir(parents=True)  # in the way of the file
    arguments = ["--baseline", "logmel", "--task", split_csv, "--out", tmp_path / "out"]
    result = call(*arguments)
    assert result.exit_code == 1
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert "summary.csv" in line
    assert "Traceback" not in result.stderr
    assert "Traceback" in call(*arguments, "--debug").stderr
    assert len(read(tmp_path / "out/results.csv")) == 2  # what was measured is kept


def test_labels_of_any_kind_reach_the_files(tmp_path, write_set, split_rows):
    names = {"low": "Käuzchen, klein", "middle": "фи лин", "high": '梟 "A"'}
    rows = [(file_name, names[label], part) for file_name, label, part in split_rows]
    path = write_set(tmp_path / "Vögel, alle.csv", rows)
    assert call("--baseline", "logmel", "--task", path, "--out", tmp_path / "out").exit_code == 0
    (row,) = read(tmp_path / "out/results.csv")
    assert row["task"] == "Vögel, alle"
    predictions = read(tmp_path / f"out/predictions/{row['run_id']}.csv")
    assert {clip["label"] for clip in predictions} == set(names.values())
    assert {clip["prediction"] for clip in predictions} <= set(names.values())


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from evaluate.__main__ import app; app(['--help'], standalone_mode=False); "
        "print(sorted({'torch', 'numpy', 'sklearn', 'pandas', 'scipy'} & sys.modules.keys()))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.splitlines()[-1] == "[]"
    assert "python -m evaluate --baseline logmel --baseline random --task birds.csv" in run.stdout


def test_runs_as_a_module(tmp_path):
    run = subprocess.run(
        [sys.executable, "-m", "evaluate", "--baseline", "logmel", "--task", tmp_path / "no.csv"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == (
        f"error: {tmp_path}/no.csv: the labelled csv cannot be read: No such file or directory\n"
    )


def test_real_recordings(tmp_path):
    """Bands alone tell Speech Commands apart far above chance, and far below an encoder."""
    path = DATA / "spcv2_dev/metadata.csv"
    if not path.is_file():
        pytest.skip(f"no recordings: {path} is not there (BYOLA_RQ_DATA names their folder)")
    result = call("--baseline", "logmel", "--task", path, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    (row,) = read(tmp_path / "results.csv")
    assert (row["n_train"], row["n_valid"], row["n_test"]) == ("1420", "369", "596")
    assert 45 < float(row["score"]) < 60
