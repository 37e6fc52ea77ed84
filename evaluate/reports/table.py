"""The summary as a table: on the terminal, in Markdown and in LaTeX, all of one matrix of cells."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, JustifyMethod
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from byola_rq.runtime.files import replace_file
from evaluate.reports.summary import Score, Summary, SummaryRow

_PIPE_WIDTH = 200  # characters, where stdout is no terminal and rich would fold the table at 80
_NUM_NAMES = 3  # columns before the scores: model, probe, source
_LATEX = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # at the start of a row it would belong to the \\ before
}


@dataclass(frozen=True)
class Matrix:
    """A table as plain text: a header, and rows of as many cells in blocks to be set apart."""

    header: tuple[str, ...]
    blocks: tuple[tuple[tuple[str, ...], ...], ...]
    num_names: int = _NUM_NAMES  # the first columns, which are text


def print_table(summary: Summary) -> None:
    """Print the scores on stdout; the published rows only beside a task of the paper."""
    console = make_console()
    matrix = make_matrix(summary)
    table = _to_rich(matrix, separator=" ")
    if Measurement.get(console, console.options, table).maximum > console.width:
        table = _to_rich(matrix, separator="\n")  # the intervals below the scores
    console.print(table)


def make_console() -> Console:
    """Standard output for tables: wide enough not to fold them where it is no terminal."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, _PIPE_WIDTH)
    return console


def write_tables(out: Path, summary: Summary) -> None:
    """Replace summary.md and summary.tex."""
    matrix = make_matrix(summary)
    replace_file(out / "summary.md", _to_report(summary, matrix))
    replace_file(out / "summary.tex", to_latex(matrix))


def make_matrix(summary: Summary) -> Matrix:
    """All scores with their intervals; a block of measured rows, and one of published."""
    header = ("model", "probe", "source", *map(summary.title, summary.columns))
    blocks = tuple(
        tuple(
            (
                row.model,
                row.probe or "-",
                row.source,
                *(_format(row.scores.get(column)) for column in summary.columns),
            )
            for row in rows
        )
        for rows in (summary.measured, summary.published)
    )
    return Matrix(header, tuple(block for block in blocks if block))


def make_difference_matrix(summary: Summary) -> Matrix:
    """By task, each measured score less the best published one, and its rank among the published.

    Only of scores on the whole published set; without rows where there are none.
    """
    models = [
        row for row in summary.measured if any(_difference(summary, row, c) for c in row.scores)
    ]
    rows = []
    for column in summary.columns:
        differences = [_difference(summary, row, column) for row in models]
        if any(differences):
            value, whose = max(summary.published_scores(column))
            cells = (difference or "-" for difference in differences)
            rows.append((column, f"{value:.1f}, {whose}", *cells))
    names = (f"{row.model}, {row.probe}" for row in models)
    return Matrix(("task", "best published", *names), (tuple(rows),) if rows else (), num_names=2)


def to_markdown(matrix: Matrix) -> str:
    """A Markdown table, its columns aligned in the source as well."""
    cells = [
        [_escape_markdown(cell) for cell in row]
        for row in (matrix.header, *(row for block in matrix.blocks for row in block))
    ]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    is_name = [number < matrix.num_names for number in range(len(widths))]
    rule = [
        "-" * width if name else "-" * (width - 1) + ":"
        for width, name in zip(widths, is_name, strict=True)
    ]
    lines = [
        " | ".join(
            cell.ljust(width) if name else cell.rjust(width)
            for cell, width, name in zip(row, widths, is_name, strict=True)
        )
        for row in (cells[0], rule, *cells[1:])
    ]
    return "".join(f"| {line} |\n" for line in lines)


def to_latex(matrix: Matrix) -> str:
    """A LaTeX tabular with the rules of booktabs."""
    num_scores = len(matrix.header) - matrix.num_names
    lines = [
        r"% \usepackage{booktabs}",
        rf"\begin{{tabular}}{{{'l' * matrix.num_names}{'r' * num_scores}}}",
        r"\toprule",
        _latex_row(matrix.header, matrix.num_names),
    ]
    for block in matrix.blocks:
        lines += [r"\midrule", *(_latex_row(row, matrix.num_names) for row in block)]
    lines += [r"\bottomrule", r"\end{tabular}"]
    return "\n".join(lines) + "\n"


def _to_report(summary: Summary, matrix: Matrix) -> str:
    """summary.md."""
    parts = [
        "# Results\n",
        "Accuracy in percent (mAP where the column says so), with its 95 % bootstrap interval\n"
        "over test clips. Clips count as independent: where several come from one recording or\n"
        "speaker, the truth is less sure than the interval.\n",
        to_markdown(matrix),
    ]
    differences = make_difference_matrix(summary)
    if differences.blocks:
        parts += ["## Against the best published score\n", to_markdown(differences)]
    for title, lines in (("Notes", summary.notes), ("Made with", summary.origins)):
        if lines:
            escaped = map(_escape_markdown, lines)
            parts += [f"## {title}\n", "".join(f"- {line}\n" for line in escaped)]
    return "\n".join(parts)


def _to_rich(matrix: Matrix, separator: str) -> Table:
    table = Table(title="Percent right (or mAP), 95 % interval over test clips")
    for number, column in enumerate(matrix.header):
        justify: JustifyMethod = "left" if number < matrix.num_names else "right"
        table.add_column(escape(column), justify=justify, overflow="fold")
    for number, block in enumerate(matrix.blocks):
        for row in block:
            # Names may hold what rich reads as markup.
            names = map(escape, row[: matrix.num_names])
            scores = (cell.replace(" ", separator, 1) for cell in row[matrix.num_names :])
            table.add_row(*names, *scores, style="dim" if number else "")
    return table


def _difference(summary: Summary, row: SummaryRow, column: str) -> str:
    score, published = row.scores.get(column), summary.published_scores(column)
    if score is None or not score.is_comparable or not published:
        return ""
    values = [value for value, _ in published]
    rank = 1 + sum(value > score.value for value in values)
    return f"{score.value - max(values):+.1f} (rank {rank} of {1 + len(values)})"


def _format(score: Score | None) -> str:
    if score is None:
        return "-"
    if score.low is None or score.high is None:
        return f"{score.value:.1f}"
    return f"{score.value:.1f} ({score.low:.1f}-{score.high:.1f})"


def _escape_markdown(text: str) -> str:
    # An underscore within a word, as in spcv2_12, means nothing; one at its edge does.
    escaped = re.sub(r"[\\|*`<\[\]]|(?<!\w)_|_(?!\w)", r"\\\g<0>", text)
    return " ".join(escaped.split())


def _latex_row(cells: Sequence[str], num_names: int) -> str:
    escaped = ["".join(_LATEX.get(character, character) for character in cell) for cell in cells]
    dashed = [re.sub(r"(?<=\d)-(?=\d)|^-$", "--", cell) for cell in escaped[num_names:]]
    return " ".join(" & ".join([*escaped[:num_names], *dashed]).split()) + r" \\"
