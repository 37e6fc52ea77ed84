import warnings

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from scipy.stats import binom
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from evaluate.probes import fit as probe_module
from evaluate.probes.fit import KNN_K, LOGISTIC_C, PROBES, fit_adam, fit_knn, fit_logistic
from evaluate.probes.metrics import METRICS, mean_average_precision, metric_for
from evaluate.probes.prepared import Part

GRADIENT_TOLERANCE = 3e-4  # scikit-learn stops at 1e-4 of the mean objective, in float32


def draw_parts(separation: float, seed: int = 0, sizes=(240, 90, 150)) -> list[Part]:
    """Gaussian classes, 4 of them in 12 dimensions of very different scale."""
    generator = np.random.default_rng(seed)
    centers = separation * generator.normal(size=(4, 12))
    scales = 10.0 ** generator.uniform(-2, 2, size=12)
    parts = []
    for size in sizes:
        labels = np.arange(size) % 4
        features = (centers[labels] + generator.normal(size=(size, 12))) * scales
        parts.append(Part(features.astype(np.float32), labels))
    return parts


def draw_tagged(separation: float = 2.0, seed: int = 0, sizes=(240, 90, 150)) -> list[Part]:
    """4 classes, any number of them in a clip, in 12 dimensions of very different scale."""
    generator = np.random.default_rng(seed)
    directions = separation * generator.normal(size=(4, 12))
    scales = 10.0 ** generator.uniform(-2, 2, size=12)
    parts = []
    for size in sizes:
        targets = generator.random((size, 4)) < (0.5, 0.4, 0.3, 0.2)
        features = (targets @ directions + generator.normal(size=(size, 12))) * scales
        parts.append(Part(features.astype(np.float32), targets))
    return parts


def score(fitted, part: Part) -> float:
    return METRICS[metric_for(part.labels)](part.labels, fitted.scores(part.features))


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


def test_more_iterations_are_tried_before_a_warning(monkeypatch):
    train, valid, _ = draw_parts(1.0)
    monkeypatch.setattr(probe_module, "LOGISTIC_MAX_ITERATIONS", (1, 5000))
    (patient,) = fit_logistic(train, valid, seed=0, device="cpu")
    assert patient.warnings == ()


@pytest.mark.parametrize("name", PROBES)
def test_probes_learn_what_can_be_learned(name):
    train, valid, test = draw_parts(separation=4.0)
    for fitted in PROBES[name](train, valid, seed=0, device="cpu"):
        assert accuracy(fitted, test) > 0.95


@pytest.mark.parametrize("name", PROBES)
def test_probes_learn_several_classes_a_clip(name):
    train, valid, test = draw_tagged(separation=4.0)
    for fitted in PROBES[name](train, valid, seed=0, device="cpu"):
        assert score(fitted, test) > 0.95
        predicted = fitted.predict(test.features)
        assert predicted.dtype == np.bool_
        assert np.mean(predicted == test.labels) > 0.9


@pytest.mark.parametrize("draw", [draw_parts, draw_tagged])
def test_probes_agree(draw):
    train, valid, test = draw(separation=1.0, sizes=(800, 400, 800))
    (logistic,) = fit_logistic(train, valid, seed=0, device="cpu")
    for adam in fit_adam(train, valid, seed=0, device="cpu"):
        same = np.mean(adam.predict(test.features) == logistic.predict(test.features))
        assert same > 0.9
        assert abs(score(adam, test) - score(logistic, test)) < 0.04


@pytest.mark.parametrize("name", PROBES)
def test_permuted_labels_give_chance(name):
    parts = draw_parts(separation=4.0, sizes=(400, 200, 1000))
    generator = np.random.default_rng(1)
    train, valid, test = (Part(p.features, generator.permutation(p.labels)) for p in parts)
    low, high = binom.interval(0.9999, len(test.labels), 0.25)
    for fitted in PROBES[name](train, valid, seed=0, device="cpu"):
        assert low <= accuracy(fitted, test) * len(test.labels) <= high


