import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from byola_rq.embed.embedder import Embedder
from evaluate.options import spread_lists
from tests.conftest import ROOT
from tests.evaluate.conftest import call, read_csv

DATA = Path(os.environ.get("BYOLA_RQ_DATA", ROOT.parent / "shared/data"))

VOLATILE = ("date", "fit_seconds", "embed_seconds")


@pytest.fixture
def model_file(tmp_path):
    path = tmp_path / "runs/a/encoder.safetensors"
    Embedder.untrained(dim=16, seed=1).save(path)
    return path


def test_model_and_baselines_on_two_sets(tmp_path, split_csv, model_file, write_set, fold_rows):
    fold_csv = write_set(tmp_path / "tones/metadata.csv", fold_rows, "fold")
    result = call(
        model_file, "--baseline", "logmel", "--baseline", "random", "--task", split_csv,
        "--task", fold_csv, "--probe", "logistic", "--probe", "adam", "--probe", "knn",
        "--out", tmp_path / "out",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    rows = read_csv(tmp_path / "out/results.csv")
    expected = {
        (model, task, fold, probe, seed)
        for model in ("a", "logmel", "random")
        for task, folds in (("pitch", [""]), ("tones", "123"))
        for fold in folds
        for probe, seeds in (("logistic", "0"), ("adam", "012"), ("knn", "0"))
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
            for clip in read_csv(tmp_path / f"out/predictions/{row['run_id']}.csv")
            if (clip["fold"], clip["seed"]) == (row["fold"], row["seed"])
        ]
        assert len(hits) == int(row["n_test"])
        assert float(row["score"]) == pytest.approx(100 * sum(hits) / len(hits), abs=1e-4)
    scores = {(r["model"], r["probe"]): r["pitch"] for r in read_csv(tmp_path / "out/summary.csv")}
    assert float(scores["logmel", "logistic"]) > 90  # a pitch per class: bands tell them apart
    assert "unit 0.3 s, the longest clip" in result.stdout


def test_protocols_are_the_official_probes(tmp_path, split_csv, write_set, fold_rows):
    fold_csv = write_set(tmp_path / "esc50.csv", fold_rows, "fold")
    result = call(
        "--baseline", "logmel", "--task", split_csv, "--task", fold_csv,
        "--protocol", "byol_a", "--protocol", "evar", "--out", tmp_path / "out",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    rows = read_csv(tmp_path / "out/results.csv")
    runs = {(r["probe"], r["task"], r["fold"]): [] for r in rows}
    for row in rows:
        runs[row["probe"], row["task"], row["fold"]].append(row["seed"])
    assert runs == {
        (probe, task, fold): seeds
        for probe, seeds in (("byol_a", ["0"]), ("evar", ["0", "1", "2"]))
        for task, folds in (("pitch", [""]), ("esc50", "123"))
        for fold in folds
    }
    rates = {(r["probe"], r["task"]): json.loads(r["probe_params"])["lr"] for r in rows}
    assert rates["byol_a", "pitch"] == rates["byol_a", "esc50"] == 1e-3
    assert (rates["evar", "pitch"], rates["evar", "esc50"]) == (3e-4, 1e-3)
    # 16 clips that are not in the fold, of which a tenth, rounded up, is drawn to validate on.
    sizes = {(r["n_train"], r["n_valid"], r["n_test"]) for r in rows if r["task"] == "esc50"}
    assert sizes == {("14", "2", "8")}


def test_same_seed_same_rows(tmp_path, split_csv):
    for name in ("first", "second"):
        arguments = ["--baseline", "random", "--dim", 16, "--probe", "logistic", "--probe", "adam"]
        result = call(*arguments, "--task", split_csv, "--seed", 3, "--out", tmp_path / name)
        assert result.exit_code == 0, result.output
    first, second = (read_csv(tmp_path / name / "results.csv") for name in ("first", "second"))
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
    models = [row["model"] for row in read_csv(out / "summary.csv") if row["source"] == "measured"]
    assert models == ["logmel", "random"]


def test_norm_of_the_checkpoint(tmp_path, split_csv, model_file):
    arguments = [model_file, "--baseline", "random", "--task", split_csv, "--out", tmp_path / "out"]
    assert call(*arguments, "--norm", "checkpoint").exit_code == 0
    norms = {row["model"]: row["norm"] for row in read_csv(tmp_path / "out/results.csv")}
    assert norms == {"a": "checkpoint", "random": "task"}


def swap(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


BAD_INPUT = {
    "missing clip": (
        [], lambda p: swap(p, "audio/low_1.wav", "x.wav"),
        ["pitch.csv, row 3: ", "file_name", "'x.wav'"],
    ),
    "empty label": (
        [], lambda p: swap(p, "low_1.wav,low", "low_1.wav,"), ["pitch.csv, row 3: label "]
    ),
    "untrained class": (
        [], lambda p: p.write_text(p.read_text().replace("high,train", "high,test")),
        ["pitch.csv: ", "'high'"],
    ),
    "no audio": (
        [], lambda p: (p.parent / "audio/low_1.wav").write_text("x"), ["audio/low_1.wav: "]
    ),
    "no model file": (["no.safetensors"], lambda path: None, ["error: no.safetensors: "]),
    "csv as model": ([__file__], lambda path: None, [f"error: {__file__}: "]),
    "same name": (["--task", "{csv}"], lambda path: None, ["pitch.csv: ", "'pitch'"]),
    "unit": (["--unit-seconds", "0.01"], lambda path: None, ["unit_seconds ", "0.1", "0.01"]),
    "norm": (["--norm", "checkpoint"], lambda path: None, ["error: --norm checkpoint "]),
    "no fraction": (
        ["--label-fraction", "half"], lambda path: None, ["--label-fraction ", "'half'"]
    ),
    "empty fraction": (["--label-fraction", ""], lambda path: None, ["--label-fraction ", "''"]),
    "fraction of 0": (["--label-fraction", "0"], lambda path: None, ["--label-fraction ", "'0'"]),
    "fraction above 1": (
        ["--label-fraction", "1", "1.5"], lambda path: None, ["--label-fraction ", "'1.5'"]
    ),
    "fraction too small": (  # of 12 training clips a clip for each of three classes
        ["--label-fraction", "0.2"], lambda path: None, ["--label-fraction ", "0.25", "0.2"],
    ),
    "nothing to fine-tune": (["--probe", "finetune"], lambda path: None, ["--probe ", "logmel"]),
    "foreign results": (
        [], lambda p: (p.parent / "out/results.csv").write_text("a,b\n1,2\n"),
        ["out/results.csv, row 1: ", "got 'a'"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("extra", "spoil", "told"), BAD_INPUT.values(), ids=BAD_INPUT.keys())
def test_bad_input_is_one_line_and_exit_2(tmp_path, split_csv, extra, spoil, told):
    (tmp_path / "out").mkdir()
    spoil(split_csv)
    kept = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    extra = [argument.format(csv=split_csv) for argument in extra]
    result = call("--baseline", "logmel", "--task", split_csv, "--out", tmp_path / "out", *extra)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("error: ")
    for fact in told:
        assert fact in result.stderr
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == kept


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["builtin"], ["a --data-root ", "a --task;"]),
        (["builtn", "--task", "{csv}"], ["error: builtn: "]),
        (["--baseline", "logmel"], ["a --data-root ", "a --task;"]),
        (["--baseline", "logmel", "--task", "{csv}", "--out", "{csv}/x"], ["error: {csv}/x: "]),
    ],
)
def test_wrong_use(split_csv, arguments, told):
    result = call(*(argument.format(csv=split_csv) for argument in arguments))
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    for fact in told:
        assert fact.format(csv=split_csv) in result.stderr


@pytest.mark.parametrize("device", ["gpu", "mps", "cuda:99"])
def test_a_device_that_is_none_or_not_here_is_refused(split_csv, device):
    if device == "mps" and torch.backends.mps.is_available():
        pytest.skip("this machine has it")
    result = call("--baseline", "logmel", "--task", split_csv, "--device", device)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert device in result.stderr
    assert "--device" in result.stderr


def test_the_same_call_again_measures_nothing_again(tmp_path, split_csv):
    arguments = ["--baseline", "logmel", "--task", split_csv, "--out", tmp_path / "out"]
    call(*arguments)
    before = (tmp_path / "out/results.csv").read_bytes()
    result = call(*arguments)
    assert "pitch: logmel: in results.csv already" in result.stdout
    assert (tmp_path / "out/results.csv").read_bytes() == before
    # A changed clip makes it another run, with embeddings of its own.
    clip = split_csv.parent / "audio/low_9.wav"
    clip.write_bytes((split_csv.parent / "audio/high_9.wav").read_bytes())
    call(*arguments)
    first, second = read_csv(tmp_path / "out/results.csv")
    assert first["run_id"] != second["run_id"]


def test_another_probe_uses_the_embeddings_there_are(tmp_path, split_csv):
    arguments = [
        "--baseline",
        "random",
        "--dim",
        16,
        "--task",
        split_csv,
        "--out",
        tmp_path / "out",
    ]
    assert "clips/s" in call(*arguments).stdout
    assert "all cached" in call(*arguments, "--probe", "knn").stdout


KILLED = """
import os, signal, sys
from evaluate import runner
from evaluate.__main__ import app
append, count = runner.append_fold, 0
def append_and_die(*arguments):
    global count
    append(*arguments)
    count += 1
    if count == 2:
        os.kill(os.getpid(), signal.SIGKILL)
runner.append_fold = append_and_die
app(sys.argv[1:])
"""


@pytest.mark.slow
def test_killed_run_goes_on_with_its_first_missing_fold(tmp_path, write_set, fold_rows):
    fold_csv = write_set(tmp_path / "tones/metadata.csv", fold_rows, "fold")
    arguments = ["--baseline", "random", "--dim", 16, "--task", fold_csv, "--out"]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, *map(str, [*arguments, tmp_path / "killed"])],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert killed.returncode == -9, killed.stderr
    before = read_csv(tmp_path / "killed/results.csv")
    assert [row["fold"] for row in before] == ["1", "2"]
    result = call(*arguments, tmp_path / "killed")
    assert result.exit_code == 0, result.output
    assert call(*arguments, tmp_path / "whole").exit_code == 0
    rows, whole = (
        read_csv(tmp_path / "killed/results.csv"),
        read_csv(tmp_path / "whole/results.csv"),
    )
    assert rows[:2] == before
    for row in (*rows, *whole):
        for name in VOLATILE:
            row.pop(name)
    assert rows == whole
    (name,) = os.listdir(tmp_path / "whole/predictions")
    assert read_csv(tmp_path / "killed/predictions" / name) == read_csv(
        tmp_path / "whole/predictions" / name
    )
    assert (tmp_path / "killed/summary.csv").read_text() == (
        tmp_path / "whole/summary.csv"
    ).read_text()


def test_a_set_that_fails_does_not_stop_the_others(tmp_path, split_csv, write_set, fold_rows):
    fold_csv = write_set(tmp_path / "tones/metadata.csv", fold_rows, "fold")
    swap(split_csv, "audio/low_1.wav", "x.wav")
    cut = write_set(tmp_path / "cut.csv", [(f"cut/{a}", b, c) for a, b, c in fold_rows], "fold")
    sound = tmp_path / "cut/low_3.wav"
    sound.write_bytes(sound.read_bytes()[:-600])
    result = call(
        "--baseline", "logmel", "--task", split_csv, "--task", cut, "--task", fold_csv,
        "--out", tmp_path / "out",
    )  # fmt: skip
    assert result.exit_code == 1
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2
    assert f"{split_csv}, row 3: file_name " in errors[0]
    assert errors[1].startswith(f"error: cut: logmel: {sound}: ")
    assert {row["task"] for row in read_csv(tmp_path / "out/results.csv")} == {"tones"}


def test_limit_is_marked_and_kept_apart(tmp_path, split_csv):
    arguments = ["--baseline", "logmel", "--task", split_csv, "--out", tmp_path / "out"]
    call(*arguments)
    assert call(*arguments, "--limit", 2).exit_code == 0
    full, limited = read_csv(tmp_path / "out/results.csv")
    assert (full["split"], limited["split"]) == ("given", "given; limit 2")
    assert [limited[name] for name in ("n_train", "n_valid", "n_test")] == ["6", "6", "6"]
    names = [
        r["model"] for r in read_csv(tmp_path / "out/summary.csv") if r["source"] == "measured"
    ]
    assert names == ["logmel", "logmel (limit 2)"]


def test_clips_of_several_classes(tmp_path, write_set, split_rows):
    rows = [(name, label, part) for name, label, part in split_rows]
    path = write_set(tmp_path / "birds.csv", rows)
    text = path.read_text().replace("file_name,label,split", "file_name,labels,split")
    path.write_text(re.sub(r",low,", ',"low,middle",', text))
    result = call("--baseline", "logmel", "--task", path, "--out", tmp_path / "out",
                  "--probe", "logistic", "--probe", "adam", "--probe", "knn")  # fmt: skip
    assert result.exit_code == 0, result.output
    for row in read_csv(tmp_path / "out/results.csv"):
        assert row["metric"] == "mAP"
        clips = read_csv(tmp_path / f"out/predictions/{row['run_id']}.csv")
        clips = [clip for clip in clips if clip["seed"] == row["seed"]]
        expected = np.mean(
            [
                average_precision_score(
                    [name in clip["label"].split(",") for clip in clips],
                    [float(clip[f"score:{name}"]) for clip in clips],
                )
                for name in ("high", "low", "middle")
            ]
        )
        # The scores in the file have five digits, which may tie two of them.
        assert float(row["score"]) == pytest.approx(100 * expected, abs=0.5)
        assert float(row["score"]) > 65  # by chance 44: every third clip has two of three labels


def test_shuffled_labels_give_chance(tmp_path, write_set):
    """90 test clips of 3 classes: 33 % +- 3 binomial deviations of 5 points."""
    generator = np.random.default_rng(7)
    parts = ["train"] * 120 + ["valid"] * 30 + ["test"] * 90
    labels = ["low", "middle", "high"]
    rows = [(f"{n}.wav", labels[n % 3], part) for n, part in enumerate(parts)]
    path = write_set(tmp_path / "tones.csv", rows)
    shuffled = [f"{a},{labels[generator.integers(3)]},{c}" for a, _, c in rows]
    (tmp_path / "shuffled.csv").write_text("\n".join(["file_name,label,split", *shuffled]))
    arguments = ["--task", path, "--task", tmp_path / "shuffled.csv", "--out", tmp_path / "out"]
    assert call("--baseline", "logmel", *arguments).exit_code == 0
    scores = {row["task"]: float(row["score"]) for row in read_csv(tmp_path / "out/results.csv")}
    assert scores["tones"] > 95
    assert abs(scores["shuffled"] - 100 / 3) < 3 * 100 * np.sqrt((1 / 3) * (2 / 3) / 90)


def test_lists_may_be_named_in_a_row():
    assert spread_lists(["--label-fraction", "half", "0.1,1e-1", "m", "--label-fraction"]) == [
        "--label-fraction", "half", "--label-fraction", "0.1", "--label-fraction", "1e-1", "m",
        "--label-fraction",
    ]  # fmt: skip
    assert spread_lists(["a.safetensors", "--tasks", "us8k", "vc1,spcv2", "--out", "x"]) == [
        "a.safetensors", "--tasks", "us8k", "--tasks", "vc1", "--tasks", "spcv2", "--out", "x",
    ]  # fmt: skip
    assert spread_lists(["--tasks", "us8k", "runs/a.safetensors"])[-1] == "runs/a.safetensors"


def test_each_of_the_tasks_named_is_looked_for(tmp_path):
    arguments = ["--data-root", tmp_path, "--tasks", "us8k", "owl", "--out", tmp_path / "out"]
    result = call("--baseline", "logmel", *arguments)
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"error: {tmp_path}: us8k ")
    assert "'owl'" in lines[1]


