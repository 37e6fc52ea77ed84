import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

from evaluate.probes import knn as knn_module
from evaluate.probes.knn import KNNProbe, _largest

K = (1, 3, 5, 10, 20, 50, 100)
COSINE_TOLERANCE = 1e-5  # float32 products of 16 dimensions against scikit-learn's float64


def weigh(distances):
    """1 + cosine similarity; scikit-learn's distance is 1 - similarity."""
    return 2 - distances


def draw_clusters(num_clips, seed, separation=1.0):
    """5 overlapping classes in 16 dimensions."""
    generator = np.random.default_rng(seed)
    centers = separation * np.random.default_rng(99).normal(size=(5, 16))
    labels = generator.integers(5, size=num_clips)
    features = centers[labels] + generator.normal(size=(num_clips, 16))
    return features.astype(np.float32), labels


def draw_multilabel(num_clips, seed):
    """6 classes, half a clip's on average; the features are the sum of its classes' directions."""
    generator = np.random.default_rng(seed)
    directions = np.random.default_rng(98).normal(size=(6, 16))
    targets = generator.random((num_clips, 6)) < 0.3
    features = targets @ directions + generator.normal(size=(num_clips, 16))
    return features.astype(np.float32), targets


@pytest.mark.parametrize("k", K)
def test_votes_are_scikit_learns(k):
    train, labels = draw_clusters(300, 0)
    test, _ = draw_clusters(80, 1)
    probe = KNNProbe(num_neighbors=(k,)).fit(train, labels, *draw_clusters(50, 2))
    reference = KNeighborsClassifier(k, metric="cosine", weights=weigh)
    expected = reference.fit(train.astype(float), labels).predict_proba(test.astype(float))
    np.testing.assert_allclose(probe.predict_proba(test), expected, atol=COSINE_TOLERANCE)


@pytest.mark.parametrize("k", K)
def test_multilabel_scores_are_the_mean_of_the_neighbors_targets(k):
    train, targets = draw_multilabel(300, 0)
    test, _ = draw_multilabel(80, 1)
    probe = KNNProbe(num_neighbors=(k,)).fit(train, targets, *draw_multilabel(50, 2))
    reference = KNeighborsRegressor(k, metric="cosine", weights=weigh)
    expected = reference.fit(train.astype(float), targets.astype(float)).predict(test.astype(float))
    np.testing.assert_allclose(probe.predict_proba(test), expected, atol=COSINE_TOLERANCE)


def test_k_is_the_smallest_of_the_best_on_validation():
    train, labels = draw_clusters(300, 0)
    valid, valid_labels = draw_clusters(200, 2)
    scores = []
    for k in K:
        reference = KNeighborsClassifier(k, metric="cosine", weights=weigh).fit(train, labels)
        scores.append(reference.score(valid, valid_labels))
    assert (
        KNNProbe(num_neighbors=K).fit(train, labels, valid, valid_labels).k_
        == K[int(np.argmax(scores))]
    )
    assert np.argmax(scores) > 0  # or the first choice would have been right


def test_multilabel_k_is_chosen_by_mean_average_precision():
    train, targets = draw_multilabel(300, 0)
    valid, valid_targets = draw_multilabel(200, 2)
    scores = []
    for k in K:
        reference = KNeighborsRegressor(k, metric="cosine", weights=weigh)
        predicted = reference.fit(train, targets.astype(float)).predict(valid)
        scores.append(average_precision_score(valid_targets, predicted))
    assert (
        KNNProbe(num_neighbors=K).fit(train, targets, valid, valid_targets).k_
        == K[int(np.argmax(scores))]
    )
    assert np.argmax(scores) > 0


def test_equal_scores_choose_the_smallest_k():
    train, labels = draw_clusters(300, 0, separation=10.0)
    probe = KNNProbe(num_neighbors=(20, 3, 5))
    assert probe.fit(train, labels, *draw_clusters(50, 1, separation=10.0)).k_ == 3


def test_k_is_at_most_the_number_of_training_clips():
    train, labels = draw_clusters(4, 0)
    assert KNNProbe(num_neighbors=K).fit(train, labels, *draw_clusters(50, 1)).k_ in (1, 3)


