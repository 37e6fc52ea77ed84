"""What the command says: results on stdout, progress and warnings on stderr."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from evaluate.report import Score, Summary, SummaryRow
from evaluate.tasks import PAPER_TASKS

_PIPE_WIDTH = 200  # characters, where stdout is no terminal and rich would cut the table at 80


class Narrator:
    """Lines, bars and the table of one call."""

    def __init__(self) -> None:
        self._out = Console(highlight=False)
        self._err = Console(stderr=True, highlight=False)
        if not self._out.is_terminal:
            self._out.width = max(self._out.width, _PIPE_WIDTH)

    def say(self, text: str) -> None:
        """One line on stdout."""
        self._out.print(text, markup=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """One line on stderr, marked as a warning."""
        self._err.print(f"warning: {text}", markup=False, soft_wrap=True, style="yellow")

    @contextmanager
    def bar(self, description: str, total: int) -> Iterator[Callable[[int], None]]:
        """A progress bar, on a terminal only; give the yielded function the count just done."""
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        is_hidden = not self._err.is_terminal
        with Progress(*columns, console=self._err, transient=True, disable=is_hidden) as progress:
            bar = progress.add_task(description, total=total)
            yield lambda count: progress.advance(bar, count)

    def show(self, summary: Summary) -> None:
        """The scores as a table; the published rows only beside a task of the paper."""
        rows = [r for r in summary.rows if r.source == "measured" or summary.has_paper_task]
        measured = {task for row in rows if row.source == "measured" for task in row.scores}
        others = [task for task in summary.tasks if task not in PAPER_TASKS]
        columns = [task for task in (*PAPER_TASKS, "mean", *others) if task in measured]
        table = Table(title="Accuracy in percent, 95 % interval over test clips")
        for column in ("model", "probe", "source"):
            table.add_column(column, overflow="fold")
        for column in columns:
            table.add_column(column, justify="right", overflow="fold")
        for row in rows:
            style = "dim" if row.source == "published" else ""
            table.add_row(*_cells(row, columns), style=style)
        self._out.print(table, markup=False)


def _cells(row: SummaryRow, columns: list[str]) -> list[str]:
    scores = [_format(row.scores[column]) if column in row.scores else "-" for column in columns]
    return [row.model, row.probe or "-", row.source, *scores]


def _format(score: Score) -> str:
    if score.low is None or score.high is None:
        return f"{score.value:.1f}"
    return f"{score.value:.1f} ({score.low:.1f}-{score.high:.1f})"
