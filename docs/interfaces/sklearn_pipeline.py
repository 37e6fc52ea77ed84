"""A classifier of sounds in one scikit-learn pipeline."""

from pathlib import Path

from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from byola_rq.sklearn import AudioEmbedder


def fit_classifier(paths: list[Path], labels: list[str], model: str = "builtin") -> Pipeline:
    """Learn labels from audio files; `predict` then takes other files."""
    classifier = make_pipeline(
        AudioEmbedder(model), StandardScaler(), LogisticRegression(max_iter=1000)
    )
    return classifier.fit(paths, labels)
