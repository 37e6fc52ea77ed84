"""Validation schedule of a run, and the files that validated runs leave."""

import math
import shutil
import signal
from pathlib import Path

import pytest

from byola_rq.config import Config
from byola_rq.errors import AudioError
from byola_rq.runs.best import load_best_checkpoint, read_best
from byola_rq.runs.checkpoint import load_newest_checkpoint
from byola_rq.runs.history import find_runs
from byola_rq.runs.metrics import read_metrics
from byola_rq.train.loop import pretrain
from byola_rq.train.validation import RunValidation, Validation
from tests.refusal import refused
from tests.run_process import Run, model_bytes, moved
from tests.train.test_step import batch, train_step
from tests.train.test_validation import (  # noqa: F401  # fixtures
    labelled_sounds,
    make_config,
    make_training,
    needs_sklearn,
    write_rows,
)


def make_run_validation(config: Config, num_clips: int, num_steps: int) -> RunValidation:
    return RunValidation(config, num_clips=num_clips, num_steps=num_steps, log=print)


@pytest.mark.parametrize(
    ("every_epochs", "expected"),
    [
        ("1", [3, 6, 9, 10]),  # 24 clips in steps of 8; 10 is the last step
        ("2", [6, 10]),
        ("0.5", [2, 3, 5, 6, 8, 9, 10]),
        ("0.1", list(range(1, 11))),
        ("2.5", [8, 10]),
        ("1e3", [10]),
    ],
)
def test_when_it_is_due(
    labelled_sounds: Path,  # noqa: F811
    every_epochs: str,
    expected: list[int],
) -> None:
    config = make_config(labelled_sounds, f"validation.every_epochs={every_epochs}")
    validation = make_run_validation(config, num_clips=24, num_steps=10)
    assert [step for step in range(11) if validation.is_due(step)] == expected


def test_multiples_are_those_of_the_decimal_number(labelled_sounds: Path) -> None:  # noqa: F811
    # As a float 0.1 is a little more than a tenth, and the first would not be reached by step 1.
    config = make_config(labelled_sounds, "validation.every_epochs=0.1")
    validation = make_run_validation(config, num_clips=80, num_steps=100)
    assert all(validation.is_due(step) for step in range(1, 101))


def test_without_a_csv_none_is_due_but_the_best_is_still_kept(
    small_config: Config,
    tmp_path: Path,
    labelled_sounds: Path,  # noqa: F811
) -> None:
    config = moved(small_config, tmp_path / "run", "validation.labelled=null")
    config.run.dir.mkdir()
    validation = make_run_validation(config, num_clips=24, num_steps=10)
    assert not any(validation.is_due(step) for step in range(11))
    assert validation.best_step is None
    named = moved(config, tmp_path / "run", f"validation.labelled={labelled_sounds}")
    make_run_validation(named, num_clips=24, num_steps=10).note_best(7, 50.0)
    assert make_run_validation(config, num_clips=24, num_steps=10).best_step == 7


