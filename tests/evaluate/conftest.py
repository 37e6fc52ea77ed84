"""Small labeled sets of real audio files, and calls of the command line."""

import csv
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from click.testing import Result
from typer.testing import CliRunner

from evaluate.__main__ import app
from evaluate.reports.predictions import PredictionRow
from evaluate.reports.results import ResultRow, append_fold

SAMPLE_RATE = 16_000

# A row of results.csv; tests replace what they look at.
ROW = ResultRow(
    run_id="",
    date="2026-11-21T00:00:00+00:00",
    model="owl",
    weights_sha256="ab" * 32,
    task="birds",
    split="given",
    fold="",
    seed=0,
    probe="logistic",
    probe_params="{}",
    metric="accuracy",
    score=0.0,
    n_train=8,
    n_valid=2,
    n_test=10,
    n_classes=2,
    n_skipped=0,
    embedding_dim=16,
    norm="task",
    unit_seconds=1.0,
    fit_seconds=0.5,
    embed_seconds=0.25,
    byola_rq="0.1.0",
    torch="2.13.0",
    sklearn="1.9.1",
    device="cpu",
)


def add_run(
    out: Path,
    run_id: str,
    correct: Mapping[tuple[str, int], Sequence[bool] | np.ndarray],
    **changes: object,
) -> None:
    """Append a run fold by fold: by fold and seed, which clips were right.

    Its numbers of clips are those of a complete run, unless `changes` says others.
    """
    num_clips = sum(len(hits) for (_, seed), hits in correct.items() if seed == 0) or ROW.n_test
    for (fold, seed), hits in correct.items():
        num_others = num_clips - len(hits) if fold else ROW.n_train + ROW.n_valid
        values: dict[str, object] = {
            "run_id": run_id,
            "fold": fold,
            "seed": seed,
            "score": 100 * float(np.mean(hits)),
            "n_train": num_others - ROW.n_valid,
            "n_test": len(hits),
        }
        row = dataclasses.replace(ROW, **(values | changes))
        predictions = [
            PredictionRow(f"{fold}-{n}.wav", "a", "a" if hit else "b", fold, seed)
            for n, hit in enumerate(hits)
        ]
        append_fold(out, [row], predictions)


Row = tuple[str, str, str]  # file_name, label, part
WriteSet = Callable[..., Path]


def write_sound(path: Path, hertz: float, seconds: float = 0.3, seed: int = 0) -> None:
    """A tone in noise; `seed` draws phase, loudness and noise."""
    generator = np.random.default_rng(seed)
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    tone = np.sin(2 * np.pi * (hertz * time + generator.uniform()))
    noise = generator.normal(size=len(time))
    path.parent.mkdir(parents=True, exist_ok=True)
    loudness = generator.uniform(0.1, 0.3)
    soundfile.write(path, loudness * tone + 0.02 * noise, SAMPLE_RATE, subtype="PCM_16")


def call(*arguments: object) -> Result:
    """Run `python -m evaluate` in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_csv(path: Path, rows: Iterable[tuple[str, ...]], header: tuple[str, ...]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Inputs here are tiny: on a busy machine a second thread costs more than all the tests."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture
def write_set() -> WriteSet:
    """Write rows and a sound for each: a pitch per label, so that labels can be learned."""

    def write(path: Path, rows: list[Row], part: str = "split", seconds: float = 0.3) -> Path:
        labels = sorted({label for _, label, _ in rows})
        for number, (file_name, label, _) in enumerate(rows):
            hertz = 300 * 1.9 ** labels.index(label)
            write_sound(path.parent / file_name, hertz, seconds, seed=number)
        return write_csv(path, rows, ("file_name", "label", part))

    return write


@pytest.fixture
def split_rows() -> list[Row]:
    """Three classes: 4 clips of each to train, 2 to validate, 4 to test."""
    parts = ["train"] * 4 + ["valid"] * 2 + ["test"] * 4
    return [
        (f"audio/{label}_{number}.wav", label, part)
        for label in ("low", "middle", "high")
        for number, part in enumerate(parts)
    ]


@pytest.fixture
def split_csv(tmp_path: Path, write_set: WriteSet, split_rows: list[Row]) -> Path:
    return write_set(tmp_path / "pitch.csv", split_rows)


@pytest.fixture
def fold_rows() -> list[Row]:
    """Two classes in three folds: 4 clips of each in every fold."""
    return [
        (f"{label}_{number}.wav", label, str(1 + number % 3))
        for label in ("low", "high")
        for number in range(12)
    ]
