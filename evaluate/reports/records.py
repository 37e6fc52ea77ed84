"""Records of csv files of results, and their errors."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any

from byola_rq.errors import ByolaRQError
from byola_rq.text.cells import csv_rows
from byola_rq.text.parse import MAX_TEXT_BYTES, read_text


class ReportError(ByolaRQError, ValueError):
    """Output folder or results file that cannot be used; the message starts with its path."""


class WriteError(ReportError):
    """Results that cannot be written, as on a full disk; earlier results are kept."""

    exit_code = 1


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the operating system's errors in the block into a `WriteError` that names `path`."""
    try:
        yield
    except OSError as error:
        raise WriteError(
            f"{path}: cannot be written: {error.strerror or error}. Earlier results are kept; "
            "free disk space and repeat the call to continue",
            code="unwritable",
            path=path,
        ) from error


def read_records(path: Path) -> list[list[str]]:
    """Read the records of a csv, its header included.

    Raises:
        ReportError: If it cannot be read, is not a csv, or its last line is incomplete.
    """
    try:
        text = read_text(path, MAX_TEXT_BYTES).removeprefix("\ufeff")  # of a spreadsheet
        records = csv_rows(text)
    except OSError as error:
        raise ReportError(
            f"{path}: cannot be read: {error.strerror or error}", code="unreadable", path=path
        ) from error
    except ValueError as error:
        raise ReportError(
            f"{path}: not a csv of results: {error}. Move it away", code="malformed", path=path
        ) from error
    if text and not text.endswith("\n"):
        raise ReportError(
            f"{path}, row {len(records)}: the last line must be complete; it was cut off after "
            f"{','.join(records[-1])[-40:]!r}. Delete that line",
            code="cut",
            path=path,
        )
    return records


def header_error(path: Path, header: Sequence[str], wanted: Sequence[str]) -> ReportError:
    """Make the error of a csv with a wrong header."""
    places = enumerate(zip_longest(header, wanted, fillvalue=""), start=1)
    place, (got, name) = next((place, pair) for place, pair in places if pair[0] != pair[1])
    return ReportError(
        f"{path}, row 1: column {place} must be {name!r}; got {got!r}. Move the file away or name "
        "another output folder",
        code="malformed",
        path=path,
        value=list(header),
    )


def parse_record(
    path: Path, number: int, record: list[str], columns: Sequence[tuple[str, Callable[[str], Any]]]
) -> list[Any]:
    """Parse the fields of a record by (name, parser) of each column; `number` is its row from 1.

    Raises:
        ReportError: If a field is missing or cannot be parsed.
    """
    if len(record) != len(columns):
        raise ReportError(
            f"{path}, row {number}: a row must have {len(columns)} fields; got {len(record)}",
            code="malformed",
            path=path,
            value=len(record),
        )
    values = []
    for (name, parse), text in zip(columns, record, strict=True):
        try:
            values.append(parse(text))
        except ValueError as error:
            raise ReportError(
                f"{path}, row {number}: {name}: {error}",
                code="value",
                path=path,
                key=name,
                value=text,
            ) from error
    return values
