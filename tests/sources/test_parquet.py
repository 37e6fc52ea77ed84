"""Parquet files of encoded audio: names and labels, rows as a stream, bounded memory."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from byola_rq.audio.io import EncodedAudio
from byola_rq.errors import AudioError, CorpusError
from byola_rq.runtime.sandbox import Limits
from byola_rq.sources import parquet, parquet_tables
from byola_rq.sources.clip_source import MAX_ENCODED_BYTES, ClipSource, Listing
from byola_rq.sources.encoded import iterate_encoded
from byola_rq.sources.listing import list_sources
from byola_rq.sources.parquet import list_table
from byola_rq.sources.parquet_tables import audio_column
from tests.refusal import refused


def write(path: Path, rows: list[dict | None], column: str = "audio", **columns) -> Path:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    options = {"row_group_size": columns.pop("row_group_size", None)}
    pq.write_table(pa.table({column: pa.array(rows, kind), **columns}), path, **options)
    return path


def list_one(path: Path) -> Listing:
    listing = Listing()
    listing.clips.extend(list_table(str(path), "t", listing))
    return listing


def contents(clips: list[ClipSource]) -> list[bytes | str]:
    """Bytes, or the message of the error."""
    return [
        each.data if isinstance(each, EncodedAudio) else str(each)
        for each in iterate_encoded(clips)
    ]


@pytest.mark.parametrize("row_group_size", [1, 2, 3, 100])
def test_rows_with_and_without_names(tmp_path: Path, row_group_size: int) -> None:
    rows = [
        {"bytes": b"0", "path": "x/a.wav"},
        {"bytes": b"1", "path": None},
        {"bytes": None, "path": "b.wav"},
        None,
        {"bytes": b"4", "path": "/x/a.wav"},
        {"bytes": b"", "path": ""},
    ]
    labels = [["dog", "cat"], ["dog"], None, [], ["7"], [None]]
    path = write(tmp_path / "t.parquet", rows, labels=labels, row_group_size=row_group_size)
    listing = list_one(path)
    assert [(clip.clip_id, clip.labels) for clip in listing.clips] == [
        ("t/x/a.wav", "dog,cat"),
        ("t/1", "dog"),
        ("t/b.wav", ""),
        ("t/3", ""),
        ("t/x/a.wav#4", "7"),
        ("t/5", ""),
    ]
    no_bytes = "the row has no bytes (null)"
    expected = [b"0", b"1", f"{path}::2 (b.wav): {no_bytes}", f"{path}::3: {no_bytes}", b"4", b""]
    assert contents(listing.clips) == expected
    for order in ([3, 5], [5, 4, 0], [2, 2, 0, 0]):
        some = [listing.clips[place] for place in order]
        assert contents(some) == [expected[place] for place in order]


def test_labels_of_other_types(tmp_path: Path) -> None:
    rows = [{"bytes": b"0", "path": "a.wav"}]
    for column, value, text in (("label", 3, "3"), ("labels", "a dog ", "a dog"), ("x", "y", "")):
        path = write(tmp_path / "t.parquet", rows, **{column: [value]})
        assert [clip.labels for clip in list_one(path).clips] == [text]


def test_the_column_is_found_by_its_type(tmp_path: Path) -> None:
    rows = [{"bytes": b"0", "path": "a.wav"}]
    path = write(tmp_path / "t.parquet", rows, column="sound", file_name=["no"])
    assert contents(list_one(path).clips) == [b"0"]
    large = pa.struct([("path", pa.string()), ("bytes", pa.large_binary())])
    table = pa.table({"image": rows, "audio": pa.array(rows, large)})
    assert audio_column(table.schema) == "audio"
    pq.write_table(table, path)
    assert contents(list_one(path).clips) == [b"0"]
    only_bytes = pa.table({"audio": [{"bytes": b"0"}, {"bytes": b"1"}]})
    pq.write_table(only_bytes, path)
    assert [clip.clip_id for clip in list_one(path).clips] == ["t/0", "t/1"]
    assert contents(list_one(path).clips) == [b"0", b"1"]
    for table in (
        pa.table({"audio": [b"0"]}),
        pa.table({"audio": [{"bytes": "text", "path": "a"}]}),
        pa.table({"path": ["a.wav"]}),
    ):
        assert audio_column(table.schema) is None
    with refused(CorpusError, "malformed", key="audio", value=["left", "right"]):
        audio_column(pa.table({"left": rows, "right": rows}).schema)


def test_a_broken_row_group_costs_only_itself(tmp_path: Path) -> None:
    rows = [{"bytes": bytes([n]) * 1000, "path": f"{n}.wav"} for n in range(9)]
    path = write(tmp_path / "t.parquet", rows, row_group_size=3)
    listing = list_one(path)
    file = pq.ParquetFile(path)
    column = file.metadata.row_group(1).column(0)
    assert column.path_in_schema == "audio.bytes"
    data = bytearray(path.read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    data[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(data)
    found = contents(listing.clips)
    assert [row["bytes"] for row in rows[:3] + rows[6:]] == found[:3] + found[6:]
    for clip, message in zip(listing.clips[3:6], found[3:6], strict=True):
        assert message.startswith(f"{clip}: its row group cannot be read (")


def test_no_row_and_no_table_are_damage(tmp_path: Path) -> None:
    assert list_one(write(tmp_path / "t.parquet", [])).damaged[0][1] == "no row in this table"
    whole = write(tmp_path / "t.parquet", [{"bytes": b"0", "path": "a"}]).read_bytes()
    for cut in (0, 3, len(whole) // 2, len(whole) - 1):
        (tmp_path / "t.parquet").write_bytes(whole[:cut])
        ((where, reason),) = list_one(tmp_path / "t.parquet").damaged
        assert where == str(tmp_path / "t.parquet")
        assert reason.startswith("not a Parquet file that can be read (")


def test_a_row_that_does_not_fit_in_memory_is_refused(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(parquet_tables, "MAX_ENCODED_BYTES", 3)
    rows = [{"bytes": b"0123"[:size], "path": None} for size in (3, 4)]
    path = write(tmp_path / "t.parquet", rows)
    # As in the process that reads.
    messages = list(parquet_tables.read_cells(str(path), [0, 1]))
    assert messages[:2] == [b"", b"012"]
    code, reason, value = json.loads(messages[2])
    assert (code, value, messages[3]) == ("too-large", 4, b"")
    assert "at most 3 bytes" in reason
    assert MAX_ENCODED_BYTES == 2**30


READ = """
import json
import sys
from byola_rq.sources.parquet_tables import list_names, read_cells

