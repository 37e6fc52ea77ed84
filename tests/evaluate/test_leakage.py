"""Nothing that is fitted may depend on a test clip, neither on its sound nor on its label."""

import dataclasses

import numpy as np
import pytest
import soundfile

from byola_rq.frontend import LogMelSpectrogram
from evaluate.embeddings import make_baseline
from evaluate.folds import make_folds
from evaluate.labelled_csv import read_labelled_csv
from evaluate.runner import Outcome, Settings, decode, evaluate_model
from evaluate.tasks import Task

SETTINGS = Settings(
    probes=("logistic", "adam"),
    norm="task",
    seed=0,
    device="cpu",
    num_workers=2,
    batch_size=4,
)


def run(task: Task) -> list[Outcome]:
    model = make_baseline(
        "random",
        encoder_name="audio_ntt_2020",
        dim=16,
        frontend=LogMelSpectrogram(),
        seed=0,
        device="cpu",
    )
    return evaluate_model(
        model, decode(task, model, SETTINGS), make_folds(task, SETTINGS.seed), SETTINGS
    )


def fitted_numbers(outcome: Outcome) -> list[np.ndarray]:
    """Everything that was fitted: statistics, scaler, classifier, C or the best epoch."""
    classifier = outcome.fitted.classifier
    if outcome.probe == "logistic":
        learned = [classifier.coef_, classifier.intercept_]
    else:
        learned = [part.detach().numpy() for part in classifier.layer_.parameters()]
    scaler, statistics = outcome.fitted.scaler, outcome.statistics
    params = list(outcome.fitted.params.values())
    numbers = [[statistics.mean, statistics.std], scaler.mean_, scaler.scale_, params, *learned]
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
    before = run(task)
    after = run(spoil(task, "test"))
    assert len(before) == 4  # logistic once, adam from three seeds
    for first, second in zip(before, after, strict=True):
        assert is_same(first, second)
    assert any(
        not np.array_equal(first.predictions, second.predictions)
        for first, second in zip(before, after, strict=True)
    )  # the garbage did arrive


@pytest.mark.parametrize("part", ["train", "valid"])
def test_what_is_fitted_does_depend_on_the_other_parts(tmp_path, write_set, split_rows, part):
    task = read_labelled_csv(write_set(tmp_path / "a.csv", split_rows), unit_seconds=0.3)
    before = run(task)
    after = run(spoil(task, part))
    same = [is_same(first, second) for first, second in zip(before, after, strict=True)]
    # Validation clips choose C and the epoch, and nothing else.
    assert not any(same) if part == "train" else not all(same)


def test_fold_fits_nothing_on_the_clips_left_out(tmp_path, write_set, fold_rows):
    task = read_labelled_csv(write_set(tmp_path / "a.csv", fold_rows, "fold"), unit_seconds=0.3)
    before = run(task)
    after = run(spoil(task, "2"))
    same = {outcome.fold.name: [] for outcome in before}
    for first, second in zip(before, after, strict=True):
        same[first.fold.name].append(is_same(first, second))
    assert all(same["2"])
    assert not any(same["1"] + same["3"])  # there the spoiled clips are for training
