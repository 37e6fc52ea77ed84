"""Cells come back as they were given, and mean nothing to a spreadsheet or to Markdown."""

import re

import pytest

from byola_rq.text.cells import csv_cell, csv_rows, csv_text, markdown_cell

FORMULAS = [
    "=1+1",
    "+1;2",
    "-a",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    "\uff1d1",
    "'=1",
    "''=1",
    "-",
    "=",
]
PLAIN = [
    "",
    "a",
    "'",
    "'a",
    "a=b",
    "voice-fr",
    "-1.5",
    "+3",
    "-inf",
    "1e-3",
    'ü, "x"',
    "a\nb",
    " =1",
]


def test_cells_come_back() -> None:
    rows = [FORMULAS, PLAIN, [a + b for a, b in zip(PLAIN, FORMULAS, strict=False)]]
    for line_end in ("\n", "\r\n"):
        assert csv_rows(csv_text(rows, line_end)) == rows


@pytest.mark.parametrize("cell", FORMULAS)
def test_no_text_begins_a_formula(cell: str) -> None:
    assert str(csv_cell(cell))[0] == "'"


@pytest.mark.parametrize("cell", PLAIN)
def test_what_begins_none_stays(cell: str) -> None:
    assert csv_cell(cell) == cell


def test_numbers_stay_numbers() -> None:
    assert csv_text([(-1.5, -2, "-1.5", "+2", None)]) == "-1.5,-2,-1.5,+2,\n"


def test_what_is_no_csv_is_refused() -> None:
    with pytest.raises(ValueError, match="not valid csv"):
        csv_rows('a,"b')


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "[here](https://example.com)",
        "![](x)",
        "a | b",
        "`code`",
        "&lt;b&gt;",
        "https://example.com and www.example.com",
        "**bold** _it_",
        "a\n\n# title",
        "$x$ ~~y~~",
        "- item",
        "1. item",
    ],
)
def test_no_markup_comes_of_a_cell(text: str) -> None:
    cell = markdown_cell(text)
    bare = re.sub(r"\\.", "", cell)  # without what a backslash takes its meaning from
    assert not re.search(r"[|<>`\[\]&$~*]|://|www\.|^[-#].|^\d+\.(\s|$)", bare)
    assert "\n" not in cell
    assert re.sub(r"\\(?=[!-/:-@\[-`{-~])", "", cell) == " ".join(text.split())


def test_words_stay_as_they_are() -> None:
    for text in ("spcv2_12, size 64 (0.5-1.0)", "90.0 (80.1-99.9)", "-"):
        assert markdown_cell(text) == text
