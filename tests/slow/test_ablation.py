"""A grid for real: processes that train, one that diverges, Ctrl-C in the middle, and the rest."""

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from byola_rq.runs.metrics import read_metrics
from tests.conftest import ROOT, SMALL
from tests.run_process import SECONDS_AT_MOST, is_running

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


@pytest.fixture
def start(world: Path, sounds: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    calls: list[subprocess.Popen[str]] = []

    def start_call() -> subprocess.Popen[str]:
        places = ["--data", sounds, "--task", world / "tones.csv", "--out", world / "out"]
        options = ["--jobs", "2", "--seeds", "1", "--device", "cpu"]
        call = subprocess.Popen(
            [sys.executable, "-m", "evaluate", "ablate", world / "small.yaml", *places, *options],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        calls.append(call)
        return call

    yield start_call
    for call in calls:
        if call.poll() is None:
            call.terminate()
            call.communicate()


def test_a_grid_is_interrupted_and_taken_up_again(
    world: Path, start: Callable[[], subprocess.Popen[str]]
) -> None:
    first = start()
    runs = world / "out" / "runs"
    end = time.monotonic() + SECONDS_AT_MOST
    while not list(runs.glob("small-*/metrics.csv")):
        assert first.poll() is None, first.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.02)
    children = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()
    first.send_signal(signal.SIGINT)
    stderr = first.communicate(timeout=SECONDS_AT_MOST)[1]
    assert first.returncode == 130, stderr
    assert "the same command goes on" in stderr.splitlines()[-1]
    assert len(children) == 2
    assert not any(is_running(int(child)) for child in children)
    begun = {path.parent.name: int(path.name.split("-")[1]) for path in runs.glob("*/step-*")}
    assert begun
    assert all(0 < steps < NUM_STEPS for steps in begun.values()), begun

    second = start()
    stdout, stderr = second.communicate(timeout=3 * SECONDS_AT_MOST)
    assert second.returncode == 1, stderr  # for the one that diverges
    assert "Traceback" not in stderr
    (failed,) = [line for line in stderr.splitlines() if line.startswith("failed: ")]
    assert "diverging, seed 42" in failed
    assert "not finite" in failed
    for name, steps in begun.items():
        rows = read_metrics(runs / name / "metrics.csv")
        assert [int(row["step"]) for row in rows] == list(range(1, NUM_STEPS + 1))
        assert f"going on after step {steps}" in (runs / f"{name}.log").read_text()
    with (world / "out" / "small.csv").open(newline="") as file:
        report = list(csv.DictReader(file))
    assert [(row["variant"], row["seeds"]) for row in report] == [
        ("quantization", "1"),
        ("crop", "1"),
    ]
    assert all(row["segments"] == str(8 * NUM_STEPS) for row in report)
    assert "diverging, seed 42" in stdout
