"""The two official probes, held against their rules as they were described, written out plainly."""

import math

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax
from sklearn.metrics import average_precision_score

from evaluate.probes.official import OFFICIAL_PROBES, draw_valid, fit_official
from evaluate.probes.prepared import Part

# Epochs below the best, runs, rate, whether cross-entropy is averaged over the classes too.
RULES = {"byol_a": (10, 1, 1e-3, False), "evar": (20, 3, 3e-4, True)}
RATES_OF_V2 = {
    "nsynth": 0.001,
    "us8k": 0.00003,
    "vc1": 0.00004,
    "voxforge": 0.0001,
    "spcv2": 0.00003,
    "esc50": 0.001,
    "gtzan": 0.001,
    "cremad": 0.0003,
    "fsd50k": 0.0003,
    "spcv2_12": 0.0003,
}


def draw_parts(is_multilabel, sizes=(230, 60)):
    """5 classes that overlap in 6 dimensions of different scale: train, valid."""
    generator = np.random.default_rng(5)
    centers = generator.normal(size=(5, 6))
    parts = []
    for size in sizes:
        if is_multilabel:
            labels = generator.random((size, 5)) < (0.5, 0.4, 0.3, 0.3, 0.2)
            means = labels @ centers
        else:
            labels = np.arange(size) % 5
            means = centers[labels]
        features = (means + generator.normal(size=(size, 6))) * 10.0 ** np.arange(-2, 4)
        parts.append(Part(features.astype(np.float32), labels))
    return parts


def score_plainly(labels, logits):
    if labels.ndim == 1:
        return np.mean(logits.argmax(axis=1) == labels)
    return np.mean(
        [average_precision_score(*pair) for pair in zip(labels.T, logits.T, strict=True)]
    )


def run_plainly(name, train, valid, scaled_by, seed, lr):
    """Train one run in float64: weights, bias, best epoch and number of epochs, counted from 1.

    The order of torch's draws is that of the package: weights, bias, then an order an epoch.
    """
    patience, _, _, is_mean_over_classes = RULES[name]
    mean, std = scaled_by.mean(axis=0, dtype=float), scaled_by.std(axis=0, dtype=float)
    x, x_valid = ((part.features - mean) / std for part in (train, valid))
    is_multilabel = train.labels.ndim == 2
    targets = train.labels if is_multilabel else np.eye(5)[train.labels]
    generator = torch.Generator().manual_seed(seed)
    bound = 1 / math.sqrt(6)
    draws = [torch.empty(s).uniform_(-bound, bound, generator=generator) for s in ((5, 6), (5,))]
    parameters = [draw.numpy().astype(float) for draw in draws]
    first, second, step = [0.0, 0.0], [0.0, 0.0], 0
    scores, states = [], []
    for _ in range(200):
        order = torch.randperm(len(x), generator=generator).numpy()
        for batch in np.split(order, range(200, len(x), 200)):
            logits = x[batch] @ parameters[0].T + parameters[1]
            said = expit(logits) if is_multilabel else softmax(logits, axis=1)
            errors = (said - targets[batch]) / len(batch)
            if is_multilabel or is_mean_over_classes:
                errors = errors / 5
            step += 1
            for i, slope in enumerate((errors.T @ x[batch], errors.sum(axis=0))):
                gradient = slope + 1e-8 * parameters[i]
                first[i] = 0.9 * first[i] + 0.1 * gradient
                second[i] = 0.999 * second[i] + 0.001 * gradient**2
                move = first[i] / (1 - 0.9**step)
                move = move / (np.sqrt(second[i] / (1 - 0.999**step)) + 1e-8)
                parameters[i] = parameters[i] - lr * move
        scores.append(score_plainly(valid.labels, x_valid @ parameters[0].T + parameters[1]))
        states.append([part.copy() for part in parameters])
        last_best = max(epoch for epoch, each in enumerate(scores) if each == max(scores))
        if len(scores) - 1 - last_best == patience:
            break
    return (*states[last_best], last_best + 1, len(scores))


# A step moves a weight by about the rate, with the relative error of a float32 gradient, 1e-6 to
# 1e-5; the longest run takes 200 epochs of 2 steps.
STEP_ERROR = 400 * 1e-5


