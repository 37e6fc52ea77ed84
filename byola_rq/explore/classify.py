"""Classifier from a few labels: logistic regression on frozen embeddings."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from byola_rq.embed.embedder import Embedder
from byola_rq.embed.scaling import LEAST_STD, FloatArray, Scaling, blocks
from byola_rq.errors import CheckpointError, CorpusError, package_needed
from byola_rq.model.file_header import read_header
from byola_rq.runtime.files import replace_file, text_name
from byola_rq.text.parse import Shape, parse_json
from byola_rq.text.shown import quoted

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # candidates for the inverse strength C
NUM_FOLDS = 5
# Held-out clips, beside the real ones, that count as any class: without one, a few clips that are
# all right would give probabilities of 1.
SMOOTHING = 1.0
_KEY = "byola_rq_classifier"
_FORMAT_VERSION = 1
_SHAPE: Shape = {
    "format_version": int,
    "classes": [str],
    "model": dict,
    "penalty": float,
    "expected": dict | None,
    "rare": [str],
}


@dataclass(frozen=True)
class Expected:
    """Cross-validated accuracy of a classifier.

    Attributes:
        num_clips: Number of clips tested, each once, by a classifier fitted without its group;
            clips of classes with a single group are excluded.
        accuracy: Share of correct clips, 0 to 1.
        low: Lower end of the 95 % Wilson interval over clips.
        high: Upper end of the interval.
    """

    num_clips: int
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Classifier:
    """Logistic regression over standardized embeddings.

    Attributes:
        classes: Class names, in alphabetical order.
        mean: Mean of embeddings to standardize by, float32 `(D,)`.
        std: Standard deviation to standardize by, float32 `(D,)`.
        weights: Weights, float32 `(C, D)`.
        biases: Biases, float32 `(C,)`.
        model: Description of the embedder; only its embeddings can be classified.
        penalty: Inverse regularization strength C.
        expected: Cross-validated accuracy; None if fewer than two classes have two groups.
        rare: Classes with fewer than two groups, excluded from cross-validation.
    """

    classes: Sequence[str]
    mean: FloatArray
    std: FloatArray
    weights: FloatArray
    biases: FloatArray
    model: dict[str, Any]
    penalty: float
    expected: Expected | None = None
    rare: Sequence[str] = field(default_factory=tuple)

    def predict_proba(self, embeddings: FloatArray) -> FloatArray:
        """Probability of each class: embeddings `(N, D)` -> `(N, C)`."""
        logits = [
            (block.numpy() - self.mean) / self.std @ self.weights.T + self.biases
            for block in blocks(embeddings)  # of 200,000 clips a copy would take 400 MB
        ]
        return np.asarray(torch.from_numpy(np.concatenate(logits)).double().softmax(dim=1).numpy())

    def save(self, path: Path) -> None:
        """Write the classifier as safetensors, without pickle, atomically.

        Raises:
            CheckpointError: If the file cannot be written.
        """
        tensors = {name: getattr(self, name) for name in ("mean", "std", "weights", "biases")}
        about = {
            "format_version": _FORMAT_VERSION,
            "classes": list(self.classes),
            "model": self.model,
            "penalty": self.penalty,
            "expected": self.expected and asdict(self.expected),
            "rare": list(self.rare),
        }
        stored = {name: np.ascontiguousarray(each, np.float32) for name, each in tensors.items()}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, save(stored, metadata={_KEY: json.dumps(about)}))
        except OSError as error:
            message = f"{path}: cannot be written ({error.strerror or error})"
            raise CheckpointError(message, code="unwritable", path=path) from error

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a classifier written by `save`; runs no code from the file.

        Raises:
            CheckpointError: If the file is missing, damaged or not a classifier.
        """
        try:
            header = read_header(path)
            about = parse_json(header.pop("__metadata__")[_KEY], _SHAPE)
            if about["format_version"] > _FORMAT_VERSION:
                message = f"{path}: written by a newer version of byola_rq; update it"
                raise CheckpointError(message, code="newer", path=path)
            _check_tensors(header, len(about["classes"]))
            expected = about["expected"] and Expected(**about["expected"])
            with text_name(path) as readable:
                tensors = load_file(readable)
            made = cls(
                about["classes"],
                model=about["model"],
                penalty=about["penalty"],
                expected=expected,
                rare=about["rare"],
                **tensors,
            )
            made._check()
        except CheckpointError:
            raise
        except (SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
            message = f"{path}: not a classifier of `byola-rq classify --save` ({error})"
            raise CheckpointError(message, code="foreign", path=path) from error
        return made

    def check_model(self, path: Path, embedder: Embedder) -> None:
        """Raise `CheckpointError` if the classifier was fitted on embeddings of another model."""
        own = json.loads(json.dumps(embedder.description))
        if differ := [key for key in own if self.model.get(key) != own[key]]:
            wanted = str(self.model.get("weights_sha256", ""))
            raise CheckpointError(
                f"{path}: needs the encoder whose weights_sha256 is {wanted:.16}... "
                f"({', '.join(differ)} differ); give it with --model",
                code="different",
                path=path,
                key=differ[0],
                value=wanted,
            )

    def _check(self) -> None:
        """Raise `ValueError` if a part is out of range."""
        parts = (self.mean, self.std, self.weights, self.biases)
        if not (all(np.isfinite(part).all() for part in parts) and self.std.min() > LEAST_STD):
            raise ValueError("its numbers must be finite, std above 0")


def _check_tensors(header: dict[str, Any], num_classes: int) -> None:
    """Raise `ValueError` unless a header lists the tensors of a classifier, before one is read."""
    (dim,) = header["mean"]["shape"]
    shapes = {"mean": [dim], "std": [dim], "weights": [num_classes, dim], "biases": [num_classes]}
    found = {name: tensor["shape"] for name, tensor in header.items()}
    if found != shapes or num_classes < 2 or any(t["dtype"] != "F32" for t in header.values()):
        raise ValueError(f"{num_classes} classes and tensors {quoted(header)} do not fit together")


def check_classes(labels: Sequence[str], path: Path) -> None:
    """Raise `CorpusError` if the labels in a csv are of fewer than two classes."""
    classes = sorted(set(labels))
    if len(classes) < 2:
        names = ", ".join(classes) or "none"
        message = f"{path}: labels must name two classes or more; got {names}"
        raise CorpusError(message, code="empty", path=path, key="label", value=classes)


def fit_classifier(
    embeddings: FloatArray,
    labels: Sequence[str],
    groups: Sequence[str],
    everything: FloatArray,
    embedder: Embedder,
    *,
    seed: int = 0,
) -> Classifier:
    """Fit logistic regression (lbfgs); choose C and calibration by cross-validation.

    Folds keep groups together and classes in proportion (scikit-learn's `StratifiedGroupKFold`).
    C is the smallest with the best accuracy over all held-out clips. Probabilities are calibrated
    by one temperature that minimizes the log loss of the held-out clips, slightly smoothed. If
    fewer than two classes have two groups, C and temperature are 1.

    Args:
        embeddings: Embeddings of the labeled clips, `(N, D)`.
        labels: Class of each labeled clip, of two classes or more.
        groups: Source of each labeled clip; a group never appears on both sides of a fold.
        everything: Embeddings to compute mean and standard deviation from, `(M, D)`.
        embedder: Embedder that computed them.
        seed: Seed of the folds.

    Raises:
        MissingPackageError: If scikit-learn is not installed.
    """
    with package_needed("a classifier", "scikit-learn", extra="explore"):
        from sklearn.linear_model import LogisticRegression
    classes = sorted(set(labels))
    scaling = Scaling.standardized(everything)
    mean, std = scaling.mean.numpy(), 1 / scaling.weight.numpy()
    features = ((embeddings - mean) / std).astype(np.float64)
    numbers = np.searchsorted(classes, labels)
    num_groups = Counter(label for label, _ in set(zip(labels, groups, strict=True)))
    rare = [name for name in classes if num_groups[name] < 2]
    penalty, temperature, expected = 1.0, 1.0, None
    is_tried = np.array([label not in rare for label in labels])
    if len(set(labels) - set(rare)) >= 2:
        tried = features[is_tried], numbers[is_tried], np.asarray(groups)[is_tried]
        penalty, temperature, expected = _cross_validate(*tried, seed=seed)
    fitted = LogisticRegression(C=penalty, max_iter=2000).fit(features, numbers)
    weights, biases = fitted.coef_, fitted.intercept_
    if len(classes) == 2:  # scikit-learn keeps only their difference
        weights = np.concatenate([-weights, weights]) / 2
        biases = np.concatenate([-biases, biases]) / 2
    return Classifier(
        classes,
        mean,
        std,
        (weights / temperature).astype(np.float32),
        (biases / temperature).astype(np.float32),
        embedder.description,
        penalty,
        expected,
        rare,
    )


def _cross_validate(
    features: FloatArray, numbers: npt.NDArray[np.int64], groups: npt.NDArray[Any], *, seed: int
) -> tuple[float, float, Expected | None]:
    """Return the best C, the temperature of its held-out probabilities, and its accuracy.

    Both numbers are 1, and the accuracy is None, if no clip can be held out.
    """
    from scipy.optimize import minimize_scalar
    from scipy.stats import binomtest
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold

    classes, numbers = np.unique(numbers, return_inverse=True)
    num_folds = min(NUM_FOLDS, *(len(set(groups[numbers == each])) for each in range(len(classes))))
    folds = StratifiedGroupKFold(num_folds, shuffle=True, random_state=seed)
    # A class whose groups all fall into one fold cannot be tested there.
    splits = [
        (train, held_out[np.isin(numbers[held_out], numbers[train])])
        for train, held_out in folds.split(features, numbers, groups)
        if len(set(numbers[train])) > 1
    ]
    tested = np.concatenate([np.empty(0, np.int64), *(held_out for _, held_out in splits)])
    if not len(tested):
        return 1.0, 1.0, None
    best: tuple[float, float, FloatArray] | None = None
    for penalty in PENALTIES:
        logits = np.full((len(features), len(classes)), -1e3)  # for classes missing in a fold
        for train, held_out in splits:
            if not len(held_out):
                continue
            fitted = LogisticRegression(C=penalty, max_iter=2000)
            fitted.fit(features[train], numbers[train])
            scores = fitted.decision_function(features[held_out])
            if scores.ndim == 1:
                scores = np.stack([-scores / 2, scores / 2], axis=1)
            logits[np.ix_(held_out, fitted.classes_)] = scores
        accuracy = float((logits.argmax(axis=1) == numbers)[tested].mean())
        if best is None or accuracy > best[0]:
            best = accuracy, penalty, logits[tested]
    assert best is not None
    accuracy, penalty, logits = best
    target = torch.from_numpy(numbers[tested])
    smoothing = SMOOTHING / (len(tested) + SMOOTHING)

    def log_loss(log_temperature: float) -> float:
        scaled = torch.from_numpy(logits) / np.exp(log_temperature)
        return float(F.cross_entropy(scaled, target, label_smoothing=smoothing))

    found = minimize_scalar(log_loss, bounds=(-8, 8), method="bounded")
    num_right = round(accuracy * len(tested))
    interval = binomtest(num_right, len(tested)).proportion_ci(method="wilson")
    expected = Expected(len(tested), accuracy, float(interval.low), float(interval.high))
    return penalty, float(np.exp(found.x)), expected
