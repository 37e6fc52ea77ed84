"""Validation during training: scores, schedule, bad input, and no effect on the training."""

import csv
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from byola_rq.audio.frontend import LogMelSpectrogram, Statistics
from byola_rq.audio.io import read_audio
from byola_rq.config import Config, default_config_path, load_config
from byola_rq.embed.embedder import Embedder
from byola_rq.errors import AudioError, Code, ConfigError, CorpusError, MissingPackageError
from byola_rq.synthesis.generate import make_clip, write_wav
from byola_rq.train import validation as module
from byola_rq.train.probe import score_embeddings
from byola_rq.train.state import TrainState, build_state
from byola_rq.train.step import train_step
from byola_rq.train.validation import Validation
from tests.conftest import SMALL
from tests.refusal import refused
from tests.train.test_step import batch

HEADER = ("file_name", "label", "split")
KINDS = ("voice-en", "event-siren", "note-brass")
PARTS = ("train",) * 4 + ("valid", "val", "test")


@pytest.fixture(autouse=True)
def needs_sklearn(request: pytest.FixtureRequest) -> None:
    if "without" not in request.node.name:
        pytest.importorskip("sklearn", reason="validation needs scikit-learn")


@pytest.fixture(scope="session")
def labelled_sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A csv of 21 synthesized clips of three kinds, of 0.05 to 1.5 s."""
    folder = tmp_path_factory.mktemp("labelled")
    rows = []
    for number, part in enumerate(PARTS):
        for kind in KINDS:
            name = f"{kind}_{number}.wav"
            write_wav(folder / name, make_clip(kind, seed=number, seconds=0.5 + number // 4))
            rows.append((name, kind, part))
    clip, rate = soundfile.read(folder / rows[0][0])
    soundfile.write(folder / rows[0][0], clip[: rate // 20], rate)
    return write_rows(folder / "labelled.csv", rows)


@pytest.fixture
def copied(labelled_sounds: Path, tmp_path: Path) -> Path:
    """A copy of them, to be corrupted."""
    return Path(shutil.copytree(labelled_sounds.parent, tmp_path / "set")) / labelled_sounds.name


def write_rows(path: Path, rows: list[tuple[str, ...]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([HEADER, *rows])
    return path


def read_rows(path: Path) -> list[tuple[str, ...]]:
    with path.open(encoding="utf-8", newline="") as file:
        return [tuple(row) for row in csv.reader(file)][1:]


def make_config(labelled: Path | None, *overrides: str) -> Config:
    named = "null" if labelled is None else str(labelled)
    values = [*SMALL, "run.dir=unused", f"validation.labelled={named}", *overrides]
    return load_config(default_config_path(), values)


def make_training(config: Config) -> TrainState:
    statistics = Statistics(mean=-6.0, std=4.0)
    frontend = LogMelSpectrogram(**config.frontend.model_dump())
    device = torch.device("cpu")
    return build_state(
        config, statistics, frontend, device=device, precision="float32", num_steps=8
    )


def settings() -> dict[str, Any]:
    """Global settings that a validation could leave changed."""
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": [str(each) for each in np.random.get_state()],  # noqa: NPY002
        "python": random.getstate(),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "matmul": torch.get_float32_matmul_precision(),
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "grad": torch.is_grad_enabled(),
        "dtype": torch.get_default_dtype(),
    }


@pytest.mark.parametrize("probe", ["knn", "logistic"])
@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("encoder.name=audio_ntt_2022", "encoder.dim=1040"),
        ("views.augmentations=[mixup, random_resized_crop]", "views.mixup.memory=16"),
    ],
)
@pytest.mark.slow
def test_what_is_trained_does_not_depend_on_it(
    labelled_sounds: Path, probe: str, overrides: tuple[str, ...]
) -> None:
    config = make_config(labelled_sounds, f"validation.probe={probe}", *overrides)
    plain, watched = make_training(config), make_training(config)
    validation = Validation(config)
    for number in range(4):
        train_step(plain, batch(number))
        train_step(watched, batch(number))
        before = settings()
        modes = [each.training for each in watched.byol.modules()]
        gradients = [p.grad.clone() for p in watched.byol.parameters() if p.grad is not None]
        assert validation.score(watched) is not None
        assert settings() == before
        assert [each.training for each in watched.byol.modules()] == modes
        after = [p.grad for p in watched.byol.parameters() if p.grad is not None]
        assert all(torch.equal(a, b) for a, b in zip(gradients, after, strict=True))
    ours, theirs = plain.snapshot(corpus_digest=""), watched.snapshot(corpus_digest="")
    for expected, got in ((ours.model, theirs.model), (ours.optimizer, theirs.optimizer)):
        assert expected.keys() == got.keys()
        assert all(torch.equal(expected[name], got[name]) for name in expected)


def naive_knn_score(path: Path, training: TrainState) -> float:
    """Clip by clip, with the embedder that users get, and a vote spelled out."""
    encoder = training.byol.encoder.train(mode=False)
    embedder = Embedder(encoder, training.frontend, training.statistics)
    embeddings: dict[bool, list[Any]] = {True: [], False: []}
    labels: dict[bool, list[str]] = {True: [], False: []}
    for name, label, part in read_rows(path):
        if part == "test":
            continue
        waveform = read_audio(path.parent / name, 16000)
        waveform = torch.nn.functional.pad(waveform, (0, max(1600 - len(waveform), 0)))
        embeddings[part == "train"].append(embedder(waveform, 16000)[0].double().numpy())
        labels[part == "train"].append(label)
    train = np.array(embeddings[True])
    mean, std = train.mean(axis=0), train.std(axis=0)
    std[std == 0] = 1.0
    hits = 0
    for embedding, label in zip(embeddings[False], labels[False], strict=True):
        query = (embedding - mean) / std
        rows = (train - mean) / std
        cosine = rows @ query / np.linalg.norm(rows, axis=1) / np.linalg.norm(query)
        votes = dict.fromkeys(KINDS, 0.0)
        for position in np.argsort(-cosine)[:10]:
            votes[labels[True][position]] += 1 / (1 - cosine[position])
        hits += max(votes, key=votes.__getitem__) == label
    return 100 * hits / len(embeddings[False])


def test_the_score_is_that_of_a_naive_probe(labelled_sounds: Path) -> None:
    config = make_config(labelled_sounds)
    validation = Validation(config)
    scores = []
    for seed in range(4):
        training = make_training(make_config(labelled_sounds, f"run.seed={seed}"))
        train_step(training, batch(seed))
        scores.append(validation.score(training))
        assert scores[-1] == pytest.approx(naive_knn_score(labelled_sounds, training))
    assert len(set(scores)) > 1  # or nothing has been compared


@pytest.mark.parametrize("probe", ["knn", "logistic"])
def test_real_recordings_are_told_apart(recordings: Path, tmp_path: Path, probe: str) -> None:
    """Spoken digits by an untrained encoder: far above the 10 % of chance, far below certainty."""
    folder = recordings / "fsdd"
    path = tmp_path / "digits.csv"
    with (folder / "metadata.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["speaker"] in ("george", "theo")]
    parts = ("train", "train", "valid")
    write_rows(
        path,
        [
            (str(folder / row["file_name"]), row["label"], parts[number % 3])
            for number, row in enumerate(rows)
        ],
    )
    config = make_config(path, f"validation.probe={probe}", "encoder.dim=128")
    score = Validation(config).score(make_training(config))
    assert score is not None
    assert 40 < score <= 100


@pytest.mark.parametrize("probe", ["knn", "logistic"])
def test_embeddings_that_tell_classes_apart_score_100(probe: str) -> None:
    generator = np.random.default_rng(0)
    labels = np.array(["low", "middle", "high"] * 40)
    centers = {"low": -9.0, "middle": 0.0, "high": 9.0}
    embeddings = generator.normal(size=(120, 3)).astype(np.float32)
    embeddings[:, 0] += [centers[label] for label in labels]
    embeddings[:, 1] += [abs(centers[label]) for label in labels]
    is_train = np.arange(120) < 90
    assert score_embeddings(probe, embeddings, labels, is_train=is_train) == 100
    shuffled = np.concatenate((generator.permutation(labels[:90]), labels[90:]))
    score = score_embeddings(probe, embeddings, shuffled, is_train=is_train)
    assert score is not None
    assert score < 70
    embeddings[100, 2] = np.nan
    assert np.isnan(score_embeddings(probe, embeddings, labels, is_train=is_train) or 0.0)


def test_clips_are_padded_to_what_the_frontend_needs(labelled_sounds: Path) -> None:
    config = make_config(labelled_sounds, "frontend.hop_length=1600")  # 0.7 s to one embedding
    score = Validation(config).score(make_training(config))
    assert score is not None
    assert 0 <= score <= 100


def test_an_encoder_that_is_not_finite_scores_nan(labelled_sounds: Path) -> None:
    config = make_config(labelled_sounds)
    training = make_training(config)
    with torch.no_grad():
        training.byol.encoder.fc[3].bias[0] = float("nan")
    score = Validation(config).score(training)
    assert score is not None
    assert np.isnan(score)


def test_little_memory_changes_no_score(
    labelled_sounds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(labelled_sounds)
    training = make_training(config)
    score = Validation(config).score(training)
    monkeypatch.setattr(module, "MAX_BYTES_KEPT", 100_000)
    monkeypatch.setattr(module, "FRAMES_AT_ONCE", {"cpu": 1})
    reading = Validation(config)
    assert not reading._kept
    assert reading.score(training) == score


def test_long_clips_are_embedded_up_to_a_limit(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(copied)
    training = make_training(config)
    monkeypatch.setattr(module, "MAX_SECONDS", 0.5)
    score = Validation(config).score(training)
    for name, _, _ in read_rows(copied):
        clip, rate = soundfile.read(copied.parent / name)
        soundfile.write(copied.parent / name, clip[: rate // 2], rate, subtype="PCM_16")
    monkeypatch.setattr(module, "MAX_SECONDS", 60.0)
    assert Validation(config).score(training) == score


@pytest.mark.parametrize("probe", ["knn", "logistic"])
def test_a_stop_is_looked_for_between_pieces_of_work(labelled_sounds: Path, probe: str) -> None:
    config = make_config(labelled_sounds, f"validation.probe={probe}")
    training, validation = make_training(config), Validation(config)

    def counting(calls: list[int], last: float) -> Callable[[], bool]:
        def should_stop() -> bool:
            calls.append(1)
            return len(calls) >= last

        return should_stop

    all_calls: list[int] = []
    score = validation.score(training, counting(all_calls, np.inf))
    assert score is not None
    assert len(all_calls) >= 4  # three lengths of clips, and the probe
    for last in range(1, len(all_calls) + 1):
        calls: list[int] = []
        assert validation.score(training, counting(calls, last)) is None
        assert len(calls) == last
    assert validation.score(training) == score


def test_scores_are_comparable_where_the_measure_is_the_same(copied: Path) -> None:
    def measure(*overrides: str) -> str:
        return Validation(make_config(copied, *overrides)).measured_by

    first = measure()
    assert measure("validation.every_epochs=3", "run.seed=9") == first
    assert measure("validation.probe=logistic") != first
    rows = read_rows(copied)
    write_rows(copied, rows[::-1])
    assert measure() == first
    write_rows(copied, rows[1:])
    assert measure() != first


def relabel(rows: list[tuple[str, ...]], label: str | None, part: str | None) -> None:
    rows[:] = [(name, label or kind, part or own) for name, kind, own in rows]


# How it is changed; the code, key and value of the error.
BAD_SETS: dict[str, tuple[Callable[[list[tuple[str, ...]]], None], Code, str | None, str]] = {
    "missing file": (
        lambda rows: rows.append(("no.wav", KINDS[0], "train")),
        "missing",
        "file_name",
        "no.wav",
    ),
    "one class": (lambda rows: relabel(rows, "dog", None), "value", "label", "dog"),
    "no valid clips": (lambda rows: relabel(rows, None, "train"), "missing", "split", "valid"),
    "no train clips": (lambda rows: relabel(rows, None, "valid"), "missing", "split", "train"),
    "unknown split": (lambda rows: relabel(rows, None, "trian"), "value", "split", "trian"),
    "untrained class": (
        lambda rows: rows.__setitem__(-4, (rows[-4][0], "owl", "valid")),
        "unknown",
        None,
        "owl",
    ),
    "no rows": (lambda rows: rows.clear(), "missing", "split", "train"),
}


@pytest.mark.parametrize("kind", BAD_SETS)
def test_a_csv_that_cannot_be_used_is_refused(copied: Path, kind: str) -> None:
    change, code, key, value = BAD_SETS[kind]
    rows = read_rows(copied)
    change(rows)
    write_rows(copied, rows)
    with refused(CorpusError, code, copied, key=key, value=value):
        Validation(make_config(copied))


@pytest.mark.parametrize("header", ["file_name,labels,split", "file_name,label,fold", "a,b,c", ""])
def test_a_csv_with_other_columns_is_refused(copied: Path, header: str) -> None:
    lines = copied.read_text().splitlines()
    copied.write_text("\n".join([header, *lines[1:]]) if header else "")
    with refused(CorpusError, "malformed" if header else "empty", copied):
        Validation(make_config(copied))


def test_a_csv_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with refused(CorpusError, "unreadable", tmp_path / "no.csv"):
        Validation(make_config(tmp_path / "no.csv"))
    with refused(ConfigError, "missing", key="validation.labelled"):
        Validation(make_config(None))


@pytest.mark.parametrize("code", ["cut", "damaged", "empty", "not-finite"])
def test_a_clip_that_cannot_be_read_is_named_before_training(copied: Path, code: Code) -> None:
    name = read_rows(copied)[7][0]
    path = copied.parent / name
    content = path.read_bytes()
    if code == "not-finite":
        soundfile.write(path, np.full(16000, np.nan, np.float32), 16000, subtype="FLOAT")
    else:
        spoilt = {"cut": content[: len(content) // 2], "damaged": b"noise" * 99, "empty": b""}
        path.write_bytes(spoilt[code])
    with refused(AudioError, code, path) as caught:
        Validation(make_config(copied))
    assert f"row 9 of {copied}" in str(caught.value)


def test_a_clip_that_is_gone_later_is_named(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES_KEPT", 0)
    config = make_config(copied)
    validation = Validation(config)
    name = read_rows(copied)[7][0]
    (copied.parent / name).unlink()
    with refused(AudioError, "missing", copied.parent / name):
        validation.score(make_training(config))


def test_without_scikit_learn(labelled_sounds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [each for each in sys.modules if each.split(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(MissingPackageError, match=r"\.\[evaluate\]"):
        Validation(make_config(labelled_sounds))
