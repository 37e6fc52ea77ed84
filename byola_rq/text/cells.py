"""Cells of tables that hold text of others: csv for spreadsheets, Markdown."""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from typing import Any

from byola_rq.text.shown import shown

# With what a spreadsheet begins a formula; the wide signs are those of Japanese keyboards. Quotes
# before it are counted in, so that reading takes off the one that writing has set, and no other.
_FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
# Markup, HTML, formulas and bare addresses. An underscore within a word, as in spcv2_12, means
# nothing; one at its edge does.
_MARKDOWN = re.compile(
    r"[\\`*<>\[\]|&~$]|(?<!\w)_|_(?!\w)|:(?=//)|(?<=www)\.|^(?:[#+-]|\d+[.)])", re.IGNORECASE
)


def csv_text(rows: Iterable[Sequence[object]], line_end: str = "\n") -> str:
    """Write rows as csv, whose text cells no spreadsheet takes for formulas; see `csv_rows`."""
    lines = _Lines()
    # By this end csv quotes cells that have \r, which would end a row for whoever reads them.
    writer = csv.writer(lines, lineterminator="\r\n")
    writer.writerows([csv_cell(value) for value in row] for row in rows)
    return "".join(f"{line[:-2]}{line_end}" for line in lines)


def csv_rows(text: str) -> list[list[str]]:
    """Read what `csv_text` wrote, each cell as it was given.

    Raises:
        ValueError: If it is no csv.
    """
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error as error:
        raise ValueError(f"no csv that can be read ({error})") from error
    return [[csv_value(cell) for cell in row] for row in rows]


def csv_cell(value: object) -> object:
    """Set a single quote before a text that a spreadsheet would take for a formula."""
    if isinstance(value, str) and _FORMULA.match(value) and not _is_number(value):
        return f"'{value}"
    return value


def csv_value(cell: str) -> str:
    """Take off the quote that `csv_cell` has set."""
    return cell[1:] if cell[:1] == "'" and _FORMULA.match(cell) else cell


def markdown_cell(value: Any) -> str:
    """Write a text for Markdown: on one line, and no cell, markup, HTML or link comes of it."""
    line = shown(" ".join(str(value).split()))
    return _MARKDOWN.sub(lambda found: f"{found[0][:-1]}\\{found[0][-1]}", line)


class _Lines(list[str]):
    write = list.append


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
