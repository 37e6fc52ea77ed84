"""`--probe finetune` and `--label-fraction` from the command line to the files."""

import functools
import json

import pytest

from byola_rq.audio.frontend import LogMelSpectrogram, Statistics
from evaluate import fitting
from evaluate.probes.finetune import Rules
from tests.evaluate.conftest import call, read_csv


@pytest.fixture(autouse=True)
def few_epochs(monkeypatch):
    monkeypatch.setattr(
        fitting, "Rules", functools.partial(Rules, max_epochs=2, encoder_lrs=(1e-4,))
    )


def test_every_probe_with_shares_of_the_labels(tmp_path, split_csv):
    out = tmp_path / "out"
    arguments = [
        "--baseline", "random", "--baseline", "logmel", "--dim", 16, "--task", split_csv,
        "--probe", "logistic", "--probe", "finetune", "--protocol", "byol_a", "--out", out,
        "--label-fraction", 0.5, 1,
    ]  # fmt: skip
    result = call(*arguments)
    assert result.exit_code == 0, result.output
    assert "logmel has no encoder" in result.stderr
    rows = read_csv(out / "results.csv")
    assert {(r["model"], r["probe"], r["label_fraction"], r["seed"]) for r in rows} == {
        (model, probe, fraction, str(seed))
        for model, probe, seeds in (
            ("random", "logistic", 1), ("random", "byol_a", 1), ("random", "finetune", 3),
            ("logmel", "logistic", 1), ("logmel", "byol_a", 1),
        )
        for fraction in ("0.5", "1.0")
        for seed in range(seeds)
    }  # fmt: skip
    sizes = ("n_train", "n_valid", "n_test", "n_unlabelled")  # of 4, 2 and 4 clips a class
    assert {tuple(r[name] for name in sizes) for r in rows if r["label_fraction"] == "0.5"} == {
        ("6", "3", "12", "9")
    }
    assert len({row["run_id"] for row in rows}) == 10
    chosen = [json.loads(row["probe_params"]) for row in rows if row["probe"] == "finetune"]
    assert {frozenset(each) for each in chosen} == {
        frozenset({"encoder_lr", "lr", "epochs", "best_epoch"})
    }
    for row in rows:
        clips = [
            clip for clip in read_csv(out / f"predictions/{row['run_id']}.csv")
            if clip["seed"] == row["seed"]
        ]  # fmt: skip
        hits = [clip["label"] == clip["prediction"] for clip in clips]
        assert float(row["score"]) == pytest.approx(100 * sum(hits) / 12, abs=1e-4)
    assert (out / "labels.png").is_file()
    before = (out / "results.csv").read_bytes()
    assert "random: in results.csv already" in call(*arguments).stdout
    assert (out / "results.csv").read_bytes() == before


def test_a_share_that_leaves_a_class_without_clips_does_not_stop_the_others(tmp_path, split_csv):
    arguments = ["--baseline", "logmel", "--task", split_csv, "--out", tmp_path / "out"]
    result = call(*arguments, "--label-fraction", 0.1, 0.5)
    assert result.exit_code == 1
    (error,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert "0.25" in error
    assert [row["label_fraction"] for row in read_csv(tmp_path / "out/results.csv")] == ["0.5"]


def test_silence_of_a_crop_is_that_of_a_short_clips_end():
    import torch

    frontend = LogMelSpectrogram()
    clip = torch.cat([0.1 * torch.randn(1, 8000), torch.zeros(1, 8000)], dim=1)
    statistics = Statistics(mean=-7.0, std=4.0)
    end = statistics.standardize(frontend(clip))[..., -5:]
    assert torch.equal(
        end, torch.full_like(end, statistics.standardize(fitting._silence(frontend, "cpu")))
    )
