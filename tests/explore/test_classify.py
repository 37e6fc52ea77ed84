"""Classification: against scikit-learn, groups, calibration, the file, and bad input."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from byola_rq.embed.embedder import Embedder, load
from byola_rq.errors import CheckpointError, ConfigError, CorpusError
from byola_rq.explore.classify import Classifier, check_classes, fit_classifier
from byola_rq.explore.labels import read_labels
from tests.explore.test_search import run
from tests.refusal import refused


@pytest.fixture(scope="module")
def model() -> Embedder:
    return load()


def three_kinds(num: int, seed: int, distance: float = 3.0) -> tuple[np.ndarray, list[str]]:
    """Three normal clouds, `(num, 6)`, and the name of each row's."""
    rng = np.random.default_rng(seed)
    kinds = rng.integers(3, size=num)
    centers = np.random.default_rng(9).standard_normal((3, 6)) * distance / 6**0.5
    rows = centers[kinds] + rng.standard_normal((num, 6))
    return rows.astype(np.float32), [("cat", "dog", "owl")[kind] for kind in kinds]


def test_it_is_scikit_learns_regression_at_its_temperature(model: Embedder) -> None:
    """Logits are those of the regression, divided by one number."""
    rows, labels = three_kinds(90, seed=0)
    made = fit_classifier(rows, labels, [str(n) for n in range(90)], rows, model)
    scaled = StandardScaler().fit_transform(rows.astype(np.float64))
    reference = LogisticRegression(C=made.penalty, max_iter=2000).fit(scaled, labels)
    assert list(made.classes) == reference.classes_.tolist()
    ours = np.log(made.predict_proba(rows))
    theirs = reference.predict_log_proba(scaled)
    ours, theirs = (each - each.mean(axis=1, keepdims=True) for each in (ours, theirs))
    factor = (ours * theirs).sum() / (theirs**2).sum()
    np.testing.assert_allclose(ours, factor * theirs, atol=5e-3 * np.abs(ours).max())


def test_two_classes_have_two_probabilities(model: Embedder) -> None:
    rows, labels = three_kinds(80, seed=1)
    labels = ["dog" if each == "dog" else "other" for each in labels]
    made = fit_classifier(rows, labels, [str(n) for n in range(80)], rows, model)
    probabilities = made.predict_proba(rows)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-12)
    right = np.asarray(made.classes)[probabilities.argmax(axis=1)] == labels
    assert right.mean() > 0.7  # by chance 0.56: the share of the larger class


def test_the_expected_accuracy_is_that_of_clips_never_seen(model: Embedder) -> None:
    """Check that the 95 % interval covers the accuracy on 3,000 new clips in 7 of 10 cases."""
    new_rows, new_labels = three_kinds(3000, seed=100, distance=2.0)
    covered = 0
    for seed in range(10):
        rows, labels = three_kinds(60, seed=seed, distance=2.0)
        made = fit_classifier(rows, labels, [str(n) for n in range(60)], rows, model, seed=seed)
        predicted = np.asarray(made.classes)[made.predict_proba(new_rows).argmax(axis=1)]
        assert made.expected is not None
        covered += made.expected.low <= (predicted == new_labels).mean() <= made.expected.high
    assert covered >= 7


def test_temperature_brings_confidence_to_accuracy(model: Embedder) -> None:
    """Compare both within 3 standard errors on 3,000 new clips, plus the spread of 300 clips."""
    rows, labels = three_kinds(300, seed=3, distance=2.0)
    made = fit_classifier(rows, labels, [str(n) for n in range(300)], rows, model)
    new_rows, new_labels = three_kinds(3000, seed=101, distance=2.0)
    probabilities = made.predict_proba(new_rows)
    accuracy = (np.asarray(made.classes)[probabilities.argmax(axis=1)] == new_labels).mean()
    assert abs(probabilities.max(axis=1).mean() - accuracy) < 3 * (0.25 / 300) ** 0.5


def test_a_few_right_clips_do_not_make_certain(model: Embedder) -> None:
    """Six held-out clips, far apart and all right, and one of any class: 13 of 14."""
    rows = np.repeat([[-9.0] * 64, [9.0] * 64], 3, axis=0) + np.linspace(-1, 1, 6)[:, None]
    made = fit_classifier(rows, list("aaabbb"), list("123456"), rows, model)
    assert made.expected is not None
    assert made.expected.accuracy == 1
    assert 0.9 < made.predict_proba(rows).max() < 0.99


@pytest.mark.filterwarnings("error")
def test_groups_that_hold_a_whole_class(model: Embedder) -> None:
    """Groups with which a fold has one class alone, found by trying many at random."""
    groups = [f"g{n}" for n in (1, 1, 1, 1, 3, 3, 1, 1, 1, 1, 2, 2)]
    rows = np.random.default_rng(0).standard_normal((12, 6))
    for seed in range(8):
        made = fit_classifier(rows, list("aaaaaabbbbbb"), groups, rows, model, seed=seed)
        assert np.isfinite(made.predict_proba(rows)).all()
        assert made.expected is None or made.expected.num_clips <= 12


