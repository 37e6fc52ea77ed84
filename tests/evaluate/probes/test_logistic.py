import subprocess
import sys
import textwrap
import warnings

import numpy as np
import pytest
from scipy.special import expit, log_expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.multiclass import OneVsRestClassifier

from evaluate.probes import logistic as logistic_module
from evaluate.probes.logistic import LogisticProbe, choose_device
from tests.conftest import ROOT

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
GRADIENT_TOLERANCE = 1e-4 + 1e-5  # where both solvers stop, and the rounding of a float32 gradient


def draw_tagged(num_clips: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """5 classes, any number of them in a clip; standardized features of 12 dimensions."""
    generator = np.random.default_rng(seed)
    directions = 0.7 * np.random.default_rng(97).normal(size=(5, 12))
    targets = generator.random((num_clips, 5)) < (0.5, 0.4, 0.3, 0.2, 0.1)
    features = targets @ directions + generator.normal(size=(num_clips, 12))
    return features.astype(np.float32), targets


def fit(*data, penalties=PENALTIES, max_iterations=(200, 1000), **settings) -> LogisticProbe:
    probe = LogisticProbe(penalties=penalties, max_iterations=max_iterations, **settings)
    return probe.fit(*data)


def objectives(coef, intercept, features, targets, penalty):
    """Every class' objective and its gradient by weights and bias, in float64."""
    coef, intercept, features = (part.astype(float) for part in (coef, intercept, features))
    strength = 1 / (penalty * len(features))
    logits = features @ coef.T + intercept
    values = -np.mean(np.where(targets, log_expit(logits), log_expit(-logits)), axis=0)
    values += 0.5 * strength * np.square(coef).sum(axis=1)
    errors = (expit(logits) - targets) / len(features)
    return values, errors.T @ features + strength * coef, errors.sum(axis=0)


@pytest.mark.parametrize("penalty", PENALTIES)
def test_every_class_is_at_the_optimum_of_its_own_regression(penalty):
    features, targets = draw_tagged(300, 0)
    probe = fit(features, targets, *draw_tagged(100, 1), penalties=(penalty,))
    found, *gradients = objectives(probe.coef_, probe.intercept_, features, targets, penalty)
    assert max(np.abs(gradient).max() for gradient in gradients) < GRADIENT_TOLERANCE
    for number in range(5):  # scikit-learn, one class after the other, in float64
        exact = LogisticRegression(C=penalty, tol=1e-9, max_iter=10_000)
        exact.fit(features.astype(float), targets[:, number])
        optimum, *_ = objectives(
            exact.coef_, exact.intercept_, features, targets[:, [number]], penalty
        )
        # Near its optimum an objective lies above it by half the gradient times the distance.
        distance = np.abs(np.append(probe.coef_[number] - exact.coef_[0], 0)).sum()
        distance += abs(probe.intercept_[number] - exact.intercept_[0])
        assert -1e-9 < found[number] - optimum[0] < GRADIENT_TOLERANCE * distance + 1e-9
        assert distance < 0.1 * np.abs(exact.coef_).sum() + 0.01


def test_one_c_for_all_classes_is_chosen_by_mean_average_precision():
    features, targets = draw_tagged(60, 0)
    valid_features, valid_targets = draw_tagged(200, 1)
    scores = []
    for penalty in PENALTIES:
        reference = OneVsRestClassifier(LogisticRegression(C=penalty, max_iter=10_000))
        predicted = reference.fit(features, targets).decision_function(valid_features)
        scores.append(average_precision_score(valid_targets, predicted))
    probe = fit(features, targets, valid_features, valid_targets)
    assert probe.penalty_ == PENALTIES[int(np.argmax(scores))]
    assert 0 < np.argmax(scores) < len(PENALTIES) - 1  # neither end, which could be by accident


def test_multilabel_probabilities_are_scikit_learns():
    features, targets = draw_tagged(300, 0)
    test, _ = draw_tagged(100, 2)
    probe = fit(features, targets, *draw_tagged(100, 1), penalties=(1e-2,))
    reference = OneVsRestClassifier(LogisticRegression(C=1e-2, max_iter=10_000))
    expected = reference.fit(features, targets).predict_proba(test)
    np.testing.assert_allclose(probe.predict_proba(test), expected, atol=2e-3)


def test_fits_go_on_from_each_other():
    features, targets = draw_tagged(300, 0)
    valid = draw_tagged(100, 1)
    one, two = (fit(features, targets, *valid, penalties=each) for each in ((1.0,), (1.0, 1.0)))
    assert one.num_iterations_ == two.num_iterations_ > 1  # the second has nothing left to do
    labels = targets.argmax(axis=1)
    data = (features, labels, valid[0], valid[1].argmax(axis=1))
    one, two = (fit(*data, penalties=each) for each in ((1.0,), (1.0, 1.0)))
    assert one.num_iterations_ == two.num_iterations_ > 1


def test_class_that_all_training_clips_have_does_no_harm():
    features, targets = draw_tagged(100, 0)
    targets[:, 3] = True
    probe = fit(features, targets, *draw_tagged(100, 1))
    assert probe.warnings_ == ()
    assert (probe.predict_proba(features)[:, 3] > 0.9).all()


@pytest.mark.parametrize("labels_of", [lambda t: t, lambda t: t.argmax(axis=1)])
def test_only_what_has_not_converged_is_reported(labels_of):
    (features, targets), (valid, valid_targets) = draw_tagged(300, 0), draw_tagged(100, 1)
    data = features, labels_of(targets), valid, labels_of(valid_targets)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        probe = fit(*data, penalties=(1e-1, 10.0), max_iterations=(1, 2))
    assert probe.warnings_ == (
        "logistic C=0.1 has not converged in 2 iterations",
        "logistic C=10 has not converged in 2 iterations",
    )
    assert fit(*data, penalties=(1e-1, 10.0), max_iterations=(1, 1000)).warnings_ == ()


def test_what_scikit_learn_warns_of_is_handed_on_once():
    features, _ = draw_tagged(80, 0)
    labels = np.arange(80) // 1.5
    probe = fit(features, labels, features, labels, penalties=(1e-3, 1e-2))
    (message,) = probe.warnings_
    assert message.startswith("scikit-learn: ")


def test_two_classes_have_a_score_each():
    features, targets = draw_tagged(300, 0)
    labels = targets[:, 0].astype(int)
    probe = fit(features, labels, features, labels, penalties=(1e-2,))
    reference = LogisticRegression(C=1e-2).fit(features, labels)
    np.testing.assert_allclose(
        probe.predict_proba(features), reference.predict_proba(features), atol=1e-6
    )


ARRAY_API_SCRIPT = """
    import numpy as np, torch
    from evaluate.probes import logistic
    from evaluate.probes.logistic import LogisticProbe

    seen = []
    class Spy(logistic.LogisticRegression):
        def fit(self, X, y):
            seen.append(type(X))
            return super().fit(X, y)
    logistic.LogisticRegression = Spy

    for num_classes in (2, 4):
        seen.clear()
        generator = np.random.default_rng(num_classes)
        labels = np.arange(360) % num_classes
        features = generator.normal(size=(num_classes, 12))[labels]
        features = (features + generator.normal(size=(360, 12))).astype(np.float32)
        data = features[:240], labels[:240], features[240:], labels[240:]
        fits = []
        for has_array_api in (False, True):
            probe = LogisticProbe(
                penalties=(1e-3, 1e-2), max_iterations=(200,), has_array_api=has_array_api
            )
            fits.append(probe.fit(*data))
        plain, dispatched = fits
        assert seen == [np.ndarray] * 2 + [torch.Tensor] * 2, seen
        assert plain.penalty_ == dispatched.penalty_
        # Both stop at a gradient of 1e-4 in every element, 1e-4 * sqrt(n) in all. With the penalty
        # the objective is strongly convex with modulus 1 / (C N): so far apart can they be.
        size = plain.coef_.size + plain.intercept_.size
        bound = 2 * 1e-4 * size**0.5 * (plain.penalty_ * 240)
        distance = np.linalg.norm(plain.coef_ - dispatched.coef_)
        assert distance < bound < 0.05 * np.linalg.norm(plain.coef_), (distance, bound)
        assert abs(plain.num_iterations_ - dispatched.num_iterations_) <= 2
        np.testing.assert_allclose(
            plain.predict_proba(data[2]), dispatched.predict_proba(data[2]), atol=bound
        )
        # Warm start works there: the same C again takes no step.
        once, twice = (
            LogisticProbe(penalties=p, max_iterations=(200,), has_array_api=True).fit(*data)
            for p in ((1e-2,), (1e-2, 1e-2))
        )
        assert once.num_iterations_ == twice.num_iterations_ > 1
"""


def test_array_api_path_finds_the_same_as_the_plain_one():
    finished = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(ARRAY_API_SCRIPT)],
        cwd=ROOT,
        env={"SCIPY_ARRAY_API": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr


def test_device_is_taken_where_scikit_learn_can_compute_there(monkeypatch):
    assert choose_device("cpu") == ("cpu", ())
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")
    assert choose_device("cuda") == ("cuda", ())


def test_falling_back_to_the_cpu_is_reported(monkeypatch):
    monkeypatch.delenv("SCIPY_ARRAY_API", raising=False)
    device, (message,) = choose_device("cuda")
    assert device == "cpu"
    assert "SCIPY_ARRAY_API=1" in message

    class Old(LogisticRegression):
        def __sklearn_tags__(self):
            tags = super().__sklearn_tags__()
            tags.array_api_support = False
            return tags

    monkeypatch.setenv("SCIPY_ARRAY_API", "1")
    monkeypatch.setattr(logistic_module, "LogisticRegression", Old)
    device, (message,) = choose_device("cuda")
    assert device == "cpu"
    assert "scikit-learn must be 1.8" in message
