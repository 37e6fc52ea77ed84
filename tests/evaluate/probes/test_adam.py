import numpy as np
import pytest
import torch
from scipy.special import expit, softmax
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import average_precision_score
from sklearn.neural_network import MLPClassifier

from evaluate.probes.adam import AdamProbe


@pytest.fixture
def blobs():
    """Overlapping Gaussian classes with string labels: X, y to train, X, y to validate."""
    generator = np.random.default_rng(0)
    classes = np.array(["bark", "chirp", "meow"])
    centers = generator.normal(size=(3, 8))
    labels = np.arange(180) % 3
    features = (centers[labels] + generator.normal(size=(180, 8))).astype(np.float32)
    return features[:120], classes[labels[:120]], features[120:], classes[labels[120:]]


@pytest.fixture
def tagged():
    """4 classes, any number of them in a clip: X, bool y to train, X, bool y to validate."""
    generator = np.random.default_rng(0)
    targets = generator.random((220, 4)) < (0.5, 0.4, 0.2, 0.1)
    features = targets @ generator.normal(size=(4, 8)) + generator.normal(size=(220, 8))
    features = features.astype(np.float32)
    return features[:150], targets[:150], features[150:], targets[150:]


def weights(probe: AdamProbe) -> tuple[np.ndarray, np.ndarray]:
    return probe.layer_.weight.detach().numpy(), probe.layer_.bias.detach().numpy()


def test_is_a_scikit_learn_estimator(blobs):
    probe = AdamProbe(seed=3, lr=0.01)
    probe.fit(*blobs)
    fresh = clone(probe)
    assert fresh.get_params() == probe.get_params()
    assert fresh.get_params()["seed"] == 3
    with pytest.raises(NotFittedError):
        fresh.predict(blobs[0])
    assert set(probe.predict(blobs[2])) <= {"bark", "chirp", "meow"}
    assert probe.score(blobs[2], blobs[3]) == np.mean(probe.predict(blobs[2]) == blobs[3])


def test_seed_decides_everything(blobs):
    torch.manual_seed(1)
    first = AdamProbe(seed=5, max_epochs=3).fit(*blobs)
    torch.manual_seed(2)
    second = AdamProbe(seed=5, max_epochs=3).fit(*blobs)
    other = AdamProbe(seed=6, max_epochs=3).fit(*blobs)
    for a, b, c in zip(weights(first), weights(second), weights(other), strict=True):
        np.testing.assert_array_equal(a, b)
        assert not np.array_equal(a, c)


def test_global_random_state_is_left_alone(blobs):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    AdamProbe(max_epochs=2).fit(*blobs)
    assert torch.equal(torch.rand(3), expected)


def test_stops_when_patience_is_out_and_keeps_the_best_epoch(blobs):
    probe = AdamProbe(lr=0.05, patience=4, seed=1).fit(*blobs)
    assert probe.num_epochs_ == probe.best_epoch_ + 4 < 200
    # Stopped on time, the same run has the very weights that were kept ...
    stopped = AdamProbe(lr=0.05, patience=4, seed=1, max_epochs=probe.best_epoch_).fit(*blobs)
    for kept, expected in zip(weights(probe), weights(stopped), strict=True):
        np.testing.assert_array_equal(kept, expected)
    # ... and no other epoch was better, none after it as good: stopped at any epoch, the best so
    # far is kept, which is that epoch where its score is no worse than any before.
    kept = [
        AdamProbe(lr=0.05, patience=99, seed=1, max_epochs=epoch).fit(*blobs)
        for epoch in range(1, probe.num_epochs_ + 1)
    ]
    scores = [each.score(*blobs[2:]) for each in kept]
    assert scores[probe.best_epoch_ - 1] == max(scores)
    assert [each.best_epoch_ for each in kept[probe.best_epoch_ - 1 :]] == [probe.best_epoch_] * 5
    assert scores.index(max(scores)) + 1 < probe.best_epoch_  # a tie, or the first would have done


def train_plainly(features, targets, to_probabilities, *, seed, lr, batch_size, num_epochs):
    """The same training in float64, written out; draws are in the order in which torch makes them.

    The gradient of the cross-entropy with respect to the logits is the probabilities less the
    targets, with softmax for one class a clip as with the logistic function for several.
    """
    generator = torch.Generator().manual_seed(seed)
    num_features, num_classes = features.shape[1], targets.shape[1]
    bound = num_features**-0.5
    shapes = ((num_classes, num_features), (num_classes,))
    draws = [torch.empty(s).uniform_(-bound, bound, generator=generator) for s in shapes]
    parameters = [draw.numpy().astype(float) for draw in draws]
    means, squares, step = [0.0, 0.0], [0.0, 0.0], 0
    for _ in range(num_epochs):
        order = torch.randperm(len(features), generator=generator).numpy()
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            logits = features[batch] @ parameters[0].T + parameters[1]
            errors = (to_probabilities(logits) - targets[batch]) / len(batch)
            step += 1
            for i, gradient in enumerate((errors.T @ features[batch], errors.sum(axis=0))):
                means[i] = 0.9 * means[i] + 0.1 * gradient
                squares[i] = 0.999 * squares[i] + 0.001 * gradient**2
                mean, square = means[i] / (1 - 0.9**step), squares[i] / (1 - 0.999**step)
                parameters[i] = parameters[i] - lr * mean / (np.sqrt(square) + 1e-8)
    return parameters


