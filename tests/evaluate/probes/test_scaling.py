import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler

from evaluate.probes import scaling as scaling_module
from evaluate.probes.scaling import fit_scaler, scale


@pytest.fixture
def features():
    """Dimensions of very different place and spread; one does not vary."""
    generator = np.random.default_rng(0)
    features = generator.normal(size=(100, 9)) * 10.0 ** np.arange(-4, 5)
    features += 10.0 ** np.arange(4, -5, -1)
    features[:, 4] = 3.0
    return features.astype(np.float32)


@pytest.mark.parametrize("chunk", [7, 100, 4096])
def test_chunks_make_no_difference(monkeypatch, features, chunk):
    monkeypatch.setattr(scaling_module, "_CHUNK_CLIPS", chunk)
    whole = StandardScaler().fit(features.astype(float))
    scaler = fit_scaler(features)
    np.testing.assert_allclose(scaler.mean_, whole.mean_, rtol=1e-6)
    np.testing.assert_allclose(scaler.scale_, whole.scale_, rtol=1e-5)
    expected = scaler.transform(features)
    np.testing.assert_array_equal(scale(scaler, features, "cpu"), expected)
    assert scale(scaler, features, "cpu").numpy().dtype == np.float32


def test_features_are_left_as_they_are(features, tmp_path):
    np.save(tmp_path / "features.npy", features)
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    scale(fit_scaler(mapped), mapped, "cpu")
    np.testing.assert_array_equal(mapped, features)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_feature_that_is_no_number_is_named(monkeypatch, features, value):
    monkeypatch.setattr(scaling_module, "_CHUNK_CLIPS", 7)
    scaler = fit_scaler(features)
    features[40, 2] = value
    for refuse in (lambda: fit_scaler(features), lambda: scale(scaler, features, "cpu")):
        with pytest.raises(ValueError, match="^features .* row 40 of 100"):
            refuse()
