"""Collapse measured against its definition, and skipped steps recorded."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from byola_rq.corpus.decoded_clips import measure_clips
from byola_rq.corpus.order import ClipOrder, StepSampler
from byola_rq.corpus.segments import find_clips, open_packed_clips
from byola_rq.errors import TrainingError
from byola_rq.train.collapse import effective_rank, examine_embeddings
from byola_rq.train.skipped_steps import SkippedSteps, SkipsInARow
from tests.hand_packed import pack
from tests.refusal import refused


def embeddings(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(32, 8), (8, 32), (20, 20)])
def test_effective_rank_follows_its_definition(shape: tuple[int, int]) -> None:
    embedding = embeddings(*shape) + 3
    singular = np.linalg.svd((embedding - embedding.mean(dim=0)).double().numpy(), compute_uv=False)
    shares = singular[singular > 1e-9] / singular.sum()
    expected = math.exp(-(shares * np.log(shares)).sum())
    assert effective_rank(embedding) == pytest.approx(expected, rel=1e-5)


def test_effective_rank_of_known_embeddings() -> None:
    assert effective_rank(torch.full((16, 8), 0.7)) == 1
    line = embeddings(64, 1) @ embeddings(1, 32, seed=1) + 5
    assert effective_rank(line) == pytest.approx(1, abs=1e-2)
    # Three orthogonal directions of one size.
    axes = torch.eye(3, 12)
    assert effective_rank(torch.cat((axes, -axes))) == pytest.approx(3)
    assert math.isnan(effective_rank(torch.full((4, 4), math.nan)))


def test_the_rank_of_a_large_batch_is_that_of_its_first_rows() -> None:
    embedding = embeddings(400, 300)
    assert effective_rank(embedding) == effective_rank(embedding[:256])


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_collapse_is_detected_at_any_scale(scale: float) -> None:
    healthy = embeddings(64, 128).relu() * scale
    assert examine_embeddings(healthy).collapse is None
    total = (1 + 1e-3 * embeddings(64, 128)) * scale
    assert "differ by 1.0e-03 of their size" in str(examine_embeddings(total).collapse)
    line = (embeddings(64, 1) @ embeddings(1, 128, seed=1) + 2) * scale
    assert "differ in only 1.0 directions" in str(examine_embeddings(line).collapse)
    assert examine_embeddings(torch.zeros(64, 128)).collapse is not None


def test_embeddings_that_are_not_finite_are_no_collapse() -> None:
    health = examine_embeddings(torch.full((8, 4), math.inf))
    assert math.isnan(health.std)
    assert math.isnan(health.effective_rank)
    assert health.collapse is None


def test_clips_are_named_as_their_owner_knows_them(sounds: Path, tmp_path: Path) -> None:
    decoded = measure_clips(find_clips([sounds])[0], 16000)
    paths = sorted(sounds.iterdir())
    assert decoded.names(np.array([5, 0])) == [str(paths[5]), str(paths[0])]
    folders = [
        pack(tmp_path / name, [np.full(20, 7, np.int16)] * 3, clips_per_shard=2)
        for name in ("first", "second")
    ]
    packed = open_packed_clips(folders, 16000)
    assert packed is not None
    from byola_rq.corpus.packed_format import read_index

    ids = [each for folder in folders for each in read_index(folder)["clip_id"].to_pylist()]
    assert packed.names(np.array([4, 1])) == [ids[4], ids[1]]


def test_skipped_steps_name_the_clips_of_their_step(sounds: Path, tmp_path: Path) -> None:
    clips = measure_clips(find_clips([sounds])[0], 16000)
    order = ClipOrder(len(clips), seed=3)
    path = tmp_path / "skipped_steps.csv"
    steps = SkippedSteps(path, clips, order, batch_size=5, last_step=0)
    steps.append([])
    assert not path.exists()
    steps.append([(7, [True, True, False, True, True])])
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    items = list(StepSampler(order, 5, first_step=0, num_steps=7))[6]
    assert [row["clip"] for row in rows] == [str(clips.sources[index]) for index in items[:, 1]]
    assert [row["is_finite"] for row in rows] == ["1", "1", "0", "1", "1"]
    # A run that goes on from before that step writes it again; one from behind it keeps it.
    SkippedSteps(path, clips, order, batch_size=5, last_step=7)
    assert len(path.read_text().splitlines()) == 6
    SkippedSteps(path, clips, order, batch_size=5, last_step=6)
    assert not path.exists()


def test_ten_in_a_row_are_refused_over_rows_of_metrics(tmp_path: Path) -> None:
    steps = SkipsInARow()
    steps.check([True] * 9 + [False] + [True] * 6, tmp_path)
    steps.check([True] * 3 + [False, True], tmp_path)
    steps.check([True] * 8, tmp_path)
    with refused(TrainingError, "diverged", tmp_path, value=10):
        steps.check([True, False], tmp_path)
