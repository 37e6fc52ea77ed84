"""The whole command on runs that are trained already: nothing here trains."""

import csv
import errno
import os
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import Result
from typer.testing import CliRunner

from evaluate.__main__ import app
from evaluate.ablation.grid import AblationRun, plan_runs, read_grid
from evaluate.ablation.runs import Training, find_place, locked_run, read_progress
from evaluate.reports.records import WriteError
from tests.conftest import SMALL
from tests.fault_injection import Call, interposed
from tests.refusal import refused

GRID = """
base: paper
overrides:
  {small}
reference: full
variants:
  full: {{}}
  crop: {{views.augmentations: [random_resized_crop]}}
"""


@pytest.fixture
def world(tmp_path: Path, sounds: Path, write_set, split_rows, monkeypatch) -> Path:
    """A folder with a grid, its two labeled sets, and something to learn from."""
    small = [word.replace("=", ": ", 1) for word in SMALL if "run.device" not in word]
    (tmp_path / "small.yaml").write_text(GRID.format(small="\n  ".join(small)))
    write_set(tmp_path / "pitch.csv", split_rows)
    write_set(tmp_path / "tone.csv", split_rows[:20])
    (tmp_path / "sounds").symlink_to(sounds)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def plan(num_seeds: int, *overrides: str) -> list[AblationRun]:
    """Plan runs as the command does, on a CPU."""
    own = ["data.source=sounds", "run.device=cpu"]
    return plan_runs(read_grid(Path("small.yaml"), overrides, own), num_seeds)


def train(runs: list[AblationRun], trained_run: Path) -> None:
    """Put the model of another run where theirs would be."""
    for run in runs:
        place = find_place(Path("out"), run)
        shutil.copytree(trained_run, place)
        config = run.config.run.model_copy(update={"dir": place})
        whole = run.config.model_copy(update={"run": config})
        (place / "config.yaml").write_text(whole.to_yaml())


def ablate(*arguments: str, grid: str = "small.yaml") -> Result:
    call = ["ablate", grid, "--data", "sounds", "--out", "out", "--device", "cpu", *arguments]
    return CliRunner().invoke(app, call)


BOTH = ("--task", "pitch.csv", "--task", "tone.csv")


def read_report() -> list[dict[str, str]]:
    with Path("out/small.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_means_differences_and_costs(world: Path, trained_run: Path) -> None:
    train(plan(2), trained_run)
    done = ablate(*BOTH, "--seeds", "2")
    assert done.exit_code == 0, done.output
    rows = read_report()
    assert [(row["variant"], row["task"], row["seeds"]) for row in rows] == [
        (variant, task, "2") for variant in ("full", "crop") for task in ("pitch", "tone", "mean")
    ]
    # All four models are one and the same.
    scores = {row["task"]: float(row["score"]) for row in rows}
    assert scores["mean"] == pytest.approx((scores["pitch"] + scores["tone"]) / 2, abs=1e-3)
    for row in rows:
        difference = (row["difference"], row["p"], row["is_significant"])
        assert difference == (("", "", "") if row["variant"] == "full" else ("0.0", "1.0", "False"))
        assert row["segments"] == str(2 * 4 * 8)
        assert float(row["hours"]) >= 0
    report = Path("out/small.md").read_text()
    assert "crop" in report.split("Not significant", 1)[1]
    assert "no variant" in report.split("Significant:", 1)[1].split("Not significant")[0]
    assert Path("out/small.png").read_bytes().startswith(b"\x89PNG")
    results = Path("out/results.csv").read_bytes()
    again = ablate(*BOTH, "--seeds", "2")
    assert again.exit_code == 0
    assert Path("out/results.csv").read_bytes() == results


def test_a_seed_counts_once_it_is_evaluated(world: Path, trained_run: Path) -> None:
    train(plan(2), trained_run)
    assert ablate("--task", "pitch.csv", "--seeds", "2", "--shard", "1/3").exit_code == 0
    rows = [(row["variant"], row["seeds"], row["p"]) for row in read_report()]
    assert rows == [("full", "1", ""), ("crop", "1", "")]
    report = Path("out/small.md").read_text()
    assert "crop, seed 42" in report
    assert ablate("--task", "pitch.csv", "--seeds", "2", "--shard", "2/3").exit_code == 0
    assert ablate("--task", "pitch.csv", "--seeds", "2", "--shard", "3/3").exit_code == 0
    assert {row["seeds"] for row in read_report()} == {"2"}


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2"])
def test_a_share_is_one_of_them(world: Path, shard: str) -> None:
    done = ablate("--task", "pitch.csv", "--shard", shard)
    assert done.exit_code == 2
    assert "--shard" in done.output
    assert not Path("out").exists()


def test_a_changed_grid_says_what_is_run_again(world: Path, trained_run: Path) -> None:
    train(plan(1), trained_run)
    text = Path("small.yaml").read_text()
    crop = "{views.augmentations: [random_resized_crop]}"
    assert crop in text
    Path("small.yaml").write_text(text.replace(crop, "{views.augmentations: [mixup]}"))
    done = ablate("--seeds", "1", "--dry-run")
    assert done.exit_code == 0
    told = [line for line in done.stderr.splitlines() if "changed" in line]
    assert len(told) == 1
    assert "crop, seed 42" in told[0]
    assert "['random_resized_crop'], is ['mixup']" in told[0]
    states = {line.split(",")[0]: line for line in done.stdout.splitlines()}
    assert ": trained" in states["full"]
    assert ": to do" in states["crop"]
    refusal = ablate("--task", "pitch.csv", "--seeds", "1", "--resume")
    assert refusal.exit_code == 2
    assert "--resume" in refusal.output
    assert not Path("out/results.csv").exists()


def test_resuming_needs_something_begun(world: Path, trained_run: Path) -> None:
    assert ablate("--task", "pitch.csv", "--resume").exit_code == 2
    train(plan(1), trained_run)
    assert ablate("--task", "pitch.csv", "--seeds", "1", "--resume").exit_code == 0


def test_the_cost_is_reported_without_doing_anything(world: Path) -> None:
    done = ablate("--seeds", "3", "--dry-run")
    assert done.exit_code == 0
    *runs, total = done.stdout.splitlines()
    assert len(runs) == 6
    assert all("32 segments" in line for line in runs)
    assert "192 segments" in total
    assert not Path("out").exists()


def test_a_run_that_another_call_holds_is_left_to_it(world: Path, trained_run: Path) -> None:
    runs = plan(1)
    train(runs, trained_run)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:  # another call, at work until the pipe is closed
        os.close(writer)
        with locked_run(Path("out"), runs[0]):
            Path("held").touch()
            os.read(reader, 1)
        os._exit(0)
    os.close(reader)
    while not Path("held").exists():
        time.sleep(0.01)
    done = ablate("--task", "pitch.csv", "--seeds", "1")
    os.close(writer)
    os.waitpid(child, 0)
    assert done.exit_code == 0, done.output
    assert f"left to other calls: {runs[0]}" in done.stderr
    assert {row["variant"] for row in read_report()} == {"crop"}


def test_a_model_that_is_damaged_is_named_and_the_others_go_on(
    world: Path, trained_run: Path
) -> None:
    runs = plan(1)
    train(runs, trained_run)
    (find_place(Path("out"), runs[0]) / "encoder.safetensors").write_bytes(b"no model")
    done = ablate("--task", "pitch.csv", "--seeds", "1")
    assert done.exit_code == 1
    assert "failed: full, seed 42: pitch" in done.stderr
    assert [row["variant"] for row in read_report()] == ["crop"]


def test_a_disk_that_fills_ends_the_call_with_one_line(world: Path, trained_run: Path) -> None:
    train(plan(1), trained_run)

    def fill(call: Call) -> None:
        if "results.csv" in call.subject and call.is_writing:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), call.subject)

    with interposed(fill):
        done = ablate("--task", "pitch.csv", "--seeds", "1")
    assert done.exit_code == 1
    assert [line for line in done.stderr.splitlines() if line.startswith("error")] == [
        done.stderr.splitlines()[-1]
    ]
    assert os.strerror(errno.ENOSPC) in done.stderr
    assert ablate("--task", "pitch.csv", "--seeds", "1").exit_code == 0


