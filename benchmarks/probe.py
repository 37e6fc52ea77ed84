"""Speed of fitting linear classifiers to frozen embeddings: our probes and scikit-learn's.

Run from the checkout: python -m benchmarks.probe --help
"""

import time
import warnings
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import sklearn.exceptions
import typer
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from benchmarks.harness import (
    Contender,
    Out,
    Report,
    Rounds,
    Row,
    compare,
    new_app,
)
from evaluate.probes.fit import PROBES
from evaluate.probes.prepared import FittedProbe, Part

app = new_app()

RANK = 256  # directions in which the features vary, the i-th with variance 1 / i
SEPARATION = 0.5  # distance of class centers, in units of the spread within a class
ONE_C = 0.01  # for classifiers that do not choose C

Features = npt.NDArray[np.float32]


@app.command()
def main(
    *,
    clips: Annotated[int, typer.Option(min=70, help="Clips to train on.")] = 1000,
    dim: Annotated[int, typer.Option(min=2, help="Embedding size D.")] = 512,
    classes: Annotated[int, typer.Option(min=2, help="Classes.")] = 35,
    rounds: Rounds = 1,
    only: Annotated[
        list[str] | None, typer.Option(help="Contenders by name; all by default.")
    ] = None,
    device: Annotated[str, typer.Option(help="torch device of our probes.")] = "cpu",
    out: Out = None,
) -> None:
    """Fit every classifier on the same embeddings, and measure fits per second.

    Our probes follow the protocol: logistic tries 7 penalties, adam starts from 3 seeds, knn tries
    7 numbers of neighbors; all choose on validation clips, a fifth of the training clips.
    scikit-learn's classifiers are fitted once, with one penalty. Features are clusters in 256
    directions of falling variance, so that accuracy is neither chance nor 100 %. Speech Commands'
    size would be --clips 20000 --dim 2048, at minutes per round.

    \b
    Examples:
      python -m benchmarks.probe
      python -m benchmarks.probe --clips 20000 --dim 2048 --rounds 1 --only logistic --only adam
    """
    report = Report("numpy", "scikit-learn", "scipy")
    train, valid, test = draw_parts(clips, dim, classes)
    rows = compare_probes(train, valid, test, rounds=rounds, only=only, device=device)
    report.add(f"{clips:,} clips x {dim:,}, {classes} classes", rows)
    report.save(out)


def draw_parts(num_clips: int, dim: int, num_classes: int) -> tuple[Part, Part, Part]:
    """Draw clusters, one per class: to train on, and a fifth as many to validate and to test."""
    generator = np.random.default_rng(0)
    spread = np.arange(1, RANK + 1) ** -0.5
    mixing = (generator.standard_normal((RANK, dim)) * spread[:, None]).astype(np.float32)
    centers = generator.standard_normal((num_classes, RANK)).astype(np.float32) * SEPARATION

    def part(size: int) -> Part:
        labels = np.arange(size) % num_classes
        latent = centers[labels] + generator.standard_normal((size, RANK)).astype(np.float32)
        return Part(np.maximum(latent @ mixing, 0), labels)  # embeddings are non-negative

    return part(num_clips), part(max(num_clips // 5, 2)), part(max(num_clips // 5, 2))


def compare_probes(
    train: Part, valid: Part, test: Part, *, rounds: int, only: list[str] | None, device: str
) -> list[Row]:
    """Return a row for each classifier, with its accuracy on the test clips."""
    fits: dict[str, Callable[[], Any]] = {
        name: chosen(fit, train, valid, device) for name, fit in PROBES.items()
    }
    fits |= {name: once(model, train) for name, model in scikit_learn_models().items()}
    unknown = set(only or ()) - set(fits)
    if unknown:
        raise typer.BadParameter(f"--only must be one of {', '.join(fits)}; got {min(unknown)}")
    accuracies: dict[str, float] = {}

    def contender(name: str) -> Contender:
        def work() -> tuple[float, float]:
            started = time.perf_counter()
            predict = fits[name]()
            seconds = time.perf_counter() - started
            accuracies[name] = 100 * float(np.mean(predict(test.features) == test.labels))
            return 1, seconds

        return work

    names = [name for name in fits if not only or name in only]
    rows = compare({name: contender(name) for name in names}, unit="fits", rounds=rounds)
    for row in rows:
        row["seconds"] = 1 / row["fits/s"]
        row["accuracy"] = accuracies[row["name"]]
    return rows


def chosen(
    fit: Callable[..., tuple[FittedProbe, ...]], train: Part, valid: Part, device: str
) -> Callable[[], Any]:
    """Fit a probe of the protocol and return it."""
    return lambda: fit(train, valid, seed=0, device=device)[0].predict


def scikit_learn_models() -> dict[str, Callable[[], Any]]:
    """Return other linear classifiers by name."""
    return {
        "lbfgs, one C": lambda: LogisticRegression(C=ONE_C, max_iter=1000),
        "saga, one C": lambda: LogisticRegression(C=ONE_C, solver="saga", max_iter=50),
        "LinearSVC, one C": lambda: LinearSVC(C=ONE_C / 10, max_iter=200),
        "SGD, one alpha": lambda: SGDClassifier(loss="log_loss", max_iter=50, random_state=0),
    }


def once(model: Callable[[], Any], train: Part) -> Callable[[], Any]:
    """Return a call that scales features and fits a scikit-learn model."""

    def fit() -> Any:
        scaler = StandardScaler()
        classifier = model()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", sklearn.exceptions.ConvergenceWarning)
            classifier.fit(scaler.fit_transform(train.features), train.labels)
        return lambda features: classifier.predict(scaler.transform(features))

    return fit


if __name__ == "__main__":
    app()
