import warnings

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from scipy.stats import binom
from sklearn.linear_model import LogisticRegression

from evaluate import probe as probe_module
from evaluate.probe import LOGISTIC_C, PROBES, Part, fit_adam, fit_logistic

GRADIENT_TOLERANCE = 3e-4  # scikit-learn stops at 1e-4 of the mean objective, in float32


def draw_parts(separation: float, seed: int = 0, sizes=(240, 90, 150)) -> list[Part]:
    """Gaussian classes, 4 of them in 12 dimensions of very different scale."""
    generator = np.random.default_rng(seed)
    centres = separation * generator.normal(size=(4, 12))
    scales = 10.0 ** generator.uniform(-2, 2, size=12)
    parts = []
    for size in sizes:
        labels = np.arange(size) % 4
        features = (centres[labels] + generator.normal(size=(size, 12))) * scales
        parts.append(Part(features.astype(np.float32), labels))
    return parts


def penalized_objective(flat, features, labels, inverse_penalty):
    """Mean cross-entropy with an L2 penalty on the weights, and its gradient; float64."""
    num_classes = labels.max() + 1
    weights = flat.reshape(num_classes, -1)
    logits = features @ weights[:, :-1].T + weights[:, -1]
    targets = np.eye(num_classes)[labels]
    strength = 1 / (inverse_penalty * len(labels))
    value = -np.mean((targets * log_softmax(logits, axis=1)).sum(axis=1))
    value += 0.5 * strength * np.square(weights[:, :-1]).sum()
    difference = (softmax(logits, axis=1) - targets) / len(labels)
    gradient = np.hstack([difference.T @ features, difference.sum(axis=0)[:, None]])
    gradient[:, :-1] += strength * weights[:, :-1]
    return value, gradient.ravel()


def accuracy(fitted, part: Part) -> float:
    return float(np.mean(fitted.predict(part.features) == part.labels))


@pytest.mark.parametrize("separation", [0.5, 2.0])
def test_logistic_is_the_optimum_of_its_objective(separation):
    train, valid, test = draw_parts(separation)
    (fitted,) = fit_logistic(train, valid, seed=0, device="cpu")
    mean, std = train.features.mean(axis=0, dtype=float), train.features.std(axis=0, dtype=float)
    features = (train.features - mean) / std
    solution = np.hstack([fitted.classifier.coef_, fitted.classifier.intercept_[:, None]])
    arguments = (features, train.labels, fitted.params["C"])
    value, gradient = penalized_objective(solution.ravel().astype(float), *arguments)
    assert np.abs(gradient).max() < GRADIENT_TOLERANCE
    start = np.zeros(solution.size)
    exact = minimize(penalized_objective, start, arguments, jac=True, tol=1e-12).x
    assert value - penalized_objective(exact, *arguments)[0] < 1e-4
    weights = exact.reshape(4, -1)
    logits = (test.features - mean) / std @ weights[:, :-1].T + weights[:, -1]
    assert np.mean(logits.argmax(axis=1) == fitted.predict(test.features)) > 0.98


def test_logistic_takes_the_smallest_best_c():
    train, valid, _ = draw_parts(0.7)
    (fitted,) = fit_logistic(train, valid, seed=0, device="cpu")
    scores = []
    for inverse_penalty in LOGISTIC_C:  # each from nothing, not from the last
        model = LogisticRegression(C=inverse_penalty, max_iter=10_000)
        model.fit(fitted.scaler.transform(train.features), train.labels)
        scores.append(model.score(fitted.scaler.transform(valid.features), valid.labels))
    assert fitted.params["C"] == LOGISTIC_C[int(np.argmax(scores))]
    assert min(scores) < max(scores)  # or any choice would have been right


def test_equal_accuracies_choose_the_smallest_c():
    train, valid, _ = draw_parts(separation=20.0)
    (fitted,) = fit_logistic(train, valid, seed=0, device="cpu")
    assert fitted.params["C"] == LOGISTIC_C[0]


def test_logistic_says_when_it_has_not_converged(monkeypatch):
    train, valid, _ = draw_parts(1.0)
    monkeypatch.setattr(probe_module, "LOGISTIC_MAX_ITERATIONS", (1, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # scikit-learn's own warning is turned into ours
        (fitted,) = fit_logistic(train, valid, seed=0, device="cpu")
    assert "logistic C=1 has not converged in 2 iterations" in fitted.warnings


def test_more_iterations_are_tried_before_it_is_said(monkeypatch):
    train, valid, _ = draw_parts(1.0)
    monkeypatch.setattr(probe_module, "LOGISTIC_MAX_ITERATIONS", (1, 5000))
    (patient,) = fit_logistic(train, valid, seed=0, device="cpu")
    assert patient.warnings == ()


@pytest.mark.parametrize("name", PROBES)
def test_probes_learn_what_can_be_learned(name):
    train, valid, test = draw_parts(separation=4.0)
    for fitted in PROBES[name](train, valid, seed=0, device="cpu"):
        assert accuracy(fitted, test) > 0.95


def test_probes_agree():
    train, valid, test = draw_parts(separation=1.0, sizes=(800, 400, 800))
    (logistic,) = fit_logistic(train, valid, seed=0, device="cpu")
    for adam in fit_adam(train, valid, seed=0, device="cpu"):
        same = np.mean(adam.predict(test.features) == logistic.predict(test.features))
        assert same > 0.9
        assert abs(accuracy(adam, test) - accuracy(logistic, test)) < 0.04


@pytest.mark.parametrize("name", PROBES)
def test_permuted_labels_give_chance(name):
    parts = draw_parts(separation=4.0, sizes=(400, 200, 1000))
    generator = np.random.default_rng(1)
    train, valid, test = (Part(p.features, generator.permutation(p.labels)) for p in parts)
    low, high = binom.interval(0.9999, len(test.labels), 0.25)
    for fitted in PROBES[name](train, valid, seed=0, device="cpu"):
        assert low <= accuracy(fitted, test) * len(test.labels) <= high


@pytest.mark.parametrize("name", PROBES)
def test_scaler_is_fitted_on_training_clips_alone(name):
    train, valid, _ = draw_parts(1.0)
    far = Part(valid.features + 1e3, valid.labels)
    for fitted in PROBES[name](train, far, seed=0, device="cpu"):
        np.testing.assert_allclose(fitted.scaler.mean_, train.features.mean(axis=0), rtol=1e-3)
        np.testing.assert_allclose(fitted.scaler.scale_, train.features.std(axis=0), rtol=1e-3)


def test_constant_dimension_does_no_harm():
    train, valid, test = (
        Part(np.hstack([p.features, np.full((len(p.labels), 1), 3.0, np.float32)]), p.labels)
        for p in draw_parts(4.0)
    )
    (fitted,) = fit_logistic(train, valid, seed=0, device="cpu")
    assert accuracy(fitted, test) > 0.95


def test_adam_has_three_seeds():
    train, valid, _ = draw_parts(0.5)
    probes = fit_adam(train, valid, seed=4, device="cpu")
    assert [fitted.seed for fitted in probes] == [4, 5, 6]
    first, second, third = (p.classifier.layer_.weight for p in probes)
    assert not torch.equal(first, second)
    assert not torch.equal(second, third)


@pytest.mark.parametrize("name", PROBES)
def test_small_fits_leave_the_number_of_threads_as_it_was(name):
    train, valid, _ = draw_parts(1.0)
    torch.set_num_threads(2)
    try:
        PROBES[name](train, valid, seed=0, device="cpu")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