def peak():
    # Not getrusage: its peak includes that of the process that started this one.
    (line,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    return int(line.split()[1])

first = peak()
rows = [row for batch in list_names(sys.argv[1]) for row in json.loads(batch)]
listed = peak()
num_bytes = sum(map(len, read_cells(sys.argv[1], range(len(rows)))))
print(len(rows), num_bytes, listed - first, peak() - listed)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("compression", ["none", "snappy"])
def test_a_row_group_is_read_as_a_stream_of_pages(tmp_path: Path, compression: str) -> None:
    """200 MB in one row group, as some writers make it."""
    chunk = bytes(range(256)) * 1024
    rows = [{"bytes": chunk[n:], "path": f"{n}.wav"} for n in range(800)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"audio": pa.array(rows, kind)})
    options = {"compression": compression, "use_dictionary": False, "write_batch_size": 8}
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=len(rows), **options)
    script = [sys.executable, "-c", READ, str(tmp_path / "t.parquet")]
    output = subprocess.run(script, capture_output=True, text=True, check=True).stdout
    num_clips, num_bytes, listing_kb, reading_kb = map(int, output.split())
    assert num_clips == len(rows)
    assert num_bytes == sum(len(row["bytes"]) for row in rows)
    assert listing_kb < 40_000
    assert reading_kb < 100_000


def test_the_process_that_lists_a_table_does_not_read_it(tmp_path: Path) -> None:
    code = (
        "import sys; from byola_rq.sources.listing import list_sources;"
        "print(len(list_sources(sys.argv[1:]).clips), 'pyarrow' in sys.modules)"
    )
    path = write(tmp_path / "t.parquet", [{"bytes": b"0", "path": "a"}] * 2)
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, check=True)
    assert done.stdout.split() == [b"2", b"False"]


def dictionary(value: str, num_rows: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array([0] * num_rows, pa.int32()), [value])


def test_a_small_file_of_endless_rows_is_not_listed_whole(tmp_path: Path) -> None:
    """A file holds once what its rows repeat: a label, or nothing."""
    path = tmp_path / "t.parquet"
    audio = pa.array([{"bytes": b"0"}])
    many = pa.nulls(1_000_000, audio.type)
    tables = {
        "rows": pa.table({"audio": many}),
        "labels": pa.table({"audio": many[:2_000], "label": dictionary("x" * 20_000, 2_000)}),
    }
    for name, table in tables.items():
        pq.write_table(table, path)
        assert path.stat().st_size < 100_000, name
        listing = list_one(path)
        ((where, reason),) = listing.damaged
        assert (where, len(listing.clips) < 500_000) == (str(path), True), name
        assert "larger than the file" in reason or "too much data" in reason


def test_a_manifest_of_endless_rows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    pq.write_table(pa.table({"path": dictionary("a" * 1_000, 10_000)}), path)
    with refused(CorpusError, "too-large", path):
        list_sources([path])


def test_a_page_that_asks_for_gigabytes_costs_only_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page of a few kB that is 100 MB once it is unpacked, where 100 MB may be taken."""
    monkeypatch.setattr(parquet, "_LIMITS", Limits(seconds=30, gigabytes=0.1))
    path = tmp_path / "t.parquet"
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = [[{"bytes": b"0", "path": "0"}], [{"bytes": bytes(100 << 20), "path": "1"}]]
    schema = pa.schema([("audio", kind)])
    with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=False) as writer:
        for group in rows:
            writer.write_table(pa.table({"audio": pa.array(group, kind)}, schema))
    assert path.stat().st_size < 100_000
    good, bad = iterate_encoded(list_one(path).clips)
    assert isinstance(good, EncodedAudio)
    assert isinstance(bad, AudioError)
    assert (bad.code, bad.path) == ("too-large", path)
