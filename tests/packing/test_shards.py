"""Shards being written: whole or not there, whatever stops the writer."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from byola_rq.errors import CorpusError
from byola_rq.packing.shards import (
    PARTS,
    ShardWriter,
    read_rows,
    read_summary,
    remove_parts,
)
from tests.refusal import refused


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / PARTS).mkdir()
    return tmp_path


def fill(writer: ShardWriter, lengths: list[int]) -> np.ndarray:
    samples = np.random.default_rng(2).integers(-32768, 32768, sum(lengths)).astype(np.int16)
    stops = np.cumsum(lengths)
    for number, (stop, length) in enumerate(zip(stops, lengths, strict=True)):
        writer.append(
            samples[stop - length : stop], clip_id=str(number), source="x", original_rate=8000
        )
    return samples


def test_a_shard_appears_whole_with_its_piece(folder: Path) -> None:
    writer = ShardWriter(folder, 7)
    samples = fill(writer, [5, 100, 1])
    writer.reject("bad.wav", "it is bad,\nvery")
    assert read_summary(folder, 7) is None
    assert not list(folder.glob("*.npy"))
    writer.finish()
    np.testing.assert_array_equal(np.load(folder / "pcm-00007.npy"), samples)
    summary = read_summary(folder, 7)
    assert summary is not None
    data = (folder / "pcm-00007.npy").read_bytes()
    assert (summary.bytes, summary.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert (summary.clips, summary.rejected, summary.num_samples) == (3, 1, 106)
    rows = read_rows(folder, 7)
    assert rows["clips"]["num_samples"] == [5, 100, 1]
    assert rows["rejected"] == [["bad.wav", "it is bad,\nvery"]]
    writer.discard()  # nothing is left to discard
    assert read_summary(folder, 7) == summary
    assert [path.name for path in (folder / PARTS).iterdir()] == ["00007.json"]


def test_the_file_is_what_numpy_itself_would_write(folder: Path) -> None:
    writer = ShardWriter(folder, 0)
    samples = fill(writer, [12345, 6])
    writer.finish()
    np.save(folder / "numpy.npy", samples)
    assert (folder / "pcm-00000.npy").read_bytes() == (folder / "numpy.npy").read_bytes()


def test_samples_of_any_layout_are_taken(folder: Path) -> None:
    writer = ShardWriter(folder, 0)
    samples = np.arange(20, dtype=np.int16)
    writer.append(samples[::2], clip_id="a", source="a", original_rate=16000)
    writer.append(samples.astype(">i2"), clip_id="b", source="b", original_rate=16000)  # type: ignore[arg-type]
    writer.finish()
    np.testing.assert_array_equal(
        np.load(folder / "pcm-00000.npy"), np.concatenate([samples[::2], samples])
    )


def test_a_discarded_shard_leaves_nothing(folder: Path) -> None:
    writer = ShardWriter(folder, 0)
    fill(writer, [50_000])
    writer.discard()
    assert list(folder.rglob("*")) == [folder / PARTS]


@pytest.mark.parametrize("damage", ["no samples", "short samples", "half a piece", "no piece"])
def test_what_is_not_whole_is_none(folder: Path, damage: str) -> None:
    writer = ShardWriter(folder, 0)
    fill(writer, [10, 20])
    writer.finish()
    samples, piece = folder / "pcm-00000.npy", folder / PARTS / "00000.json"
    assert read_summary(folder, 0)
    if damage == "no samples":
        samples.unlink()
    elif damage == "short samples":
        samples.write_bytes(samples.read_bytes()[:-2])
    elif damage == "half a piece":
        piece.write_text(piece.read_text()[:40])
    else:
        piece.unlink()
    assert read_summary(folder, 0) is None
    if "piece" in damage:
        with refused(CorpusError, "damaged", piece):
            read_rows(folder, 0)


def test_two_writers_of_one_shard_do_not_meet(folder: Path) -> None:
    first, second = ShardWriter(folder, 0, "1-of-1"), ShardWriter(folder, 0, "1-of-2")
    fill(first, [100, 200])
    samples = fill(second, [100, 200])
    second.finish()
    first.finish()
    np.testing.assert_array_equal(np.load(folder / "pcm-00000.npy"), samples)


def test_names_survive_a_power_cut(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The content reaches the disk before the name, the name before what relies on it."""
    calls: list[str] = []
    monkeypatch.setattr("os.fsync", lambda number: calls.append(f"sync {name_of(number)}"))
    replace = Path.replace
    monkeypatch.setattr(
        Path,
        "replace",
        lambda path, target: calls.append(f"name {target.name}") or replace(path, target),
    )

    def name_of(number: int) -> str:
        return Path(f"/proc/self/fd/{number}").resolve().name

    writer = ShardWriter(folder, 0)
    fill(writer, [10])
    writer.finish()
    partial = "pcm-00000.npy.1-of-1.partial"
    assert calls[:4] == [f"sync {partial}", "name pcm-00000.npy", f"sync {folder.name}", calls[3]]
    assert calls[3].startswith("sync .00000.json.")
    assert calls[4:] == ["name 00000.json", f"sync {PARTS}"]


def test_parts_are_removed(folder: Path) -> None:
    (folder / PARTS / "00000.json").write_text("{}")
    remove_parts(folder)
    assert list(folder.iterdir()) == []
    remove_parts(folder)  # twice is once
