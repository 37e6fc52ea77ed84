"""Shards joined: the index, the rejects, and what is missing."""

import csv
import json
from pathlib import Path

import numpy as np

from byola_rq.corpus.packed_format import open_packed
from byola_rq.errors import CorpusError
from byola_rq.packing.merge import merge_shards
from byola_rq.packing.plan import PackingPlan, fix_plan
from byola_rq.packing.shards import ShardWriter
from tests.refusal import refused


def plan_of(num_shards: int) -> PackingPlan:
    return PackingPlan(
        options={"limit": None},
        num_clips=2 * num_shards,
        clips_per_shard=2,
        mean_seconds=0.1,
        digests=[f"{number:064x}" for number in range(num_shards)],
        rejected=[("lost.wav", "missing"), ("twin.wav", "same clip as a.wav")],
        num_duplicates=1,
    )


def write_shard(folder: Path, number: int) -> None:
    writer = ShardWriter(folder, number)
    writer.append(
        np.full(number + 1, number, np.int16),
        clip_id=f"clip {number}",
        source=f'/data/ä"{number}",\n.wav',
        original_rate=16000,
    )
    writer.reject(f"bad {number}.wav", 'got "nothing", alas')
    writer.finish()


def test_shards_are_joined_in_their_order_not_that_of_writing(tmp_path: Path) -> None:
    plan = plan_of(4)
    fix_plan(tmp_path, plan)
    for number in (2, 0, 3, 1):
        write_shard(tmp_path, number)
    info = merge_shards(tmp_path, plan)
    corpus = open_packed(tmp_path)
    assert info == corpus.info == json.loads((tmp_path / "corpus.json").read_text())
    assert corpus.read_column("clip_id") == [f"clip {number}" for number in range(4)]
    assert corpus.read_column("source")[1] == '/data/ä"1",\n.wav'
    assert [corpus.clip(number).tolist() for number in range(3)] == [[0], [1, 1], [2, 2, 2]]
    with (tmp_path / "rejected.csv").open(newline="") as file:
        rows = [tuple(row) for row in csv.reader(file)]
    assert rows[0] == ("source", "reason")
    assert rows[1:] == [
        *((f"bad {number}.wav", 'got "nothing", alas') for number in range(4)),
        *plan.rejected,
    ]
    assert (info["clips"], info["rejected"], info["duplicates"]) == (4, 5, 1)
    assert info["hours"] == 10 / 16000 / 3600
    assert info["options"]["clips_per_shard"] == 2
    assert not (tmp_path / ".parts").exists()


def test_missing_shards_are_named(tmp_path: Path) -> None:
    plan = plan_of(9)
    fix_plan(tmp_path, plan)
    for number in (1, 5, 6):
        write_shard(tmp_path, number)
    with refused(CorpusError, "missing", tmp_path, value=[0, 2, 3, 4, 7, 8]) as caught:
        merge_shards(tmp_path, plan)
    assert "0, 2-4, 7-8" in str(caught.value)
    assert not (tmp_path / "corpus.json").exists()
    assert len(list((tmp_path / ".parts").glob("*.json"))) == 4


def test_a_corpus_of_rejects_alone_can_be_opened(tmp_path: Path) -> None:
    plan = plan_of(1)
    fix_plan(tmp_path, plan)
    writer = ShardWriter(tmp_path, 0)
    writer.reject("bad.wav", "bad")
    writer.finish()
    assert merge_shards(tmp_path, plan)["clips"] == 0
    corpus = open_packed(tmp_path)
    assert len(corpus) == 0
    assert corpus.shards[0].shape == (0,)