@pytest.mark.parametrize("name", PROBES)
def test_permuted_targets_give_chance(name):
    """Chance is what 300 draws of random scores get; four deviations miss 1 time in 16,000."""
    parts = draw_tagged(separation=4.0, sizes=(400, 200, 1000))
    generator = np.random.default_rng(1)
    train, valid, test = (Part(p.features, generator.permutation(p.labels)) for p in parts)
    chance = [
        mean_average_precision(test.labels, generator.random(test.labels.shape)) for _ in range(300)
    ]
    for fitted in PROBES[name](train, valid, seed=0, device="cpu"):
        assert abs(score(fitted, test) - np.mean(chance)) < 4 * np.std(chance)


@pytest.mark.parametrize("name", PROBES)
@pytest.mark.parametrize("draw", [draw_parts, draw_tagged])
def test_scores_are_probabilities_and_decide_the_prediction(name, draw):
    train, valid, test = draw(separation=1.0)
    for fitted in PROBES[name](train, valid, seed=0, device="cpu"):
        scores = fitted.scores(test.features)
        assert scores.shape == (150, 4)
        assert scores.dtype == np.float32
        assert 0 <= scores.min() < scores.max() <= 1
        predicted = fitted.predict(test.features)
        if draw is draw_parts:
            np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)
            np.testing.assert_array_equal(predicted, scores.argmax(axis=1))
        else:
            np.testing.assert_array_equal(predicted, scores >= 0.5)


@pytest.mark.parametrize("name", PROBES)
def test_class_without_training_clips_scores_least(name):
    """Fit as if the only training clips of a class were unreadable."""
    train, valid, test = draw_parts(separation=4.0)
    gapped = Part(train.features[train.labels != 1], train.labels[train.labels != 1])
    for fitted in PROBES[name](gapped, valid, seed=0, device="cpu"):
        scores = fitted.scores(test.features)
        assert scores.shape == (150, 4)
        assert (scores[:, 1] == -np.inf).all()
        assert np.isfinite(scores[:, [0, 2, 3]]).all()
        is_trained = test.labels != 1
        assert np.mean(fitted.predict(test.features)[is_trained] == test.labels[is_trained]) > 0.9


@pytest.mark.parametrize("name", PROBES)
def test_multilabel_class_without_training_clips_scores_least(name):
    train, valid, test = draw_tagged(separation=4.0)
    gapped = Part(train.features, train.labels & (np.arange(4) != 2))
    for fitted in PROBES[name](gapped, valid, seed=0, device="cpu"):
        scores = fitted.scores(test.features)
        assert (scores[:, 2] == -np.inf).all()
        assert np.isfinite(scores[:, [0, 1, 3]]).all()
        assert not fitted.predict(test.features)[:, 2].any()


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


@pytest.mark.parametrize("is_multilabel", [False, True])
def test_logistic_is_fitted_on_the_cpu_where_the_device_has_no_float64(is_multilabel):
    train, valid, _ = draw_parts(1.0)
    if is_multilabel:
        train, valid = (
            Part(part.features, np.eye(int(train.labels.max()) + 1, dtype=bool)[part.labels])
            for part in (train, valid)
        )
    (fitted,) = fit_logistic(train, valid, seed=0, device="mps")
    (expected,) = fit_logistic(train, valid, seed=0, device="cpu")
    assert np.array_equal(fitted.classifier.coef_, expected.classifier.coef_)
    assert len(fitted.warnings) == len(expected.warnings) + 1


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


def test_knn_has_nothing_but_k_to_choose():
    train, valid, test = draw_parts(0.5)
    (fitted,) = fit_knn(train, valid, seed=7, device="cpu")
    assert fitted.params.keys() == {"k"}
    assert fitted.params["k"] in KNN_K
    assert fitted.seed == 7
    other = fit_knn(train, valid, seed=8, device="cpu")[0]
    np.testing.assert_array_equal(fitted.scores(test.features), other.scores(test.features))


