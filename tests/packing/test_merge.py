"""Shards joined: the index, the rejects, and what is missing."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from byola_rq.corpus.packed_format import open_packed
from byola_rq.errors import Code, CorpusError
from byola_rq.packing.merge import merge_shards
from byola_rq.packing.plan import PackingPlan, fix_plan
from byola_rq.packing.prepare import merge_corpus
from byola_rq.packing.shards import PARTS, PackingError, ShardWriter, remove_parts
from byola_rq.text.cells import csv_rows
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


@pytest.mark.parametrize(
    ("column", "values", "code"),
    [
        ("labels", [], "damaged"),
        ("num_samples", [10**30], "malformed"),
        ("original_rate", [2**40], "malformed"),
        ("clip_id", ["\ud800"], "malformed"),
    ],
)
def test_rows_that_fit_no_index_are_refused(
    tmp_path: Path, column: str, values: list[object], code: Code
) -> None:
    fix_plan(tmp_path, plan_of(1))
    write_shard(tmp_path, 0)
    piece = tmp_path / PARTS / "00000.json"
    first, rows = map(json.loads, piece.read_text().splitlines())
    rows["clips"][column] = values
    piece.write_text(f"{json.dumps(first)}\n{json.dumps(rows)}\n")
    with refused(CorpusError, code, piece if code == "damaged" else tmp_path):
        merge_corpus(tmp_path)
    assert not (tmp_path / "corpus.json").exists()


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


def test_what_a_link_in_place_of_the_pieces_names_is_left_alone(tmp_path: Path) -> None:
    plan = plan_of(1)
    fix_plan(folder := tmp_path / "corpus", plan)
    write_shard(folder, 0)
    others = tmp_path / "others"
    (folder / PARTS).rename(others)
    (folder / PARTS).symlink_to(others)
    names = {path.name for path in others.iterdir()}
    with refused(PackingError, "unwritable", folder):
        merge_corpus(folder)
    (folder / PARTS).unlink()
    others.rename(folder / PARTS)
    merge_corpus(folder)
    others.mkdir()
    (others / "plan.json").write_text("mine")
    (folder / PARTS).symlink_to(others)
    merge_corpus(folder)  # which is whole: the pieces are removed
    assert [path.name for path in others.iterdir()] == ["plan.json"]
    assert names == {"plan.json", "00000.json"}


def test_only_pieces_are_removed(tmp_path: Path) -> None:
    (parts := tmp_path / PARTS).mkdir()
    for name in ("plan.json", "00012.json", "1-of-2.lock", "pcm-00001.npy.1-of-2.partial"):
        (parts / name).touch()
    (mine := tmp_path / "mine").touch()
    (parts / "00013.json").symlink_to(mine)
    for name in ("notes.txt", "x.json", ".hidden.partial"):
        (parts / name).touch()
    remove_parts(tmp_path)
    assert {path.name for path in parts.iterdir()} == {"notes.txt", "x.json", ".hidden.partial"}
    assert mine.exists()


def test_no_reject_is_a_formula(tmp_path: Path) -> None:
    fix_plan(tmp_path, plan := plan_of(1))
    write_shard(tmp_path, 0)
    plan.rejected.append(("=HYPERLINK(1).wav", "-"))
    merge_shards(tmp_path, plan)
    text = (tmp_path / "rejected.csv").read_bytes().decode()
    assert "\n'=HYPERLINK(1).wav,'-\n" in text
    assert csv_rows(text)[-1] == ["=HYPERLINK(1).wav", "-"]
