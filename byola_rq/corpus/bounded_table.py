"""Reading of untrusted Parquet tables in memory bounded by the file's size."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

# Bytes of memory per byte of the file. The index of a packed corpus takes 8: its ids are distinct.
_PER_BYTE = 256
_ALWAYS = 1 << 24
_ROWS_AT_ONCE = 1 << 16


def read_bounded(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read columns of integers and strings that take at most 256 times the file's size.

    Parquet stores a repeated value once and compresses pages, so a few bytes can expand to
    gigabytes. Strings are read as dictionaries and measured before they are expanded.

    Args:
        path: File to read.
        columns: Names of the columns; all by default.

    Raises:
        OSError, KeyError, pa.ArrowException: If it cannot be read.
        ValueError: If it would take more memory, or a column has another type.
    """
    room = _ALWAYS + _PER_BYTE * path.stat().st_size
    with pq.ParquetFile(path, pre_buffer=False) as file:
        schema, metadata = file.schema_arrow, file.metadata
        names = schema.names if columns is None else columns
        for name in names:
            kind = schema.field(name).type
            if not (pa.types.is_string(kind) or pa.types.is_integer(kind)):
                raise ValueError(f"column {name} has another type, {kind}")
        chunks = [
            metadata.row_group(group).column(number).total_uncompressed_size
            for group in range(metadata.num_row_groups)
            for number in range(metadata.num_columns)
        ]
        _check_room(room, max(4 * metadata.num_rows * len(names), sum(chunks)))
    strings = [name for name in names if pa.types.is_string(schema.field(name).type)]
    batches = []
    with pq.ParquetFile(path, read_dictionary=strings, pre_buffer=False) as file:
        for batch in file.iter_batches(_ROWS_AT_ONCE, columns=names, use_threads=False):
            room -= sum(map(_num_bytes, batch.columns))
            _check_room(room, 0)
            batches.append(batch.select(names))
    kinds = pa.schema([schema.field(name) for name in names])
    if not batches:
        return kinds.empty_table()
    return pa.Table.from_batches(batches).cast(kinds)


def _num_bytes(column: Any) -> int:
    """Bytes of a column after its dictionary is expanded."""
    if not pa.types.is_dictionary(column.type):
        return int(column.nbytes)
    lengths = pc.take(pc.binary_length(column.dictionary), column.indices)
    return int(pc.sum(lengths).as_py() or 0) + 4 * len(column)


def _check_room(room: int, num_bytes: int) -> None:
    if num_bytes > room or room < 0:
        raise ValueError("its rows are far larger than the file")