def test_knn_does_not_follow_the_dimension_of_largest_scale():
    train, valid, test = draw_parts(4.0)
    generator = np.random.default_rng(0)
    loud = [
        Part(np.hstack([p.features, 1e4 * generator.normal(size=(len(p.labels), 1))]), p.labels)
        for p in (train, valid, test)
    ]
    (fitted,) = fit_knn(loud[0], loud[1], seed=0, device="cpu")
    assert accuracy(fitted, loud[2]) > 0.9


@pytest.mark.parametrize("name", PROBES)
def test_features_are_scaled_once_and_left_as_they_are(monkeypatch, name):
    """A copy of VoxCeleb1's training features takes 1.1 GB, and three seeds need but one."""
    rows = []
    transform = StandardScaler.transform

    def spy(self, X):
        rows.append(len(X))
        return transform(self, X)

    monkeypatch.setattr(StandardScaler, "transform", spy)
    train, valid, _ = draw_parts(1.0)
    before = train.features.copy(), valid.features.copy()
    PROBES[name](train, valid, seed=0, device="cpu")
    assert sum(rows) == len(train.labels) + len(valid.labels)
    np.testing.assert_array_equal(train.features, before[0])
    np.testing.assert_array_equal(valid.features, before[1])


def test_logistic_says_when_it_falls_back_to_the_cpu(monkeypatch):
    monkeypatch.delenv("SCIPY_ARRAY_API", raising=False)
    train, valid, test = draw_parts(4.0)
    (fitted,) = fit_logistic(train, valid, seed=0, device="cuda")
    assert "cuda" in fitted.warnings[0]
    assert accuracy(fitted, test) > 0.95


@pytest.mark.gpu
@pytest.mark.parametrize("name", PROBES)
@pytest.mark.parametrize("draw", [draw_parts, draw_tagged])
def test_gpu_finds_what_the_cpu_finds(monkeypatch, name, draw):
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")
    train, valid, test = draw(separation=1.0)
    on_cpu, on_gpu = (PROBES[name](train, valid, seed=0, device=d) for d in ("cpu", "cuda"))
    for one, other in zip(on_cpu, on_gpu, strict=True):
        assert other.warnings == one.warnings
        assert other.params == one.params
        np.testing.assert_allclose(
            other.scores(test.features), one.scores(test.features), atol=1e-3
        )


@pytest.mark.parametrize(
    ("features", "labels", "told"),
    [
        (np.zeros((3, 2)), np.zeros(2, int), r"^features .* 2; got \(3, 2\)"),
        (np.zeros(3), np.zeros(3, int), r"^features .* got \(3,\)"),
        (np.zeros((3, 2)), np.zeros(3), r"^labels .* float64 \(3,\)"),
        (np.zeros((3, 2)), np.zeros((3, 2), int), r"^labels .* int64 \(3, 2\)"),
    ],
)
def test_part_that_does_not_fit_together(features, labels, told):
    with pytest.raises(ValueError, match=told):
        Part(features, labels)


@pytest.mark.parametrize("name", PROBES)
def test_parts_that_cannot_be_learned_from(name):
    train, valid, _ = draw_parts(1.0)
    tagged, *_ = draw_tagged()

    def fit(first, second):
        return PROBES[name](first, second, seed=0, device="cpu")

    with pytest.raises(ValueError, match=r"^valid\.labels .* \(240,\); got \(240, 4\)"):
        fit(train, tagged)
    with pytest.raises(ValueError, match="1 classes, 90 validation"):
        fit(Part(train.features, np.ones(240, int)), valid)
    with pytest.raises(ValueError, match="0 classes, 240 validation"):
        fit(Part(tagged.features, np.zeros((240, 4), bool)), tagged)
    with pytest.raises(ValueError, match="4 classes, 0 validation"):
        fit(train, Part(valid.features[:0], valid.labels[:0]))
    spoiled = valid.features.copy()
    spoiled[7, 3] = np.nan
    with pytest.raises(ValueError, match="^features .* row 7 of 90"):
        fit(train, Part(spoiled, valid.labels))
