"""A grid for real: processes that train, one that diverges, Ctrl-C in the middle, and the rest."""

import csv
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import Result
from typer.testing import CliRunner

from byola_rq.runs.metrics import read_metrics
from evaluate.__main__ import app
from tests.conftest import SMALL

GRID = """
base: paper
overrides:
  {small}
reference: quantization
variants:
  quantization: {{}}
  crop: {{views.augmentations: [random_resized_crop]}}
  diverging: {{optimizer.lr: 1.0e+30}}
"""
NUM_STEPS = 40  # more than there is time for before the signal comes
SECONDS_AT_MOST = 180  # as in tests.run_process; here processes start processes


@pytest.fixture
def world(tmp_path: Path) -> Path:
    changed = {"train.max_steps": NUM_STEPS, "train.epochs": 10_000, "checkpoint.every_steps": 5000}
    small = dict(word.split("=", 1) for word in SMALL if "run.device" not in word) | changed
    lines = [f"{key}: {value}" for key, value in small.items()]
    (tmp_path / "small.yaml").write_text(GRID.format(small="\n  ".join(lines)))
    rows = ["file_name,label,split"]
    for number, part in enumerate(["train"] * 8 + ["valid"] * 4 + ["test"] * 8):
        noise = np.random.default_rng(number).normal(0, 0.1, 4800)
        tone = np.sin(2 * np.pi * (300, 900)[number % 2] * np.arange(4800) / 16000)
        soundfile.write(tmp_path / f"{number}.wav", 0.2 * tone + 0.1 * noise, 16000)
        rows.append(f"{number}.wav,{'lh'[number % 2]},{part}")
    (tmp_path / "tones.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def ablate(world: Path, sounds: Path) -> Result:
    places = ["--data", sounds, "--task", world / "tones.csv", "--out", world / "out"]
    options = ["--jobs", "2", "--seeds", "1", "--device", "cpu"]
    arguments = ["ablate", world / "small.yaml", *places, *options]
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def interrupted(call: Callable[[], Result], is_time: Callable[[], object], log: Path) -> int:
    """Do the call in a copy of this process, with SIGINT once it is time; its status."""
    pid = os.fork()
    if pid == 0:
        result = call()
        log.write_text(result.stderr)
        os._exit(result.exit_code)
    end = time.monotonic() + SECONDS_AT_MOST
    try:
        while not is_time() and time.monotonic() < end:
            time.sleep(0.02)
    finally:
        os.kill(pid, signal.SIGINT)
        _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


@pytest.mark.timeout(3 * SECONDS_AT_MOST)
def test_a_grid_is_interrupted_and_taken_up_again(
    world: Path, sounds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    runs = world / "out" / "runs"
    status = interrupted(
        lambda: ablate(world, sounds),
        lambda: list(runs.glob("small-*/metrics.csv")),
        world / "stderr.txt",
    )
    stderr = (world / "stderr.txt").read_text()
    assert status == 130, stderr
    assert "repeat the command to continue" in stderr.splitlines()[-1]
    assert "2 trainings" in stderr
    assert not list(runs.glob("small-*/.lock"))  # none goes on
    begun = {path.parent.name: int(path.name.split("-")[1]) for path in runs.glob("*/step-*")}
    assert begun
    assert all(0 < steps < NUM_STEPS for steps in begun.values()), begun

    second = ablate(world, sounds)
    assert second.exit_code == 1, second.stderr  # for the one that diverges
    (failed,) = [line for line in second.stderr.splitlines() if line.startswith("failed: ")]
    assert "diverging, seed 42" in failed
    assert "not finite" in failed
    for name, steps in begun.items():
        rows = read_metrics(runs / name / "metrics.csv")
        assert [int(row["step"]) for row in rows] == list(range(1, NUM_STEPS + 1))
        assert f"after step {steps}" in (runs / f"{name}.log").read_text()
    with (world / "out" / "small.csv").open(newline="") as file:
        report = list(csv.DictReader(file))
    assert [(row["variant"], row["seeds"]) for row in report] == [
        ("quantization", "1"),
        ("crop", "1"),
    ]
    assert all(row["segments"] == str(8 * NUM_STEPS) for row in report)
    assert "diverging, seed 42" in second.stdout