def test_labels_may_be_any_sorted_names():
    train, labels = draw_clusters(100, 0)
    names = np.array(["bark", "chirp", "howl", "meow", "purr"])
    valid, valid_labels = draw_clusters(50, 1)
    probe = KNNProbe(num_neighbors=K)
    expected = probe.fit(train, labels, valid, valid_labels).predict_proba(valid)
    named = probe.fit(train, names[labels], valid, names[valid_labels])
    assert named.classes_.tolist() == names.tolist()
    np.testing.assert_array_equal(named.predict_proba(valid), expected)


def test_only_the_direction_of_a_clip_counts():
    train, labels = draw_clusters(100, 0)
    valid = draw_clusters(50, 1)
    lengths = np.float32(2.0) ** np.arange(-5, 5).repeat(10)[:, None]  # exact in float32
    plain, longer = (
        KNNProbe(num_neighbors=(5,)).fit(features, labels, *valid).predict_proba(valid[0])
        for features in (train, train * lengths)
    )
    np.testing.assert_allclose(longer, plain, atol=1e-6)


def test_of_equally_near_clips_the_first_count():
    train = np.ones((6, 4), dtype=np.float32)
    labels = np.array([2, 1, 0, 0, 0, 0])
    valid = train[:1], np.array([2])
    assert KNNProbe(num_neighbors=(1,)).fit(train, labels, *valid).predict_proba(
        valid[0]
    ).tolist() == [[0, 0, 1]]
    shares = KNNProbe(num_neighbors=(4,)).fit(train, labels, *valid).predict_proba(valid[0])
    np.testing.assert_allclose(shares, [[0.5, 0.25, 0.25]])


def test_tie_of_votes_goes_to_the_nearer_class():
    angles = np.deg2rad([10, 20, 30, 40])
    train = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    labels = np.array([3, 1, 2, 0])  # one vote each, the last class nearest
    valid = np.array([[1, 0]], dtype=np.float32), np.array([3])
    shares = KNNProbe(num_neighbors=(4,)).fit(train, labels, *valid).predict_proba(valid[0])
    assert shares.argmax() == 3


@given(st.integers(0, 2**32), st.integers(1, 5))
def test_largest_are_those_of_a_stable_sort(seed, num_values):
    generator = np.random.default_rng(seed)
    values = generator.integers(num_values, size=(4, 12)).astype(np.float32)
    order = np.argsort(-values, axis=1, kind="stable")
    for k in (1, 5, 12):
        largest, columns = _largest(torch.from_numpy(values), k)
        np.testing.assert_array_equal(columns, order[:, :k])
        np.testing.assert_array_equal(largest, np.take_along_axis(values, order[:, :k], axis=1))


def test_rows_of_zeros_and_opposite_rows_do_no_harm():
    train = np.array([[0, 0], [1, 0], [-1, 0]], dtype=np.float32)
    labels = np.array([0, 1, 1])
    probe = KNNProbe(num_neighbors=(3,)).fit(train, labels, train, labels)
    np.testing.assert_allclose(
        probe.predict_proba(train), [[1 / 3, 2 / 3], [1 / 3, 2 / 3], [1 / 3, 2 / 3]], atol=1e-6
    )
    opposite = KNNProbe(num_neighbors=(1,)).fit(train[1:2], labels[1:2], train, labels)
    assert opposite.predict_proba(train[2:]).tolist() == [[0]]


@pytest.mark.parametrize("draw", [draw_clusters, draw_multilabel])
def test_search_is_made_in_chunks_without_a_copy_of_the_clips(monkeypatch, draw):
    train, labels = draw(300, 0)
    valid, test = draw(50, 1), draw(40, 2)[0]
    whole = KNNProbe(num_neighbors=K).fit(train, labels, *valid)
    expected, sizes = whole.predict_proba(test), []

    def spy(values, k):
        sizes.append(values.numel())
        return _largest(values, k)

    monkeypatch.setattr(knn_module, "_CHUNK_ELEMENTS", 1000)
    monkeypatch.setattr(knn_module, "_largest", spy)
    given = torch.from_numpy(train)
    chunked = KNNProbe(num_neighbors=K).fit(given, labels, *valid)
    assert chunked.k_ == whole.k_
    np.testing.assert_allclose(chunked.predict_proba(test), expected, atol=1e-6)
    assert len(sizes) == 17 + 14  # 3 clips a time
    assert max(sizes) <= 1000
    assert chunked.features_.data_ptr() == given.data_ptr()