@pytest.mark.parametrize("is_multilabel", [False, True])
@pytest.mark.parametrize("is_valid_drawn", [False, True])
@pytest.mark.parametrize("name", RULES)
def test_is_the_probe_written_out(name, is_multilabel, is_valid_drawn):
    train, valid = draw_parts(is_multilabel)
    _, num_runs, lr, _ = RULES[name]
    fitted = fit_official(
        name, train, valid, task="birds", is_valid_drawn=is_valid_drawn, seed=3, device="cpu"
    )
    assert [probe.seed for probe in fitted] == list(range(3, 3 + num_runs))
    for probe in fitted:
        parts, scaled_by = (train, valid), train.features
        if is_valid_drawn:
            features = np.concatenate([train.features, valid.features])
            labels = np.concatenate([train.labels, valid.labels])
            chosen = draw_valid(labels, probe.seed)
            parts = (
                Part(features[~chosen], labels[~chosen]),
                Part(features[chosen], labels[chosen]),
            )
            scaled_by = features
        weight, bias, best, num_epochs = run_plainly(name, *parts, scaled_by, probe.seed, lr)
        layer = probe.classifier.layer_
        np.testing.assert_allclose(layer.weight.detach(), weight, atol=lr * STEP_ERROR)
        np.testing.assert_allclose(layer.bias.detach(), bias, atol=lr * STEP_ERROR)
        assert (probe.params["best_epoch"], probe.params["epochs"]) == (best, num_epochs)
        assert (probe.num_train, probe.num_valid) == tuple(len(part.labels) for part in parts)
        assert probe.warnings == ()


def test_runs_differ():
    train, valid = draw_parts(is_multilabel=False)
    arguments = {"task": "birds", "is_valid_drawn": True, "device": "cpu"}
    first, second, _ = fit_official("evar", train, valid, seed=0, **arguments)
    assert not torch.equal(first.classifier.layer_.weight, second.classifier.layer_.weight)
    again = fit_official("evar", train, valid, seed=1, **arguments)[0]
    assert torch.equal(again.classifier.layer_.weight, second.classifier.layer_.weight)


def test_rates_are_the_published():
    assert {task: OFFICIAL_PROBES["evar"].lr_of(task) for task in RATES_OF_V2} == RATES_OF_V2
    assert {OFFICIAL_PROBES["byol_a"].lr_of(task) for task in RATES_OF_V2} == {1e-3}
    train, valid = draw_parts(is_multilabel=False, sizes=(40, 20))
    probe, *_ = fit_official(
        "evar", train, valid, task="gtzan", is_valid_drawn=False, seed=0, device="cpu"
    )
    assert probe.params["lr"] == 1e-3


@pytest.mark.parametrize("num_clips", [30, 41, 470])
def test_a_tenth_is_drawn_until_every_class_is_in_it(num_clips):
    labels = np.arange(num_clips) % 3
    draws = [draw_valid(labels, seed) for seed in range(20)]
    for chosen in draws:
        assert chosen.sum() == math.ceil(num_clips / 10)
        assert set(labels[chosen]) == {0, 1, 2}
    assert any((chosen != draws[0]).any() for chosen in draws)
    sizes = {tuple(np.bincount(labels[chosen])) for chosen in draws}
    assert num_clips < 40 or len(sizes) > 1  # by clips, not by class


def test_drawn_classes_of_several_labels():
    generator = np.random.default_rng(0)
    labels = generator.random((100, 4)) < (0.5, 0.4, 0.3, 0.05)
    for seed in range(20):
        assert labels[draw_valid(labels, seed)].any(axis=0).all()


def test_without_a_draw_of_every_class_the_given_part_is_kept_with_a_warning():
    train, valid = draw_parts(is_multilabel=False, sizes=(30, 10))  # 4 clips for 5 classes
    assert draw_valid(np.concatenate([train.labels, valid.labels]), 0) is None
    (probe,) = fit_official(
        "byol_a", train, valid, task="birds", is_valid_drawn=True, seed=0, device="cpu"
    )
    assert "byol_a" in probe.warnings[0]
    assert (probe.num_train, probe.num_valid) == (30, 10)
