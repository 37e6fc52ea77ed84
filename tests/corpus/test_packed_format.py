"""The packed corpus as others read it, and every way in which it can be damaged."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from byola_rq.corpus.packed_format import find_damage, is_packed, open_packed, read_info
from byola_rq.corpus.segments import open_packed_clips
from byola_rq.errors import CorpusError
from byola_rq.packing.merge import merge_shards
from byola_rq.packing.plan import PackingPlan, fix_plan
from byola_rq.packing.shards import ShardWriter
from tests.refusal import refused


def pack(folder: Path, shards: Sequence[Sequence[np.ndarray]]) -> list[np.ndarray]:
    """Write a corpus of these clips; returns them in one list."""
    plan = PackingPlan(
        options={"sources": ["made"]},
        num_clips=sum(map(len, shards)),
        clips_per_shard=max(map(len, shards)),
        mean_seconds=1.0,
        digests=["0" * 64] * len(shards),
    )
    fix_plan(folder, plan)
    for number, clips in enumerate(shards):
        writer = ShardWriter(folder, number)
        for place, samples in enumerate(clips):
            writer.append(
                samples,
                clip_id=f"{number}/{place}",
                source=f"/data/{number}/{place}.wav",
                original_rate=44100,
                labels="dog,bark" if place else "",
            )
        writer.finish()
    merge_shards(folder, plan)
    return [samples for clips in shards for samples in clips]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five clips in three shards, one of them without a clip."""
    random = np.random.default_rng(0)
    clips = [random.integers(-32768, 32768, n).astype(np.int16) for n in (700, 1, 90, 1600, 5)]
    pack(tmp_path / "packed", [clips[:3], [], clips[3:]])
    return tmp_path / "packed"


