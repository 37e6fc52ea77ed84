"""Table cells with untrusted text: csv for spreadsheets, Markdown."""

import csv
import io
import itertools
import re
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from byola_rq.text.parse import open_file
from byola_rq.text.shown import one_line, shown

_MAX_LINE = 1 << 24  # characters

# Start of a formula in a spreadsheet; the wide signs are those of Japanese keyboards. Preceding
# quotes are included, so that reading removes exactly the quote that writing has added.
_FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
# Markup, HTML, formulas and bare addresses. An underscore within a word, as in spcv2_12, is no
# markup; one at its edge is.
_MARKDOWN = re.compile(
    r"[\\`*<>\[\]|&~$]|(?<!\w)_|_(?!\w)|:(?=//)|(?<=www)\.|^(?:#|-(?!$)|(?:\+|\d+[.)])(?=\s|$))",
    re.IGNORECASE,
)


def csv_text(rows: Iterable[Sequence[object]], line_end: str = "\n") -> str:
    """Write rows as csv whose text cells no spreadsheet reads as formulas; see `csv_rows`."""
    lines = _Lines()
    # With this line end csv quotes cells that contain \r, which readers take for a row's end.
    writer = csv.writer(lines, lineterminator="\r\n")
    writer.writerows([csv_cell(value) for value in row] for row in rows)
    return "".join(f"{line[:-2]}{line_end}" for line in lines)


def csv_rows(text: str) -> list[list[str]]:
    """Read the output of `csv_text` with its original cells.

    Raises:
        ValueError: If it is not csv.
    """
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error as error:
        raise ValueError(f"not valid csv ({error})") from error
    return [[csv_value(cell) for cell in row] for row in rows]


def csv_columns(text: str, *names: str) -> list[list[str]]:
    """Read the columns of these names from the output of `csv_text`; the first row names them.

    Raises:
        ValueError: As `csv_rows`, or if a column is missing or a row has other columns.
    """
    header, *rows = csv_rows(text) or [[]]
    if missing := [name for name in names if name not in header]:
        raise ValueError(f"it has no column {missing[0]}")
    if any(len(row) != len(header) for row in rows):
        raise ValueError("its rows must have the columns of its header")
    return [[row[place] for row in rows] for place in map(header.index, names)]


def csv_lines(path: Path | str) -> Generator[str, None, None]:
    """Iterate over the lines of a csv file of any size; bytes that are not UTF-8 are kept.

    Raises:
        OSError: If it cannot be read, or is not a regular file.
        csv.Error: If a line is too long.
    """
    # utf-8-sig: spreadsheets put a byte order mark before the first column's name.
    # surrogateescape: bytes of a file name that are not UTF-8 must survive unchanged.
    with io.TextIOWrapper(open_file(path), "utf-8-sig", "surrogateescape", newline="") as file:
        while line := file.readline(_MAX_LINE):
            if len(line) == _MAX_LINE:
                raise csv.Error(f"a line must have fewer than {_MAX_LINE} characters")
            yield line


def csv_table(lines: Iterator[str], usual: str = ",") -> Iterator[tuple[int, list[str]]]:
    """Iterate over the rows of a table, with the number of their last line.

    The header decides what separates cells. With tabs a row is a line, for texts often have a quote
    that is never closed. Otherwise such a quote is an error: it would swallow the rows behind it.

    Raises:
        csv.Error: If a quote is not closed, or a line is too long.
    """
    header = next(lines, "")
    separator = find_separator(header, usual)
    rows = itertools.chain((header,), lines)
    reader = csv.reader(rows, delimiter=separator, strict=True)
    if separator == "\t":
        reader = csv.reader(rows, delimiter=separator, quoting=csv.QUOTE_NONE)
    for row in reader:
        cells = [cell.strip() for cell in row]
        if separator == "\t":
            cells = [_unquoted(cell) for cell in cells]
        yield reader.line_num, cells


def _unquoted(cell: str) -> str:
    return cell[1:-1].replace('""', '"') if len(cell) > 1 and cell[0] == cell[-1] == '"' else cell


def find_separator(header: str, usual: str = ",") -> str:
    """Return the most frequent separator in a header; `usual` if it has none.

    Spreadsheets write semicolons where a comma is the decimal point, and tabs into their texts.
    """
    separators: list[str] = [usual, ",", ";", "\t", "|"]
    return max(separators, key=header.count)


def csv_cell(value: object) -> object:
    """Prefix a text that a spreadsheet would read as a formula with a single quote."""
    if isinstance(value, str) and _FORMULA.match(value) and not _is_number(value):
        return f"'{value}"
    return value


def csv_value(cell: str) -> str:
    """Remove the quote that `csv_cell` has added."""
    return cell[1:] if cell[:1] == "'" and _FORMULA.match(cell) else cell


def markdown_cell(value: Any) -> str:
    """Escape a text for Markdown: one line without cells, markup, HTML or links."""
    line = shown(one_line(value))
    return _MARKDOWN.sub(lambda found: f"{found[0][:-1]}\\{found[0][-1]}", line)


class _Lines(list[str]):
    write = list.append


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
