"""Reader of Parquet files in a confined process; its messages are parsed by `parquet`."""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as kinds

from byola_rq.errors import CorpusError
from byola_rq.runtime.files import text_name
from byola_rq.sources.clip_source import LABEL_COLUMNS, MAX_ENCODED_BYTES, joined_labels
from byola_rq.text.shown import one_line

_ROWS_LISTED = 1024  # per message
_BATCH_BYTES = 1 << 23  # target size; one row can be larger
_READ_AHEAD_BYTES = 1 << 20  # per column; without it a row group's column is read at once

pa.set_cpu_count(1)  # threads would take more memory
pa.set_io_thread_count(1)


def audio_column(schema: Any) -> str | None:
    """Find the column that holds encoded audio, a struct with binary `bytes`; prefer `audio`.

    Args:
        schema: Schema of pyarrow.

    Raises:
        CorpusError: If several columns fit and none is named `audio`.
    """
    fitting = [
        column.name
        for column in schema
        if kinds.is_struct(column.type)
        and any(
            part.name == "bytes"
            and (kinds.is_binary(part.type) or kinds.is_large_binary(part.type))
            for part in column.type.fields
        )
    ]
    if len(fitting) > 1 and "audio" not in fitting:
        raise CorpusError(
            f"one column of encoded audio must be named audio; got {', '.join(fitting)}",
            code="malformed",
            key="audio",
            value=fitting,
        )
    return "audio" if "audio" in fitting else next(iter(fitting), None)


def describe(path: str) -> Iterator[bytes]:
    """Send the name of the column of encoded audio, or null, and all columns' names."""
    with _opened(path) as file:
        schema = file.schema_arrow
        column = audio_column(schema)
        yield json.dumps([[column, schema.names]]).encode()


def list_names(path: str) -> Iterator[bytes]:
    """Send lists of (name, labels) of the rows of encoded audio."""
    with _opened(path) as file:
        column = audio_column(file.schema_arrow)
        if column is None:
            raise CorpusError("holds no encoded audio any more", code="different")
        fields = {part.name for part in file.schema_arrow.field(column).type.fields}
        labels = next((each for each in LABEL_COLUMNS if each in file.schema_arrow.names), "")
        wanted = [f"{column}.path"] * ("path" in fields) + [labels] * bool(labels)
        for batch in file.iter_batches(_ROWS_LISTED, columns=wanted, use_threads=False):
            rows = batch.to_pylist() if wanted else [{}] * batch.num_rows
            names = ((values.get(column) or {}).get("path") or "" for values in rows)
            given = (joined_labels(values.get(labels)) for values in rows)
            yield _listed(zip(names, given, strict=True))


def list_cells(path: str, names: Sequence[str]) -> Iterator[bytes]:
    """Send lists of rows: the cells of the named columns as numbers or text."""
    with _opened(path) as file:
        wanted = [name for name in names if name]
        for batch in file.iter_batches(_ROWS_LISTED, columns=wanted, use_threads=False):
            rows = ([each.get(name) for name in names] for each in batch.to_pylist())
            yield _listed([_plain(cell) for cell in row] for row in rows)


def _plain(cell: object) -> object:
    return cell if isinstance(cell, int | float | None) else joined_labels(cell)


def _listed(rows: Iterable[Any]) -> bytes:
    return json.dumps([*rows]).encode()


def read_cells(path: str, rows: Sequence[int]) -> Iterator[bytes]:
    """Send two messages for each of these ascending rows: its fault, or nothing, and its bytes.

    About 8 MB of rows and one page of the column are in memory at a time, whatever the size of the
    row groups. The file's writer chose the size of a page: pyarrow's default is 1,024 rows, or a
    row group if that is smaller; reading one takes up to twice its size. A row group is read from
    its start up to its last requested row.
    """
    num_done = first = 0
    with _opened(path) as file:
        column = audio_column(file.schema_arrow)
        if column is None:
            raise CorpusError("holds no encoded audio any more", code="different")
        for group in range(file.num_row_groups):
            stop = first + file.metadata.row_group(group).num_rows
            here = []
            while num_done < len(rows) and rows[num_done] < stop:
                here.append(rows[num_done] - first)
                num_done += 1
            yield from _read_group(file, group, f"{column}.bytes", here)
            first = stop
    for _ in rows[num_done:]:
        yield from _fault("cut", f"the file ends at row {first}")


def _read_group(file: Any, group: int, column: str, rows: Sequence[int]) -> Iterator[bytes]:
    """Send the requested rows of one row group, counted from its first."""
    num_done = first = 0
    fault = "cut", "the row group ends before this row"
    try:
        for batch in file.iter_batches(
            _rows_at_once(file.metadata.row_group(group), column),
            row_groups=[group],
            columns=[column],
            use_threads=False,
        ):
            cells = batch.column(0).field("bytes")
            while num_done < len(rows) and rows[num_done] < first + len(cells):
                cell = cells[rows[num_done] - first]
                num_done += 1
                yield from _cell(cell)
            if num_done == len(rows):
                return
            first += len(cells)
    except MemoryError:
        fault = "too-large", "its row group takes more memory than a clip may"
    except (OSError, pa.ArrowException) as error:
        fault = "unreadable", f"its row group cannot be read ({one_line(error)})"
    for _ in rows[num_done:]:
        yield from _fault(*fault)


def _rows_at_once(group: Any, column: str) -> int:
    parts = (group.column(index) for index in range(group.num_columns))
    num_bytes = sum(part.total_uncompressed_size for part in parts if part.path_in_schema == column)
    return int(max(1, min(1024, _BATCH_BYTES * group.num_rows // max(num_bytes, 1))))


def _cell(cell: Any) -> Iterator[bytes]:
    if not cell.is_valid:
        yield from _fault("empty", "the row has no bytes (null)")
    elif (num_bytes := len(cell.as_buffer())) > MAX_ENCODED_BYTES:
        rule = f"encoded audio must have at most {MAX_ENCODED_BYTES} bytes; got {num_bytes}"
        yield from _fault("too-large", rule, num_bytes)
    else:
        yield b""
        yield cell.as_py()


def _fault(code: str, reason: str, value: int | None = None) -> Iterator[bytes]:
    yield json.dumps([code, reason, value]).encode()
    yield b""


@contextmanager
def _opened(path: str) -> Iterator[Any]:
    """Open a `pyarrow.parquet.ParquetFile` whose columns are read page by page.

    Raises:
        CorpusError: If it does not exist or is not Parquet, or reading it in the block fails.
    """
    try:
        with (
            text_name(path) as readable,
            pq.ParquetFile(readable, buffer_size=_READ_AHEAD_BYTES, pre_buffer=False) as file,
        ):
            yield file
    except MemoryError:  # pyarrow's is also an ArrowException
        raise
    except (OSError, ValueError, pa.ArrowException) as error:
        rule = f"not a Parquet file that can be read ({one_line(error)})"
        raise CorpusError(rule, code="unreadable") from error
