"""Parquet files of encoded audio: their rows as clips, and the rows' bytes in bounded memory."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from byola_rq.audio.io import EncodedAudio, audio_error
from byola_rq.errors import AudioError, Code, CorpusError
from byola_rq.runtime.files import text_name
from byola_rq.sources.clip_source import (
    MAX_ENCODED_BYTES,
    ClipSource,
    Listing,
    clean_name,
    joined_labels,
    printable,
)

LABEL_COLUMNS = ("labels", "label")  # the first that a table has
_ROWS_LISTED = 8192  # at a time
_BATCH_BYTES = 1 << 23  # aimed at; one row can be larger
_READ_AHEAD_BYTES = 1 << 20  # of a column; without it a whole row group's column is read at once


def audio_column(schema: Any) -> str | None:
    """The column that holds encoded audio: a struct with binary `bytes`; `audio` before others.

    Args:
        schema: Of pyarrow.

    Raises:
        CorpusError: If several columns fit and none is named `audio`.
    """
    import pyarrow.types as kinds

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


def list_table(path: str, stem: str, listing: Listing) -> Iterator[ClipSource]:
    """Clips of a Parquet file of encoded audio; of the audio, only its names are read.

    A row's name is the struct's `path`. Where it has none, its number stands in the clip's id;
    where an earlier row has the same name, both.

    Args:
        path: The Parquet file.
        stem: What stands before the rows' names in the clips' ids.
        listing: Gets what is damaged.

    Yields:
        Clips in the order of the rows. Rows without bytes are among them: only reading them tells.
    """
    row = 0
    seen: set[str] = set()
    try:
        for name, labels in _names_and_labels(path):
            clean = clean_name(name)
            clip_id = f"{stem}/{clean or row}"
            if clean and clean in seen:
                clip_id += f"#{row}"
            seen.add(clean)
            yield ClipSource(clip_id, file=path, row=row, name=name, labels=labels)
            row += 1
    except CorpusError as error:
        listing.damaged.append((printable(path), str(error)))
    else:
        if not row:
            listing.damaged.append((printable(path), "no row in this table"))


def _names_and_labels(path: str) -> Iterator[tuple[str, str]]:
    with open_table(path) as file:
        column = audio_column(file.schema_arrow)
        assert column is not None, path  # who lists it as a table of audio has looked
        fields = {part.name for part in file.schema_arrow.field(column).type.fields}
        label_column = next((each for each in LABEL_COLUMNS if each in file.schema_arrow.names), "")
        wanted = [f"{column}.path"] * ("path" in fields) + [label_column] * bool(label_column)
        for batch in file.iter_batches(batch_size=_ROWS_LISTED, columns=wanted):
            for values in batch.to_pylist() if wanted else [{}] * batch.num_rows:
                name = (values.get(column) or {}).get("path")
                yield printable(name or ""), joined_labels(values.get(label_column))


def read_rows(clips: Sequence[ClipSource]) -> Iterator[EncodedAudio | AudioError]:
    """Encoded audio of rows of one Parquet file, as a stream.

    Whatever the size of the row groups, about 8 MB of rows and a page of the column are held at a
    time. A page is what the file's writer made it: pyarrow's default is 1,024 rows, or a row group
    if that is smaller; reading one takes up to twice its size. A row group is read from its start
    up to the last row wanted of it.

    Args:
        clips: Of one file, rows ascending.

    Yields:
        One for each clip, in order; an error instead where the row has no bytes, or its row group
        cannot be read from there on.
    """
    path, num_done = clips[0].file, 0
    try:
        with open_table(path) as file:
            column = audio_column(file.schema_arrow)
            if column is None:
                raise CorpusError("holds no encoded audio any more", code="different")
            first = 0
            for group in range(file.num_row_groups):
                stop = first + file.metadata.row_group(group).num_rows
                here = []
                while num_done < len(clips) and clips[num_done].row < stop:
                    here.append(clips[num_done])
                    num_done += 1
                yield from _read_group(file, group, first, f"{column}.bytes", here)
                first = stop
        code: Code | None = "cut"
        reason = f"the file ends at row {first}"
    except CorpusError as caught:
        code, reason = caught.code, str(caught)
    for clip in clips[num_done:]:
        yield audio_error(clip, code, reason)


def _read_group(
    file: Any, group: int, first: int, column: str, clips: Sequence[ClipSource]
) -> Iterator[EncodedAudio | AudioError]:
    """The rows wanted of one row group, whose first row is `first`."""
    import pyarrow as pa

    num_done = 0
    code: Code = "cut"
    reason = "the row group ends before this row"
    try:
        for batch in file.iter_batches(
            batch_size=_rows_at_once(file.metadata.row_group(group), column),
            row_groups=[group],
            columns=[column],
            use_threads=False,
        ):
            cells = batch.column(0).field("bytes")
            while num_done < len(clips) and clips[num_done].row < first + len(cells):
                clip = clips[num_done]
                num_done += 1
                yield _encoded(clip, cells[clip.row - first])
            if num_done == len(clips):
                return
            first += len(cells)
    except (OSError, pa.ArrowException) as error:
        code, reason = "unreadable", f"its row group cannot be read ({_one_line(error)})"
    for clip in clips[num_done:]:
        yield audio_error(clip, code, reason)


def _rows_at_once(group: Any, column: str) -> int:
    parts = (group.column(index) for index in range(group.num_columns))
    num_bytes = sum(part.total_uncompressed_size for part in parts if part.path_in_schema == column)
    return int(max(1, min(1024, _BATCH_BYTES * group.num_rows // max(num_bytes, 1))))


def _encoded(clip: ClipSource, cell: Any) -> EncodedAudio | AudioError:
    if not cell.is_valid:
        return audio_error(clip, "empty", "the row has no bytes (null)")
    if (num_bytes := len(cell.as_buffer())) > MAX_ENCODED_BYTES:
        rule = f"encoded audio must have at most {MAX_ENCODED_BYTES} bytes; got {num_bytes}"
        return audio_error(clip, "too-large", rule, value=num_bytes)
    return EncodedAudio(str(clip), cell.as_py())


@contextmanager
def open_table(path: str) -> Iterator[Any]:
    """A `pyarrow.parquet.ParquetFile` whose columns are read page by page.

    Raises:
        CorpusError: If it is not there or not Parquet, or reading it in the block fails.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with (
            text_name(path) as readable,
            pq.ParquetFile(readable, buffer_size=_READ_AHEAD_BYTES, pre_buffer=False) as file,
        ):
            yield file
    except (OSError, pa.ArrowException) as error:
        rule = f"not a Parquet file that can be read ({_one_line(error)})"
        raise CorpusError(rule, code="unreadable") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
