"""The whole job in small, through the commands: sounds, corpus, encoder, embeddings, a probe."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from byola_rq.cli.app import app
from evaluate.__main__ import app as evaluate_app
from tests.conftest import SMALL


def run(*arguments: object, command=app) -> None:
    result = CliRunner().invoke(command, list(map(str, arguments)))
    assert result.exit_code == 0, result.output


def test_the_whole_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run("synthesize", "sounds", "--clips", 24)
    run("prepare", "sounds/clips", "packed", "--workers", 1)
    run("pretrain", *SMALL, "data.source=packed", "run.dir=run", "train.max_steps=2")
    model = ("--model", "run/encoder.safetensors")
    run("embed", "sounds/clips", "-o", "embeddings", *model, "--device", "cpu")

    rows = np.load("embeddings/embeddings.npy")
    with Path("embeddings/index.csv").open(newline="") as file:
        names = [Path(row["path"]).name for row in csv.DictReader(file)]
    assert rows.shape == (24, 16)
    assert np.isfinite(rows).all()
    assert names == sorted(path.name for path in Path("sounds/clips").iterdir())

    with Path("labels.csv").open("w") as file:
        file.write("file_name,label,split\n")
        for number, name in enumerate(names):
            part = ("train", "train", "valid", "test")[number // 2 % 4]
            file.write(f"sounds/clips/{name},{'ab'[number % 2]},{part}\n")
    arguments = ["run/encoder.safetensors", "--baseline", "logmel", "--task", "labels.csv"]
    run(*arguments, "--device", "cpu", "--out", "results", command=evaluate_app)
    with Path("results/results.csv").open(newline="") as file:
        results = list(csv.DictReader(file))
    assert [row["model"] for row in results] == ["run", "logmel"]
    assert [int(row["n_test"]) for row in results] == [6, 6]
    assert all(math.isclose(float(row["score"]) * 6 % 100, 0, abs_tol=1e-9) for row in results)
