"""Several processes under torchrun: what they exchange, and how they stop and resume."""

import json
import re
import signal
from pathlib import Path

import pytest

from byola_rq.config import Config
from byola_rq.runs.checkpoint import load_newest_checkpoint
from byola_rq.runs.metrics import read_metrics
from byola_rq.train.loop import pretrain
from tests.conftest import ROOT, small_run
from tests.run_process import model_bytes, moved
from tests.torchrun import Torchrun

NUM_STEPS = 12


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, object]]:
    """Return the records of each of three ranks."""
    folder = tmp_path_factory.mktemp("seen")
    with Torchrun([ROOT / "tests/rank_exchange.py", folder], 3, folder / "out") as job:
        status, _, stderr = job.end()
    assert status == 0, stderr
    return [json.loads((folder / f"{number}.json").read_text()) for number in range(3)]


def test_all_ranks_see_the_same(seen: list[dict[str, object]]) -> None:
    for number, each in enumerate(seen):
        assert each["ranks"] == [number, 3]
        assert each["json"] == [{"rank": other, "text": "ä" * other} for other in range(3)]
        assert each["rows"] == [0, 0, 1, 1, 2, 2]
        assert each["own"] == [number, number]
        assert each["max"] == [2, 0]
        # The sum counts in every rank's result: 1 + 10 + 100.
        assert each["sum"] == [6, 111]
        assert each["shared"] == "of rank 0"
        assert each["empty"] == ""


def test_an_error_of_one_rank_ends_all_and_is_reported_once(seen: list[dict[str, object]]) -> None:
    for number, each in enumerate(seen):
        elsewhere, here, nowhere = each["errors"]  # type: ignore[misc]
        assert elsewhere[1:] == [2, number != 0, "missing", "gone"]
        assert here == ["gone: no such folder", 2, number != 0, "missing", "gone"]
        assert nowhere == []
    assert seen[0]["errors"][0][0] == "rank 2 of 3: gone: no such folder"  # type: ignore[index]


def test_ranks_stop_after_the_same_step(seen: list[dict[str, object]]) -> None:
    for each in seen:
        assert each["votes"] == [None, None, signal.SIGTERM, None]
        assert each["last"] == signal.SIGUSR1


def test_weights_that_differ_are_refused(seen: list[dict[str, object]]) -> None:
    for each in seen:
        same, different = each["divergence"]  # type: ignore[misc]
        assert same == []
        assert different[:2] == ["diverged", "runs/a"]
        assert "rank 1 " in different[2]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, sounds: Path) -> Config:
    """A run of two processes."""
    folder = tmp_path_factory.mktemp("undisturbed")
    config = small_run(
        folder / "run",
        sounds,
        "data.workers=1",
        "checkpoint.every_steps=3",
        "checkpoint.keep=9",
        f"train.max_steps={NUM_STEPS}",
    )
    with start(config, folder) as job:
        status, stdout, stderr = job.end()
    assert status == 0, stderr
    assert stdout.split() == [str(config.run.dir / "encoder.safetensors")]
    assert stderr.count("starting 12 steps") == 1
    return config


def start(config: Config, folder: Path, max_restarts: int = 0) -> Torchrun:
    path = folder / f"{config.run.dir.name}.yaml"
    path.write_text(config.to_yaml())
    arguments = ["-m", "byola_rq", "pretrain", path]
    return Torchrun(arguments, 2, folder / "out", max_restarts)


def steps_done(config: Config) -> int:
    return len(read_metrics(config.run.dir / "metrics.csv"))


def test_ranks_go_on_where_a_signal_stopped_them(undisturbed: Config, tmp_path: Path) -> None:
    config = moved(undisturbed, tmp_path / "run")
    with start(config, tmp_path) as job:
        job.wait_for(lambda: steps_done(config) >= 4)
        job.send(signal.SIGTERM)
        status, _, stderr = job.end()
    assert status != 0
    checkpoint, damages = load_newest_checkpoint(config.run.dir)
    assert checkpoint is not None
    assert not damages
    step = checkpoint.state["step"]
    assert 4 <= step < NUM_STEPS
    assert steps_done(config) == step
    assert len(re.findall(rf"SIGTERM.* step {step},", stderr)) == 1
    with start(config, tmp_path) as job:
        status, _, stderr = job.end()
    assert status == 0, stderr
    assert model_bytes(config) == model_bytes(undisturbed)
    rows = read_metrics(config.run.dir / "metrics.csv")
    expected = read_metrics(undisturbed.run.dir / "metrics.csv")
    assert [(row["step"], row["loss"]) for row in rows] == [
        (row["step"], row["loss"]) for row in expected
    ]


def test_a_killed_rank_is_started_again(undisturbed: Config, tmp_path: Path) -> None:
    config = moved(undisturbed, tmp_path / "run")
    with start(config, tmp_path, max_restarts=1) as job:
        job.wait_for(lambda: steps_done(config) >= 5)
        before = job.pids()
        job.send(signal.SIGKILL, rank=1)
        status, _, stderr = job.end()
    assert status == 0, stderr
    assert len(before) == 2
    assert stderr.count(f"resuming after step 3 of {NUM_STEPS}") == 1
    # Rank 0 says so, unless torchrun's SIGTERM meets it before.
    assert stderr.count("error: ") <= 1
    assert model_bytes(config) == model_bytes(undisturbed)


def test_one_process_goes_on_with_what_two_have_begun(undisturbed: Config, tmp_path: Path) -> None:
    config = moved(undisturbed, tmp_path / "run", "train.max_steps=3")
    with start(config, tmp_path) as job:
        status, _, stderr = job.end()
    assert status == 0, stderr
    pretrain(moved(config, tmp_path / "run", f"train.max_steps={NUM_STEPS}"))
    rows = read_metrics(config.run.dir / "metrics.csv")
    expected = read_metrics(undisturbed.run.dir / "metrics.csv")
    assert len(rows) == len(expected) == NUM_STEPS
    # With the same weights, clips and views the loss, up to 8, is the same but for float32's
    # rounding; what follows is not, since Adam makes much of the rounding of small gradients.
    assert [row["loss"] for row in rows[:3]] == [row["loss"] for row in expected[:3]]
    assert abs(float(rows[3]["loss"]) - float(expected[3]["loss"])) <= 1e-4


def test_a_batch_that_the_ranks_cannot_share_is_refused(
    undisturbed: Config, tmp_path: Path
) -> None:
    config = moved(undisturbed, tmp_path / "run", "train.batch_size=9")
    with start(config, tmp_path) as job:
        status, _, stderr = job.end()
    assert status != 0
    assert stderr.count("error: ") == 1
    assert "error: train.batch_size " in stderr
    assert not config.run.dir.exists()
