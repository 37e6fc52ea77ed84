"""Tables of the summary: terminal, Markdown and LaTeX, all from one DataFrame."""

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console, JustifyMethod
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from byola_rq.runtime.files import replace_file
from byola_rq.text.cells import markdown_cell
from byola_rq.text.shown import shown
from evaluate.reports.results import SUMMARY_NAMES
from evaluate.reports.summary import Score, Summary, SummaryRow

if TYPE_CHECKING:
    from pandas import DataFrame

_PIPE_WIDTH = 200  # characters, if stdout is not a terminal; rich would fold the table at 80
_LATEX = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # at the start of a row it would be an argument of the \\ before
}


def print_table(summary: Summary) -> None:
    """Print the scores on stdout; published rows only if a task of the paper was measured."""
    console = make_console()
    frame = make_table(summary)
    table = _to_rich(frame, separator=" ")
    if Measurement.get(console, console.options, table).maximum > console.width:
        table = _to_rich(frame, separator="\n")  # the intervals below the scores
    console.print(table)


def make_console() -> Console:
    """Make a console on stdout for tables; wide enough not to fold them in a pipe."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, _PIPE_WIDTH)
    return console


def write_tables(out: Path, summary: Summary) -> None:
    """Write summary.md and summary.tex."""
    replace_file(out / "summary.md", _to_report(summary))
    replace_file(out / "summary.tex", to_latex(make_table(summary)))


def make_table(summary: Summary) -> "DataFrame":
    """Build the table of all scores with intervals, as text: measured rows, then published ones."""
    from pandas import DataFrame

    rows = [
        (
            row.model,
            row.setting or "-",
            row.source,
            *(_format(row.scores.get(column)) for column in summary.columns),
        )
        for row in (*summary.measured, *summary.published)
    ]
    return DataFrame(rows, columns=[*SUMMARY_NAMES, *map(summary.title, summary.columns)])


def make_differences(summary: Summary) -> "DataFrame":
    """Build the table of differences from the best published score, with ranks, by task and probe.

    Only scores of the published set, split and probe are compared; without them it has no rows.
    """
    from pandas import DataFrame

    ranked = [row for row in summary.measured if any(summary.rivals(row, c) for c in row.scores)]
    models = list(dict.fromkeys(row.model for row in ranked))
    rows = []
    for column in summary.columns:
        for probe in dict.fromkeys(row.probe for row in ranked):
            of_probe = [r for r in ranked if r.probe == probe and summary.rivals(r, column)]
            if of_probe:
                rivals = summary.rivals(of_probe[0], column)
                value, whose = max((each.scores[column].value, each.model) for each in rivals)
                cells = {row.model: _difference(summary, row, column) for row in of_probe}
                named = (cells.get(model, "-") for model in models)
                rows.append((column, probe, f"{value:.1f}, {whose}", *named))
    return DataFrame(rows, columns=["task", "probe", "best published", *models])


def to_markdown(table: "DataFrame", num_names: int = len(SUMMARY_NAMES)) -> str:
    """Format a Markdown table with aligned source columns, names to the left."""
    sides = ["left"] * num_names + ["right"] * (table.shape[1] - num_names)
    escaped = table.map(markdown_cell).set_axis(map(markdown_cell, table), axis=1)
    text: str = escaped.to_markdown(index=False, colalign=sides, disable_numparse=True)
    return f"{text}\n"


def to_latex(table: "DataFrame") -> str:
    """Format a LaTeX tabular with booktabs rules, one between measured and published rows."""
    escaped = table.map(_escape_latex).set_axis(map(_escape_latex, table), axis=1)
    scores = escaped.iloc[:, len(SUMMARY_NAMES) :]  # by position: a task may be named "model" too
    escaped.iloc[:, len(SUMMARY_NAMES) :] = scores.replace(r"(?<=\d)-(?=\d)|^-$", "--", regex=True)
    sides = "l" * len(SUMMARY_NAMES) + "r" * scores.shape[1]
    lines = escaped.to_latex(index=False, escape=False, column_format=sides).splitlines()
    num_measured = (table.iloc[:, 2] == "measured").sum()
    if num_measured < len(table):
        lines.insert(4 + num_measured, r"\midrule")  # below the table's begin, header and rules
    return "\n".join([r"% \usepackage{booktabs}", *lines, ""])


def _to_report(summary: Summary) -> str:
    """Format summary.md."""
    parts = [
        "# Results\n",
        "Accuracy in percent (mAP where the column is named so), with a 95 % bootstrap interval\n"
        "over test clips. Clips count as independent: if several come from one recording or\n"
        "speaker, the interval is too narrow.\n",
        to_markdown(make_table(summary)),
    ]
    differences = make_differences(summary)
    if len(differences):
        parts += [
            "## Difference from the best published score\n",
            to_markdown(differences, num_names=3),
        ]
    for title, lines in (("Notes", summary.notes), ("Made with", summary.origins)):
        if lines:
            escaped = map(markdown_cell, lines)
            parts += [f"## {title}\n", "".join(f"- {line}\n" for line in escaped)]
    return "\n".join(parts)


def _to_rich(frame: "DataFrame", separator: str) -> Table:
    table = Table(title="Accuracy in percent (or mAP), 95 % interval over test clips")
    for number, column in enumerate(frame):
        justify: JustifyMethod = "left" if number < len(SUMMARY_NAMES) else "right"
        table.add_column(escape(shown(column)), justify=justify, overflow="fold")
    for model, probe, source, *scores in frame.itertuples(index=False, name=None):
        # Names may hold what rich reads as markup.
        cells = (cell.replace(" ", separator, 1) for cell in scores)
        style = "dim" if source == "published" else ""
        table.add_row(escape(shown(model)), escape(shown(probe)), source, *cells, style=style)
    return table


def _difference(summary: Summary, row: SummaryRow, column: str) -> str:
    score, rivals = row.scores[column], summary.rivals(row, column)
    values = [each.scores[column].value for each in rivals]
    rank = 1 + sum(value > score.value for value in values)
    return f"{score.value - max(values):+.1f} (rank {rank} of {1 + len(values)})"


def _format(score: Score | None) -> str:
    if score is None:
        return "-"
    if score.low is None or score.high is None:
        return f"{score.value:.1f}"
    return f"{score.value:.1f} ({score.low:.1f}-{score.high:.1f})"


def _escape_latex(text: str) -> str:
    line = shown(" ".join(text.split()))
    return "".join(_LATEX.get(character, character) for character in line)