def test_clips_of_one_recording_never_help_each_other(model: Embedder) -> None:
    """Labels that say nothing but the recording: learned by heart, and of no use for others."""
    rng = np.random.default_rng(0)
    recordings = np.repeat(np.arange(30), 8)
    rows = (rng.standard_normal((30, 40)) * 5)[recordings] + rng.standard_normal((240, 40))
    labels = [("a", "b")[kind] for kind in rng.integers(2, size=30)[recordings]]
    alone = fit_classifier(rows, labels, [str(n) for n in range(240)], rows, model)
    grouped = fit_classifier(rows, labels, [str(n) for n in recordings], rows, model)
    assert alone.expected is not None
    assert grouped.expected is not None
    assert alone.expected.accuracy > 0.9
    assert grouped.expected.accuracy < 0.8  # chance, to within 3 standard errors of 30 recordings


def test_classes_with_one_source_are_named(model: Embedder) -> None:
    rows, labels = three_kinds(40, seed=4)
    groups = ["same" if label == "owl" else str(n) for n, label in enumerate(labels)]
    made = fit_classifier(rows, labels, groups, rows, model)
    assert list(made.rare) == ["owl"]
    assert made.expected is not None
    assert made.expected.num_clips == sum(label != "owl" for label in labels)
    few = fit_classifier(rows[:3], ["a", "b", "c"], ["1", "2", "3"], rows, model)
    assert few.expected is None
    assert list(few.rare) == ["a", "b", "c"]
    for classes in ([], ["a"]):
        with refused(CorpusError, "empty", Path("x.csv"), key="label", value=classes):
            check_classes(classes * 3, Path("x.csv"))


def test_a_file_gives_the_same_and_refuses_what_is_another(tmp_path: Path, model: Embedder) -> None:
    rows, labels = three_kinds(60, seed=5)
    made = fit_classifier(rows, labels, [str(n) for n in range(60)], rows, model)
    path = tmp_path / "made" / "owls.safetensors"
    made.save(path)
    read = Classifier.load(path)
    np.testing.assert_array_equal(read.predict_proba(rows), made.predict_proba(rows))
    assert (read.expected, list(read.rare)) == (made.expected, list(made.rare))
    read.check_model(path, model)
    with refused(CheckpointError, "different", path, value=model.weights_sha256):
        read.check_model(path, Embedder.untrained(dim=64))
    with refused(CheckpointError, "missing", tmp_path / "none.safetensors"):
        Classifier.load(tmp_path / "none.safetensors")
    tensors = load_file(path)
    about = {"format_version": 1, "classes": ["a"], "model": {}, "penalty": 1.0, "expected": None}
    about["rare"] = []
    for changed in (
        {},
        {"byola_rq_classifier": "["},
        {"byola_rq_classifier": json.dumps(about)},
        {"byola_rq_classifier": json.dumps({**about, "classes": [1, 2, 3]})},
    ):
        save_file(tensors, path, metadata=changed)
        with refused(CheckpointError, "foreign", path):
            Classifier.load(path)
    path.write_bytes(b"\xff" * 100)
    with refused(CheckpointError, "damaged", path):
        Classifier.load(path)


def test_the_command(sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Voices against everything else: real labels of the synthesized sounds."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    paths = sorted(sounds.glob("*.wav"))
    label_of = {path: "voice" if "voice" in path.name else "other" for path in paths}
    labels = tmp_path / "labels.csv"
    rows = [f"{path},{label_of[path]}" for path in paths[:16]]
    labels.write_text("\n".join(["file_name,label", *rows]))
    first, second = tmp_path / "first.csv", tmp_path / "deep" / "second.csv"
    saved = tmp_path / "voices.safetensors"
    assert run("classify", labels, sounds, "-o", first, "--save", saved) == 0
    assert run("classify", saved, sounds, "-o", second) == 0
    assert first.read_bytes() == second.read_bytes()
    found = list(csv.DictReader(first.open()))
    assert {row["file_name"] for row in found} == set(map(str, paths))
    sureness = [float(row["probability"]) for row in found]
    assert sureness == sorted(sureness)
    assert all(float(row["second_probability"]) <= float(row["probability"]) for row in found)
    learned = [row for row in found if Path(row["file_name"]) in paths[:16]]
    assert all(row["label"] == label_of[Path(row["file_name"])] for row in learned)

    before = labels.read_bytes()
    for wrong in (("-o", labels), ("-o", first, "--save", paths[0]), ("-o", paths[0])):
        assert run("classify", labels, sounds, *wrong) == ConfigError.exit_code
    assert labels.read_bytes() == before
    assert read_labels(first, list(map(str, paths))) == [
        row["label"] for row in sorted(found, key=lambda row: row["file_name"])
    ]
    labels.write_text(f"file_name,label\n{paths[0]},voice\n{tmp_path / 'gone.wav'},other\n")
    assert run("classify", labels, sounds, "-o", first) == CorpusError.exit_code
    labels.write_text(f"file_name,label\n{paths[0]},voice\n{paths[1]},voice\n")
    assert run("classify", labels, sounds, "-o", first) == CorpusError.exit_code
    assert run("classify", saved, sounds, "-o", labels / "x.csv") == 2
