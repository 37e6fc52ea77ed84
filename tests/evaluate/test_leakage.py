"""Nothing that is fitted may depend on a test clip, neither on its sound nor on its label."""

import dataclasses
import functools
from pathlib import Path

import numpy as np
import pytest
import soundfile

from byola_rq.audio.frontend import LogMelSpectrogram
from evaluate import fitting
from evaluate.models import make_baseline
from evaluate.probes.finetune import Rules
from evaluate.probes.tuned import FineTuned
from evaluate.protocol import Clock, Outcome, Settings, prepare, run_fold
from evaluate.tasks.labelled_csv import read_labelled_csv
from evaluate.tasks.task import Task


@pytest.fixture(autouse=True)
def few_epochs(monkeypatch):
    """Enough to move the weights."""
    monkeypatch.setattr(
        fitting, "Rules", functools.partial(Rules, max_epochs=1, encoder_lrs=(1e-3,), num_seeds=1)
    )


def run(task: Task, cache: Path) -> list[Outcome]:
    model = make_baseline(
        "random",
        encoder_name="audio_ntt_2020",
        dim=16,
        frontend=LogMelSpectrogram(),
        seed=0,
        device="cpu",
    )
    settings = Settings(
        probes=("logistic", "adam", "knn", "byol_a", "evar", "finetune"),
        norm="task",
        seed=0,
        device="cpu",
        num_workers=2,
        batch_size=4,
        cache=cache,
    )
    job = prepare(task, settings)
    return [
        outcome
        for fold in job.folds
        for outcomes in run_fold(
            model, job, fold, probes=settings.probes, settings=settings, clock=Clock()
        )
        for outcome in outcomes
    ]


def fitted_numbers(outcome: Outcome) -> list[np.ndarray]:
    """Everything that was fitted: statistics, scaler, C, k or the best epoch, and the classifier.

    The classifier by what it says of embeddings that are no clip's; what is fine-tuned by its
    weights.
    """
    statistics = outcome.statistics
    if isinstance(outcome.fitted, FineTuned):
        params = [outcome.fitted.valid_score, *outcome.fitted.params.values()]
        weights = [each.numpy() for each in outcome.fitted.network.state_dict().values()]
        return [np.array([statistics.mean, statistics.std, *params]), *weights]
    scaler = outcome.fitted.scaler
    strangers = np.random.default_rng(1).normal(size=(50, len(scaler.mean_))).astype(np.float32)
    params = list(outcome.fitted.params.values())
    said = outcome.fitted.scores(strangers)
    numbers = [[statistics.mean, statistics.std], scaler.mean_, scaler.scale_, params, said]
    return [np.asarray(part) for part in numbers]


def spoil(task: Task, part: str) -> Task:
    """Loud noise for the sounds of one part, and its labels handed round."""
    generator = np.random.default_rng(0)
    clips = list(task.clips)
    spoiled = [number for number, clip in enumerate(clips) if clip.part == part]
    for number, other in zip(spoiled, np.roll(spoiled, 3), strict=True):
        soundfile.write(clips[number].path, generator.uniform(-1, 1, size=4800), 16_000)
        clips[number] = dataclasses.replace(clips[number], label=task.clips[other].label)
    assert clips != list(task.clips)
    return dataclasses.replace(task, clips=tuple(clips))


def is_same(first: Outcome, second: Outcome) -> bool:
    pairs = zip(fitted_numbers(first), fitted_numbers(second), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def test_split_fits_nothing_on_its_test_clips(tmp_path, write_set, split_rows):
    task = read_labelled_csv(write_set(tmp_path / "a.csv", split_rows), unit_seconds=0.3)
    before = run(task, tmp_path / "cache")
    after = run(spoil(task, "test"), tmp_path / "cache")
    assert len(before) == 10  # adam and evar from three seeds, the others from one
    for first, second in zip(before, after, strict=True):
        assert is_same(first, second)
    assert any(
        not np.array_equal(first.scores, second.scores)
        for first, second in zip(before, after, strict=True)
    )  # the garbage did arrive


@pytest.mark.parametrize("part", ["train", "valid"])
def test_what_is_fitted_does_depend_on_the_other_parts(tmp_path, write_set, split_rows, part):
    task = read_labelled_csv(write_set(tmp_path / "a.csv", split_rows), unit_seconds=0.3)
    before = run(task, tmp_path / "cache")
    after = run(spoil(task, part), tmp_path / "cache")
    same = [is_same(first, second) for first, second in zip(before, after, strict=True)]
    # Validation clips choose C and the epoch, and nothing else.
    assert not any(same) if part == "train" else not all(same)


def test_fold_fits_nothing_on_the_clips_left_out(tmp_path, write_set, fold_rows):
    task = read_labelled_csv(write_set(tmp_path / "a.csv", fold_rows, "fold"), unit_seconds=0.3)
    before = run(task, tmp_path / "cache")
    after = run(spoil(task, "2"), tmp_path / "cache")
    same = {outcome.fold.name: [] for outcome in before}
    for first, second in zip(before, after, strict=True):
        same[first.fold.name].append(is_same(first, second))
    assert all(same["2"])
    assert not any(same["1"] + same["3"])  # there the spoiled clips are for training
