"""Length of a run in epochs, steps or segments, and the warning before a short one."""

import math
from pathlib import Path

import pytest

from byola_rq.config import Config
from byola_rq.runs.checkpoint import load_newest_checkpoint, save_checkpoint
from byola_rq.runs.metrics import read_metrics
from byola_rq.train.budget import FEW_SEGMENTS, count_steps, warning_of_few_segments
from byola_rq.train.loop import pretrain
from tests.conftest import small_run

NO_STEPS = "train.max_steps=null"


def test_steps_are_counted_in_full_batches(sounds: Path) -> None:
    config = small_run(Path("unused"), sounds, NO_STEPS, "train.epochs=10")
    assert count_steps(config, 24) == 30
    assert count_steps(config, 25) == 31
    config = small_run(Path("unused"), sounds, "train.max_steps=5", "train.epochs=10")
    assert count_steps(config, 25) == 5


@pytest.mark.parametrize(("segments", "steps"), [(1, 1), (40, 5), (41, 6)])
def test_segments_are_a_length_of_their_own(sounds: Path, segments: int, steps: int) -> None:
    config = small_run(
        Path("unused"), sounds, NO_STEPS, "train.epochs=1", f"train.segments={segments}"
    )
    assert count_steps(config, 24) == steps


def test_schedules_end_with_the_segments(tmp_path: Path, sounds: Path) -> None:
    config = small_run(
        tmp_path / "run",
        sounds,
        NO_STEPS,
        "train.epochs=1",  # 3 steps
        "train.segments=38",
        "optimizer.schedule=cosine",
        "byol.ema_schedule=cosine",
    )
    pretrain(config)
    rows = read_metrics(config.run.dir / "metrics.csv")
    assert len(rows) == 5
    for step, row in enumerate(rows):
        part = (1 + math.cos(math.pi * step / 5)) / 2  # of the way that is left
        assert float(row["learning_rate"]) == pytest.approx(3e-4 * part, rel=1e-4)
        assert float(row["ema_decay"]) == pytest.approx(1 - 0.01 * part, rel=1e-5)


def test_a_run_of_before_the_newer_keys_goes_on(trained_config: Config, sounds: Path) -> None:
    run_dir = trained_config.run.dir
    checkpoint, _ = load_newest_checkpoint(run_dir)
    assert checkpoint is not None
    config = checkpoint.state["config"]
    del config["train"]["segments"], config["encoder"]["init"], config["encoder"]["freeze_steps"]
    save_checkpoint(run_dir, checkpoint, keep=1)
    pretrain(trained_config)  # done already: its model file is written from that checkpoint
    pretrain(small_run(run_dir, sounds, "train.max_steps=5"))
    assert [row["step"] for row in read_metrics(run_dir / "metrics.csv")] == list("12345")


def test_a_short_run_is_warned_of_once(
    small_config: Config, sounds: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def warnings() -> list[str]:
        lines = capfd.readouterr().err.splitlines()
        return [line for line in lines if line.startswith("warning: ") and "train.segments" in line]

    pretrain(small_config)
    (line,) = warnings()
    assert "32 segments" in line
    assert "an untrained one" in line
    pretrain(small_run(small_config.run.dir, sounds, "train.max_steps=5"))  # goes on
    assert warnings() == []


@pytest.mark.parametrize(
    ("segments", "is_warned"), [(FEW_SEGMENTS - 8, True), (FEW_SEGMENTS, False)]
)
def test_what_is_short(sounds: Path, segments: int, is_warned: bool) -> None:
    config = small_run(Path("unused"), sounds, NO_STEPS, f"train.segments={segments}")
    assert (warning_of_few_segments(config, count_steps(config, 24)) is not None) == is_warned
