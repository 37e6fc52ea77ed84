"""Every benchmark explains itself, and works at the smallest size it takes."""

import importlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from benchmarks.calibration import calibrate
from benchmarks.harness import compare, timed
from byola_rq.model.encoder import build_encoder, split_blocks
from tests.conftest import ROOT

# Each script of `make bench`, at its smallest: what it is asked for, and its tables.
SMALLEST = {
    "quantize": ["--batch", "4", "--rounds", "1"],
    "crop": ["--batch", "4", "--rounds", "1"],
    "frontend": ["--clips", "5", "--rounds", "1"],
    "views": ["--batch", "4", "--rounds", "1"],
    "encoder": ["--batch", "2", "--dim", "16", "--rounds", "1"],
    "step": ["--batch", "2", "--dim", "16", "--rounds", "1"],
    "corpus": [
        *("--rounds", "1", "--rows", "1000", "--clips", "8", "--packed-clips", "16"),
        *(
            "--batches",
            "1",
            "--steps",
            "1",
            "--train",
            "encoder.dim=16",
            "--train",
            "train.batch_size=4",
        ),
    ],
    "device_input": ["--packed-clips", "16", "--batches", "1", "--rounds", "1"],
    "probe": ["--clips", "100", "--dim", "16", "--classes", "4", "--rounds", "1"],
    "embed": ["--clips", "4", "--dim", "16", "--seconds", "0.5", "--seconds", "1", "--rounds", "1"],
    "prepare": ["--clips", "16"],
    "tar": ["--members", "10"],
}


@pytest.fixture
def threads() -> Iterator[None]:
    """Put the number of threads back, which some scripts choose."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_make_bench_runs_them_all() -> None:
    target = re.search(r"^bench:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert target
    assert set(re.findall(r"-m benchmarks\.(\w+)", target[1])) == set(SMALLEST)


@pytest.mark.parametrize("name", SMALLEST)
def test_help(name: str) -> None:
    module = importlib.import_module(f"benchmarks.{name}")
    result = CliRunner().invoke(module.app, ["--help"])
    assert result.exit_code == 0
    assert "Examples:" in result.output
    assert f"python -m benchmarks.{name}" in result.output
    assert "--out" in result.output


@pytest.mark.parametrize("name", SMALLEST)
def test_smallest_run(name: str, tmp_path: Path, threads: None) -> None:
    module = importlib.import_module(f"benchmarks.{name}")
    out = tmp_path / "tables.json"
    result = CliRunner().invoke(module.app, [*SMALLEST[name], "--out", str(out)])
    assert result.exit_code == 0, result.output
    machine, *tables = json.loads(out.read_text()).values()
    assert {"cpu", "cores", "load", "gpu", "date"} <= machine.keys()
    assert tables
    for rows in tables:
        assert len({tuple(row) for row in rows}) == 1  # the same columns
        rates = [row[key] for row in rows for key in row if key.endswith("/s")]
        assert all(rate > 0 for rate in rates)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_gpu_check_needs_a_gpu(tmp_path: Path) -> None:
    from benchmarks.gpu_check import app

    result = CliRunner().invoke(app, ["--out", str(tmp_path / "report")])
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "report").exists()
    result = CliRunner().invoke(app, ["--out", str(tmp_path / "report"), "--only", "step"])
    assert result.exit_code == 2
    assert "step" in result.stderr


@torch.no_grad()
def test_calibrated_batch_norms_give_zero_mean_and_unit_variance() -> None:
    torch.manual_seed(0)
    encoder = build_encoder("audio_ntt_2020", dim=16, n_mels=16).eval()
    x = torch.randn(40, 1, 16, 32) + 3
    calibrate(encoder, x, ("mean", "variance"))
    for convolution, norm, *rest in split_blocks(encoder.features):
        x = norm(convolution(x))
        mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
        # Batch norm adds eps, 1e-5, to variances of 1e-3 and more: at most 1 % too little is left.
        torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-4, rtol=0)
        torch.testing.assert_close(variance, torch.ones_like(variance), atol=0.01, rtol=0)
        for each in rest:
            x = each(x)


def test_busy_measures_a_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    busy = importlib.import_module("benchmarks.busy")
    monkeypatch.setattr(busy, "STEP_WAITS", {"passive": {"OMP_WAIT_POLICY": "passive"}})
    out = tmp_path / "busy.json"
    small = ["--seconds", "0.1", "--dim", "16", "--batch", "2", "--loops", "1", "--out", str(out)]
    result = CliRunner().invoke(busy.app, ["--only", "step", *small])
    assert result.exit_code == 0, result.output
    _, (row,) = json.loads(out.read_text()).values()
    assert row["threads wait"] == "passive"
    assert row["0 loops"] > 0 < row["1 loops"]
    assert busy.fit_rate(0.1, 20, 2) > 0


def test_ratios_are_to_the_first_within_a_round() -> None:
    seconds = {"slow": iter([9.0, 2.0, 4.0]), "fast": iter([9.0, 1.0, 1.0])}
    rows = compare(
        {name: lambda each=each: (10.0, next(each)) for name, each in seconds.items()},
        unit="clips",
        rounds=2,
    )
    assert [row["name"] for row in rows] == ["slow", "fast"]
    assert [row["clips/s"] for row in rows] == [3.75, 10.0]  # the first turn, of 9 s, warms up
    assert [row["ratio"] for row in rows] == [1.0, 3.0]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads Linux' /proc")
def test_a_peak_is_what_was_taken_at_once() -> None:
    # In a process whose memory no other test has shaped.
    command = [sys.executable, "-c", PEAKS]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    once, four_times = map(float, ended.stdout.split())
    assert 31 < once < 45
    assert 31 < four_times < 45


PEAKS = """
import torch
from benchmarks.harness import peak_mib
def work(num):
    for _ in range(num):
        torch.ones(8, 2**20).sum()  # 32 MiB, given back
for num in (1, 4):
    print(peak_mib(lambda: work(num), torch.device("cpu")))
"""


def test_a_contender_is_timed() -> None:
    def work() -> float:
        time.sleep(0.01)
        return 3.0

    units, seconds = timed(work)()
    assert units == 3
    assert seconds >= 0.01  # a sleep is never shorter than asked for