def test_failure_at_work_is_exit_1(tmp_path, split_csv):
    (tmp_path / "out/summary.csv").mkdir(parents=True)  # in the way of the file
    arguments = ["--baseline", "logmel", "--task", split_csv, "--out", tmp_path / "out"]
    result = call(*arguments)
    assert result.exit_code == 1
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert "summary.csv" in line
    assert "Traceback" not in result.stderr
    assert "Traceback" in call(*arguments, "--debug").stderr
    assert len(read_csv(tmp_path / "out/results.csv")) == 1  # what was measured is kept


def test_labels_of_any_kind_reach_the_files(tmp_path, write_set, split_rows):
    names = {"low": "Käuzchen, klein", "middle": "фи лин", "high": '梟 "A"'}
    rows = [(file_name, names[label], part) for file_name, label, part in split_rows]
    path = write_set(tmp_path / "Vögel, alle.csv", rows)
    assert call("--baseline", "logmel", "--task", path, "--out", tmp_path / "out").exit_code == 0
    (row,) = read_csv(tmp_path / "out/results.csv")
    assert row["task"] == "Vögel, alle"
    predictions = read_csv(tmp_path / f"out/predictions/{row['run_id']}.csv")
    assert {clip["label"] for clip in predictions} == set(names.values())
    assert {clip["prediction"] for clip in predictions} <= set(names.values())


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from evaluate.__main__ import app; "
        "app(['run', '--help'], standalone_mode=False); "
        "print(sorted({'torch', 'numpy', 'sklearn', 'pandas', 'scipy'} & sys.modules.keys()))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.splitlines()[-1] == "[]"
    assert "python -m evaluate --baseline logmel --baseline random --task birds.csv" in run.stdout


@pytest.mark.slow
def test_runs_as_a_module(tmp_path):
    run = subprocess.run(
        [sys.executable, "-m", "evaluate", "--baseline", "logmel", "--task", tmp_path / "no.csv"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.startswith(f"error: {tmp_path}/no.csv: ")
    assert run.stderr.count("\n") == 1


def test_real_recordings(tmp_path):
    """Bands alone tell Speech Commands apart far above chance, and far below an encoder."""
    path = DATA / "spcv2_dev/metadata.csv"
    if not path.is_file():
        pytest.skip(f"no recordings: {path} is not there (BYOLA_RQ_DATA names their folder)")
    result = call("--baseline", "logmel", "--task", path, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    (row,) = read_csv(tmp_path / "results.csv")
    assert (row["n_train"], row["n_valid"], row["n_test"]) == ("1420", "369", "596")
    # Measured on 2026-11-26; a binomial deviation of 596 clips is 2 points.
    assert float(row["score"]) == pytest.approx(52.35, abs=2)
