"""The summary as a table on the terminal."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from evaluate.report import Score, Summary, SummaryRow
from evaluate.tasks import PAPER_TASKS

_PIPE_WIDTH = 200  # characters, where stdout is no terminal and rich would fold the table at 80


def print_table(summary: Summary) -> None:
    """Print the scores on stdout; the published rows only beside a task of the paper."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, _PIPE_WIDTH)
    rows = [row for row in summary.rows if row.source == "measured" or summary.has_paper_task]
    measured = {task for row in rows if row.source == "measured" for task in row.scores}
    others = [task for task in summary.tasks if task not in PAPER_TASKS]
    columns = [task for task in (*PAPER_TASKS, "mean", *others) if task in measured]
    table = Table(title="Accuracy in percent, 95 % interval over test clips")
    for column in ("model", "probe", "source"):
        table.add_column(column, overflow="fold")
    for column in columns:
        table.add_column(escape(column), justify="right", overflow="fold")
    for row in rows:
        cells = map(escape, _cells(row, columns))  # names may hold what rich reads as markup
        table.add_row(*cells, style="dim" if row.source == "published" else "")
    console.print(table)


def _cells(row: SummaryRow, columns: list[str]) -> list[str]:
    scores = [_format(row.scores[column]) if column in row.scores else "-" for column in columns]
    return [row.model, row.probe or "-", row.source, *scores]


def _format(score: Score) -> str:
    if score.low is None or score.high is None:
        return f"{score.value:.1f}"
    return f"{score.value:.1f} ({score.low:.1f}-{score.high:.1f})"