def test_clips_come_back(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    clips = pack(
        tmp_path / "c",
        [
            [random.integers(-32768, 32768, int(n)).astype(np.int16) for n in lengths]
            for lengths in random.integers(1, 3000, (4, 6))
        ],
    )
    corpus = open_packed(tmp_path / "c")
    assert len(corpus) == len(clips) == 24
    for number, clip in enumerate(clips):
        np.testing.assert_array_equal(corpus.clip(number), clip)
    assert isinstance(corpus.shards[0], np.memmap)
    assert corpus.shard.dtype == np.int32
    assert corpus.offset.dtype == corpus.num_samples.dtype == np.int64
    assert corpus.read_column("clip_id")[:7] == [f"0/{i}" for i in range(6)] + ["1/0"]
    assert corpus.info["hours"] == pytest.approx(sum(map(len, clips)) / 16000 / 3600)


def test_numpy_and_pandas_alone_can_read_it(folder: Path) -> None:
    index = pd.read_parquet(folder / "index.parquet")
    assert list(index.columns) == [
        "clip_id", "source", "shard", "offset", "num_samples", "original_rate", "labels"
    ]  # fmt: skip
    assert [str(kind) for kind in index.dtypes[2:6]] == ["int32", "int64", "int64", "int32"]
    assert index["clip_id"].tolist() == ["0/0", "0/1", "0/2", "2/0", "2/1"]
    assert index["offset"].tolist() == [0, 700, 701, 0, 1600]
    assert index["labels"].tolist() == ["", "dog,bark", "dog,bark", "", "dog,bark"]
    for shard, length in enumerate((791, 0, 1605)):
        samples = np.load(folder / f"pcm-{shard:05d}.npy", mmap_mode="r")
        assert samples.shape == (length,)
        assert samples.dtype == np.int16
    assert (folder / "rejected.csv").read_text() == "source,reason\n"
    assert sorted(path.name for path in folder.iterdir()) == [
        "corpus.json", "index.parquet", "pcm-00000.npy", "pcm-00001.npy", "pcm-00002.npy",
        "rejected.csv",
    ]  # fmt: skip


def test_corpus_json_says_all(folder: Path) -> None:
    info = json.loads((folder / "corpus.json").read_text())
    assert list(info) == [
        "format", "format_version", "sample_rate", "clips", "hours", "rejected", "duplicates",
        "shards", "files", "options",
    ]  # fmt: skip
    assert info["format"] == "byola_rq packed corpus"
    assert (info["format_version"], info["sample_rate"]) == (1, 16000)
    assert (info["clips"], info["rejected"], info["shards"]) == (5, 0, 3)
    assert set(info["files"]) == {path.name for path in folder.iterdir()} - {"corpus.json"}
    assert info["files"]["pcm-00002.npy"]["bytes"] == 128 + 2 * 1605
    assert info["options"]["sources"] == ["made"]


def test_is_packed_tells_a_corpus_from_other_folders(folder: Path, tmp_path: Path) -> None:
    assert is_packed(folder)
    assert not is_packed(tmp_path)
    assert not is_packed(folder / "index.parquet")
    (tmp_path / "corpus.json").write_text("[]")
    assert not is_packed(tmp_path)
    (tmp_path / "corpus.json").write_text('{"format": "something else"}')
    assert not is_packed(tmp_path)
    with refused(CorpusError, "foreign", tmp_path):
        read_info(tmp_path)


def rewrite_info(folder: Path, **values: object) -> None:
    info = json.loads((folder / "corpus.json").read_text())
    (folder / "corpus.json").write_text(json.dumps({**info, **values}))


def test_another_format_version_is_refused(folder: Path) -> None:
    rewrite_info(folder, format_version=2)
    assert is_packed(folder)
    with refused(CorpusError, "newer", folder, key="format version", value=2):
        open_packed(folder)
    with refused(CorpusError, "newer", folder, key="format version", value=2):
        list(find_damage(folder))


def test_missing_files_are_reported(folder: Path, tmp_path: Path) -> None:
    with refused(CorpusError, "missing", tmp_path / "nothing"):
        open_packed(tmp_path / "nothing")
    (folder / "pcm-00002.npy").unlink()
    with refused(CorpusError, "missing", folder / "pcm-00002.npy"):
        open_packed(folder)


def test_files_of_another_size_are_not_opened(folder: Path) -> None:
    with (folder / "pcm-00000.npy").open("ab") as file:
        file.write(b"\0\0")
    with refused(CorpusError, "damaged", folder / "pcm-00000.npy") as caught:
        open_packed(folder)
    assert "1712" in str(caught.value)


def replace_index(folder: Path, index: pd.DataFrame) -> None:
    """Another index, that corpus.json knows of."""
    table = pa.Table.from_pandas(index, preserve_index=False)
    pq.write_table(table, folder / "index.parquet")
    info = json.loads((folder / "corpus.json").read_text())
    info["files"]["index.parquet"]["bytes"] = (folder / "index.parquet").stat().st_size
    rewrite_info(folder, files=info["files"])


@pytest.mark.parametrize(
    ("column", "value", "place"),  # shard, first and last sample
    [
        ("shard", 3, (3, 1600, 1605)),
        ("shard", -1, (-1, 1600, 1605)),
        ("shard", 1, (1, 1600, 1605)),
        ("offset", 1601, (2, 1601, 1606)),
        ("offset", -1, (2, -1, 4)),
        ("num_samples", 0, (2, 1600, 1600)),
        ("num_samples", 2**63 - 1, (2, 1600, 1600 + 2**63 - 1)),
    ],
)
def test_rows_outside_of_the_shards_are_refused(
    folder: Path, column: str, value: int, place: tuple[int, int, int]
) -> None:
    index = pd.read_parquet(folder / "index.parquet")
    index.loc[4, column] = value
    replace_index(folder, index)
    with refused(CorpusError, "damaged", folder, key="row 4", value=place):
        open_packed(folder)


def test_an_index_of_other_rows_or_columns_is_refused(folder: Path) -> None:
    index = pd.read_parquet(folder / "index.parquet")
    replace_index(folder, index[:4])
    with refused(CorpusError, "damaged", folder, key="index.parquet", value=4):
        open_packed(folder)
    index["offset"] = index["offset"].astype("Int64")
    for other in (index.drop(columns="shard"), index.replace({"offset": {700: None}})):
        replace_index(folder, other)
        with refused(CorpusError, "unreadable", folder / "index.parquet"):
            open_packed(folder)


def test_shards_of_another_kind_are_refused(folder: Path) -> None:
    np.save(folder / "pcm-00000.npy", np.zeros(791 // 2, np.float32))
    info = json.loads((folder / "corpus.json").read_text())
    info["files"]["pcm-00000.npy"]["bytes"] = (folder / "pcm-00000.npy").stat().st_size
    rewrite_info(folder, files=info["files"])
    with refused(CorpusError, "malformed", folder / "pcm-00000.npy", value=np.float32):
        open_packed(folder)
    (folder / "pcm-00000.npy").write_bytes(b"no npy".ljust(info["files"]["pcm-00000.npy"]["bytes"]))
    with refused(CorpusError, "unreadable", folder / "pcm-00000.npy"):
        open_packed(folder)


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_damage_is_reported_with_the_clips_it_hits(folder: Path) -> None:
    told: list[int] = []
    assert list(find_damage(folder, told.append)) == []
    files = json.loads((folder / "corpus.json").read_text())["files"]
    assert sum(told) == sum(each["bytes"] for each in files.values())
    flip_a_byte(folder / "pcm-00000.npy")
    (folder / "pcm-00001.npy").unlink()
    (folder / "rejected.csv").write_text("")
    shard, missing, rejected = find_damage(folder)
    assert shard == (
        "pcm-00000.npy: its SHA-256 is not that of corpus.json: its content has changed "
        "(3 clips are in it: 0/0, ..., 0/2)"
    )
    assert missing == "pcm-00001.npy: missing (No such file or directory) (no clip is in it)"
    assert rejected == "rejected.csv: its size must be 14 bytes; got 0"


def test_damage_is_found_beside_a_damaged_index(folder: Path) -> None:
    flip_a_byte(folder / "pcm-00002.npy")
    (folder / "index.parquet").write_bytes(b"")
    shard, index = find_damage(folder)
    assert shard.endswith("(its clips are unknown: index.parquet cannot be read)")
    assert index.startswith("index.parquet: its size must be")


def rename_in_info(folder: Path, before: str, after: str) -> None:
    files = json.loads((folder / "corpus.json").read_text())["files"]
    files[after] = files.pop(before)
    rewrite_info(folder, files=files)


@pytest.mark.parametrize("name", ["../corpus.json", "/etc/hosts", "pcm-00003.npy", "more"])
def test_files_of_other_names_are_not_looked_at(folder: Path, name: str) -> None:
    rename_in_info(folder, "pcm-00001.npy", name)
    for read in (open_packed, lambda folder: list(find_damage(folder))):
        with refused(CorpusError, "malformed", folder / "corpus.json"):
            read(folder)


@pytest.mark.parametrize("shards", [-1, 0, 2, 10**12])
def test_there_are_as_many_shards_as_files(folder: Path, shards: int) -> None:
    rewrite_info(folder, shards=shards)
    with refused(CorpusError, "malformed", folder / "corpus.json"):
        open_packed(folder)


@pytest.mark.parametrize("name", ["pcm-00001.npy", "index.parquet", "rejected.csv"])
@pytest.mark.parametrize("is_device", [False, True])
def test_a_special_file_is_never_waited_for(folder: Path, name: str, *, is_device: bool) -> None:
    (folder / name).unlink()
    if is_device:
        (folder / name).symlink_to("/dev/zero")
    else:
        os.mkfifo(folder / name)
    files = json.loads((folder / "corpus.json").read_text())["files"]
    files[name]["bytes"] = 0
    rewrite_info(folder, files=files)
    with refused(CorpusError, "damaged", folder / name):
        open_packed(folder)
    assert [line.partition(":")[0] for line in find_damage(folder)] == [name]


def test_a_shard_that_says_more_than_it_has(folder: Path) -> None:
    path = folder / "pcm-00000.npy"
    size = path.stat().st_size
    with path.open("r+b") as file:
        header = {"descr": "<i2", "fortran_order": False, "shape": (2**35,)}
        np.lib.format.write_array_header_1_0(file, header)
    assert path.stat().st_size == size
    with refused(CorpusError, "unreadable", path):
        open_packed(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sample_rate", "16 kHz"),
        ("clips", "five"),
        ("hours", None),
        ("shards", -1),
        ("shards", 10**12),
        ("shards", 2.5),
        ("files", []),
        ("files", {"index.parquet": 3}),
        ("files", {"index.parquet": {"bytes": "3", "sha256": ""}}),
        ("options", None),
    ],
)
def test_a_corpus_json_of_another_shape(folder: Path, key: str, value: object) -> None:
    path = folder / "corpus.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    for read in (read_info, open_packed):
        with refused(CorpusError, "malformed", path) as caught:
            read(folder)
        assert key in str(caught.value)


@pytest.mark.parametrize("text", ["[" * 10**5, "[]", "1", "\udce9", ""])
def test_a_corpus_json_that_is_none(folder: Path, text: str) -> None:
    (folder / "corpus.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    for read in (read_info, lambda each: open_packed_clips([each], 16000)):
        with refused(CorpusError, "malformed", folder):
            read(folder)
    (folder / "index.parquet").unlink()
    assert not is_packed(folder)
