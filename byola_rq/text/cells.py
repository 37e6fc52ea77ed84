"""Table cells with untrusted text: csv for spreadsheets, Markdown."""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from typing import IO, Any

from byola_rq.text.shown import one_line, shown

# Start of a formula in a spreadsheet; the wide signs are those of Japanese keyboards. Preceding
# quotes are included, so that reading removes exactly the quote that writing has added.
_FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
# Markup, HTML, formulas and bare addresses. An underscore within a word, as in spcv2_12, is no
# markup; one at its edge is.
_MARKDOWN = re.compile(
    r"[\\`*<>\[\]|&~$]|(?<!\w)_|_(?!\w)|:(?=//)|(?<=www)\.|^(?:[#+]|-(?!$)|\d+[.)](?!\d))",
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
        raise ValueError(f"no csv that can be read ({error})") from error
    return [[csv_value(cell) for cell in row] for row in rows]


def find_separator(file: IO[str], usual: str = ",") -> str:
    """Return what separates the cells of a table, which its header decides; `usual` if nothing.

    Spreadsheets write semicolons where a comma is the decimal point, and tabs into their texts.
    """
    header = file.readline()
    file.seek(0)
    found: str = max((usual, *",;\t|"), key=header.count)
    return found


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
