"""Tables of strangers: the same as pyarrow reads, and no more memory than their size allows."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from byola_rq.corpus.bounded_table import read_bounded


def test_it_is_what_pyarrow_reads(tmp_path: Path) -> None:
    num = 200_000  # several batches
    table = pa.table(
        {
            "clip_id": [f"clip {number}" for number in range(num)],
            "labels": pa.array(["a,b" if number % 3 else None for number in range(num)]),
            "shard": pa.array([number // 999 for number in range(num)], pa.int32()),
        }
    )
    for path, options in ((tmp_path / "a", {}), (tmp_path / "b", {"use_dictionary": False})):
        pq.write_table(table, path, row_group_size=70_000, **options)
        assert read_bounded(path).equals(table)
        assert read_bounded(path, ["shard", "clip_id"]).equals(table.select(["shard", "clip_id"]))
    pq.write_table(table[:0], tmp_path / "c")
    assert read_bounded(tmp_path / "c").equals(table[:0])
    with pytest.raises(KeyError, match="nothing"):
        read_bounded(path, ["nothing"])


@pytest.mark.parametrize("use_dictionary", [True, False])
def test_few_bytes_that_stand_for_many_are_refused(tmp_path: Path, use_dictionary: bool) -> None:
    path = tmp_path / "bomb.parquet"
    long = pa.array(["x" * 10_000] * 10_000)  # 100 MB
    pq.write_table(pa.table({"a": long}), path, compression="zstd", use_dictionary=use_dictionary)
    assert path.stat().st_size < 100_000
    with pytest.raises(ValueError, match="larger than the file"):
        read_bounded(path)
    pq.write_table(pa.table({"a": pa.array([7] * 20_000_000, pa.int8())}), path)
    with pytest.raises(ValueError, match="larger than the file"):
        read_bounded(path)
    pq.write_table(pa.table({"a": [[1, 2]]}), path)
    with pytest.raises(ValueError, match="another type"):
        read_bounded(path)
