import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from evaluate.adam import AdamProbe


@pytest.fixture
def blobs():
    """Overlapping Gaussian classes with string labels: X, y to train, X, y to validate."""
    generator = np.random.default_rng(0)
    classes = np.array(["bark", "chirp", "meow"])
    centres = generator.normal(size=(3, 8))
    labels = np.arange(180) % 3
    features = (centres[labels] + generator.normal(size=(180, 8))).astype(np.float32)
    return features[:120], classes[labels[:120]], features[120:], classes[labels[120:]]


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
    # ... and no other epoch was better, none before it as good.
    scores = [
        AdamProbe(lr=0.05, patience=99, seed=1, max_epochs=epoch).fit(*blobs).score(*blobs[2:])
        for epoch in range(1, probe.num_epochs_ + 1)
    ]
    assert int(np.argmax(scores)) + 1 == probe.best_epoch_


def test_first_step_is_adams(blobs):
    """One batch: every weight moves by lr against its gradient's sign."""
    features, labels, *valid = blobs
    start = AdamProbe(seed=2, max_epochs=1, lr=0.0).fit(features, labels, *valid)
    moved = AdamProbe(seed=2, max_epochs=1, lr=0.01).fit(features, labels, *valid)
    weight, bias = (part.astype(np.float64) for part in weights(start))
    logits = features @ weight.T + bias
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    targets = labels[:, None] == start.classes_
    gradient = (shares - targets).T @ features / len(features)
    np.testing.assert_allclose(weights(moved)[0], weight - 0.01 * np.sign(gradient), atol=1e-5)


def test_validation_label_that_was_not_trained(blobs):
    features, labels, valid_features, valid_labels = blobs
    valid_labels = np.where(valid_labels == "bark", "moo", valid_labels)
    with pytest.raises(ValueError, match=r"training labels only; got .*moo"):
        AdamProbe().fit(features, labels, valid_features, valid_labels)