# A step moves a weight by about lr = 0.01, whose relative error is that of a float32 gradient,
# 1e-6 to 1e-5; after the 25 steps of 5 epochs at most 0.01 * 25 * 1e-5.
STEP_TOLERANCE = 3e-6


@pytest.mark.parametrize("kind", ["blobs", "tagged"])
def test_weights_are_those_of_adam_written_out(kind, request):
    features, labels, *valid = request.getfixturevalue(kind)
    settings = {"seed": 2, "lr": 0.01, "batch_size": 32}
    probe = AdamProbe(**settings, max_epochs=5).fit(features, labels, *valid)
    is_multilabel = labels.ndim == 2
    targets = labels if is_multilabel else labels[:, None] == probe.classes_
    expected = train_plainly(
        features.astype(float),
        targets,
        expit if is_multilabel else lambda logits: softmax(logits, axis=1),
        num_epochs=probe.best_epoch_,
        **settings,
    )
    for part, reference in zip(weights(probe), expected, strict=True):
        np.testing.assert_allclose(part, reference, atol=STEP_TOLERANCE)


def test_agrees_with_scikit_learns_network_of_no_hidden_layer():
    """Other initial weights, batches and code, the same objective: nearly the same decisions."""
    generator = np.random.default_rng(0)
    labels = np.arange(1800) % 4
    features = generator.normal(size=(4, 8))[labels] + generator.normal(size=(1800, 8))
    features = features.astype(np.float32)
    train, test = slice(0, 1200), slice(1200, None)
    probe = AdamProbe(lr=0.01, max_epochs=60, patience=60)
    probe.fit(features[train], labels[train], features[train], labels[train])
    network = MLPClassifier((), alpha=0, batch_size=200, learning_rate_init=0.01, random_state=0)
    network.fit(features[train], labels[train])
    predicted, expected = probe.predict(features[test]), network.predict(features[test])
    assert np.mean(predicted == expected) > 0.97
    assert abs(np.mean(predicted == labels[test]) - np.mean(expected == labels[test])) < 0.01


def test_probabilities_belong_to_the_logits(blobs, tagged):
    for data in (blobs, tagged):
        probe = AdamProbe(max_epochs=3).fit(*data)
        weight, bias = (part.astype(float) for part in weights(probe))
        logits = data[2] @ weight.T + bias
        expected = expit(logits) if data is tagged else softmax(logits, axis=1)
        np.testing.assert_allclose(probe.predict_proba(data[2]), expected, atol=1e-6)
        predicted = expected >= 0.5 if data is tagged else probe.classes_[expected.argmax(axis=1)]
        np.testing.assert_array_equal(probe.predict(data[2]), predicted)


def test_multilabel_keeps_the_epoch_of_the_best_mean_average_precision(tagged):
    settings = {"lr": 0.03, "seed": 1, "batch_size": 50}
    probe = AdamProbe(**settings, patience=4).fit(*tagged)
    scores = [
        average_precision_score(
            tagged[3],
            AdamProbe(**settings, patience=99, max_epochs=epoch)
            .fit(*tagged)
            .predict_proba(tagged[2]),
        )
        for epoch in range(1, probe.best_epoch_ + 1)
    ]
    assert scores[-1] == max(scores) > scores[0]
    assert probe.num_epochs_ == probe.best_epoch_ + 4


def test_tensor_on_the_device_is_not_copied(blobs):
    features, labels, valid_features, valid_labels = blobs
    given = torch.from_numpy(features)
    probe = AdamProbe(max_epochs=2)
    assert probe._to_device(given).data_ptr() == given.data_ptr()
    from_tensor = probe.fit(given, labels, torch.from_numpy(valid_features), valid_labels)
    for a, b in zip(
        weights(from_tensor), weights(AdamProbe(max_epochs=2).fit(*blobs)), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_validation_label_that_was_not_trained_counts_as_missed(blobs):
    features, labels, valid_features, valid_labels = blobs
    probe = AdamProbe(max_epochs=6, patience=9).fit(*blobs)
    others = np.concatenate([valid_labels, np.full(60, "ant")])  # before all others in the alphabet
    doubled = np.concatenate([valid_features, valid_features])
    diluted = AdamProbe(max_epochs=6, patience=9).fit(features, labels, doubled, others)
    assert diluted.best_epoch_ == probe.best_epoch_  # all accuracies are halved
    assert diluted.score(doubled, others) == probe.score(valid_features, valid_labels) / 2
    # Where all are missed, every epoch is as good as the first, so none is without progress.
    lost = AdamProbe(max_epochs=6, patience=2).fit(features, labels, valid_features, others[60:])
    assert (lost.best_epoch_, lost.num_epochs_) == (6, 6)


def test_defaults_are_those_of_the_published_evaluation():
    expected = {"lr": 1e-3, "batch_size": 200, "max_epochs": 200, "patience": 20}
    assert expected.items() <= AdamProbe().get_params().items()