def test_no_training_begins_on_a_full_disk(
    world: Path, trained_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(plan(1)[:1], trained_run)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**27))
    done = ablate("--task", "pitch.csv", "--seeds", "1")
    assert done.exit_code == 1
    assert done.stderr.splitlines()[-1].startswith("error: out: ")
    assert not list(Path("out/runs").glob("*.log"))


def test_a_training_that_cannot_be_started(world: Path) -> None:
    run = plan(1)[0]
    run_dir = find_place(Path("out"), run)
    with refused(WriteError, "unwritable", run_dir.with_name(f"{run_dir.name}.yaml")):
        Training(run, run_dir)  # its folder is not there


def test_hours_are_those_of_all_steps(world: Path, trained_run: Path, tmp_path: Path) -> None:
    columns = (trained_run / "metrics.csv").read_text().splitlines()[0]
    rows = [dict.fromkeys(columns.split(","), "1") for _ in range(2)]
    rows[0] |= {"step": "10", "segments_per_second": "8"}
    rows[1] |= {"step": "30", "segments_per_second": "4", "seconds": "0.5"}  # resumed: from 0 again
    with (tmp_path / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns.split(","))
        writer.writeheader()
        writer.writerows(rows)
    progress = read_progress(tmp_path, batch_size=8)
    assert progress.segments == 240
    assert progress.hours == pytest.approx((10 * 8 / 8 + 20 * 8 / 4) / 3600)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--task", "pitch.csv", "--data", "nowhere"), "nowhere"),
        ((), "--task"),
        (("--task", "nowhere.csv"), "nowhere.csv"),
        (("--task", "nowhere.csv", "--dry-run"), "nowhere.csv"),
        (("--task", "pitch.csv", "--tasks", "us8k"), "--tasks"),
        (("--task", "pitch.csv", "--shard", f"1/{'9' * 5000}"), "--shard"),
        (("--task", "pitch.csv", "data.source=x"), "--data"),
        (("--task", "pitch.csv", "run.dir=x"), "--out"),
        (("--task", "pitch.csv", "encoder.dmi=3"), "encoder.dmi"),
        (("--task", "pitch.csv", "--probe", "best"), "--probe"),
    ],
)
def test_wrong_use_is_refused_before_any_work(
    world: Path, arguments: tuple[str, ...], told: str
) -> None:
    done = ablate(*arguments)
    assert done.exit_code == 2, done.output
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert told in errors[0]
    assert not Path("out").exists()


def test_seeds_that_were_tested_on_other_clips_are_not_mixed_in(
    world: Path, trained_run: Path
) -> None:
    train(plan(1), trained_run)
    assert ablate("--task", "pitch.csv", "--seeds", "1").exit_code == 0
    train(plan(2)[2:], trained_run)
    limited = ("--task", "pitch.csv", "--seeds", "2", "--limit", "2")
    assert ablate(*limited, "--shard", "4/4").exit_code == 0  # the crop's second seed alone
    assert [(row["variant"], row["seeds"]) for row in read_report()] == [("crop", "1")]
    assert "full, seed 42: no result on pitch" in Path("out/small.md").read_text()