def test_a_clip_that_is_gone_costs_one_validation(
    labelled_sounds: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("byola_rq.train.validation.MAX_BYTES_KEPT", 0)
    path = Path(shutil.copytree(labelled_sounds.parent, tmp_path / "set")) / labelled_sounds.name
    config = make_config(path, f"run.dir={tmp_path}")
    validation, training = make_run_validation(config, 24, 10), make_training(config)
    train_step(training, batch(0))
    score, is_best = validation.score(training, lambda: False)
    assert score == Validation(config).score(training)
    assert is_best
    assert math.isnan(validation.score(training, lambda: True)[0])
    assert capsys.readouterr().out == ""
    next(path.parent.glob("*_0.wav")).unlink()
    score, is_best = validation.score(training, lambda: False)
    assert math.isnan(score)
    assert not is_best
    said = capsys.readouterr().out
    assert said.startswith("WARNING: ")
    assert "_0.wav" in said
    assert len(said.splitlines()) == 1


@pytest.fixture
def watched_config(
    small_config: Config,
    tmp_path: Path,
    labelled_sounds: Path,  # noqa: F811
) -> Config:
    """Ten steps of 8 of 24 clips: due after 2, 3, 5, 6, 8, 9 and 10."""
    return moved(
        small_config,
        tmp_path / "watched",
        "train.max_steps=10",
        f"validation.labelled={labelled_sounds}",
        "validation.every_epochs=0.5",
        "train.log_every=4",
        "checkpoint.every_steps=4",
        "checkpoint.keep=1",
    )


def test_a_watched_run_learns_the_same_and_keeps_its_best(
    watched_config: Config, tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    plain = moved(watched_config, tmp_path / "plain", "validation.labelled=null")
    pretrain(plain)
    watched = moved(
        watched_config, tmp_path / "all", "tensorboard.enabled=true", "tensorboard.views_every=5"
    )
    pretrain(watched)
    assert model_bytes(watched) == model_bytes(plain)
    rows = read_metrics(watched.run.dir / "metrics.csv")
    scores = {int(row["step"]): float(row["validation"]) for row in rows}
    assert list(scores) == [2, 3, 4, 5, 6, 8, 9, 10]
    assert [step for step, score in scores.items() if math.isnan(score)] == [4]
    best = read_best(watched.run.dir)
    assert best is not None
    known = {step: score for step, score in scores.items() if not math.isnan(score)}
    step, score = max(known.items(), key=lambda item: (item[1], -item[0]))
    assert (best.step, best.score) == (step, pytest.approx(score, rel=1e-5))
    assert load_best_checkpoint(watched.run.dir).state["step"] == best.step
    kept = {path.name for path in watched.run.dir.glob("step-*")}
    assert kept == {f"step-{best.step:08d}", "step-00000010"}
    assert {row["validation"] for row in read_metrics(plain.run.dir / "metrics.csv")} == {"nan"}
    (run,), notes = find_runs([watched.run.dir])
    assert (run.best, notes) == (best, [])
    from tests.train.test_tensorboard import read_back

    read = read_back(watched.run.dir / "tensorboard")
    assert {event.step: event.value for event in read.Scalars("validation")} == {
        step: pytest.approx(score, rel=1e-5) for step, score in known.items()
    }
    assert [event.step for event in read.Images("views")] == [5, 10]


@pytest.mark.parametrize("last_step", [1, 3, 5, 8])
def test_a_killed_run_goes_on_to_the_same_scores_and_best(
    watched_config: Config, tmp_path: Path, last_step: int
) -> None:
    every_step = ("checkpoint.every_steps=1", "checkpoint.keep=10")
    whole = moved(watched_config, tmp_path / "whole", *every_step)
    pretrain(whole)
    killed = moved(whole, tmp_path / "killed")
    shutil.copytree(whole.run.dir, killed.run.dir)
    for step in range(last_step + 1, 11):
        shutil.rmtree(killed.run.dir / f"step-{step:08d}")
    pretrain(killed)
    assert model_bytes(killed) == model_bytes(whole)
    assert read_best(killed.run.dir) == read_best(whole.run.dir)
    columns = ("step", "validation", "loss")
    got, expected = (
        [[row[name] for name in columns] for row in read_metrics(run_dir / "metrics.csv")]
        for run_dir in (killed.run.dir, whole.run.dir)
    )
    assert got == expected


@pytest.mark.parametrize("met", ["a stop", "a crash"])
def test_a_validation_that_was_cut_off_is_made_up_for(
    watched_config: Config, tmp_path: Path, met: str
) -> None:
    whole = moved(watched_config, tmp_path / "whole", "train.max_steps=3")
    pretrain(whole)
    cut = moved(whole, tmp_path / "cut")
    shutil.copytree(whole.run.dir, cut.run.dir)
    path = cut.run.dir / "metrics.csv"
    content = path.read_bytes()
    (cut.run.dir / "best.json").unlink()
    if met == "a stop":  # leaves a row without the score
        head, _, _ = content.rpartition(b",")
        path.write_bytes(head + b",nan\r\n")
    pretrain(cut)
    assert path.read_bytes() == content
    best = read_best(cut.run.dir)
    assert best is not None
    assert best.step == 3


def test_a_stop_ends_a_watched_run(watched_config: Config, tmp_path: Path) -> None:
    config = moved(watched_config, tmp_path / "stopped", "train.max_steps=100000")
    run = Run(config, tmp_path)
    try:
        run.wait_for_steps(3)
        run.send(signal.SIGTERM)
        status, stderr = run.end()
    finally:
        run.kill()
    assert status == 143, stderr
    newest, _ = load_newest_checkpoint(config.run.dir)
    assert newest is not None
    assert int(read_metrics(config.run.dir / "metrics.csv")[-1]["step"]) == newest.state["step"]


def test_a_clip_that_cannot_be_read_ends_a_run_before_it_starts(
    watched_config: Config, tmp_path: Path
) -> None:
    rows = [("a.wav", "a", "train"), ("b.wav", "b", "train"), ("c.wav", "a", "valid")]
    for name, _, _ in rows:
        (tmp_path / name).write_bytes(b"noise" * 99)
    labelled = write_rows(tmp_path / "bad.csv", rows)
    config = moved(watched_config, tmp_path / "refused", f"validation.labelled={labelled}")
    with refused(AudioError, "damaged", tmp_path / "a.wav") as caught:
        pretrain(config)
    assert f"row 2 of {labelled}" in str(caught.value)
    assert not list(tmp_path.glob("refused/step-*"))
