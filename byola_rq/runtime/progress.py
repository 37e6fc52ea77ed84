"""Progress of long work: a bar on a terminal, otherwise a line every 30 seconds."""

import math
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from byola_rq.runtime.distributed import is_main
from byola_rq.runtime.terminal import warn
from byola_rq.text.shown import shown

SECONDS_BETWEEN_LINES = 30.0


def log(line: str) -> None:
    """Print a line on stderr, on rank 0 only."""
    if is_main():
        warn(line)


class ProgressBar:
    """Progress towards `total` on stderr, on rank 0 only.

    Args:
        what: Short description of the work.
        total: Number of units of the whole work.
        done: Number of units that an earlier run did.
    """

    def __init__(self, what: str, total: int, done: int = 0) -> None:
        self.what = what
        self.total = total
        self.done = self.first = done
        self.note = ""
        console = Console(stderr=True)
        self._bar: Progress | None = None
        if console.is_terminal and is_main():
            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}", markup=False),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=console,
            )
            self._task = self._bar.add_task(what, total=total, completed=done, note="")

    def __enter__(self) -> Self:
        self._started = self._last_line = time.monotonic()
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()
        elif error is None:
            self._print_line()

    def advance(self, units: int = 1, note: str | None = None) -> None:
        """Count `units` more; `note` (loss, rate ...) is shown until the next one."""
        self.done += units
        self.note = self.note if note is None else note
        if self._bar:
            self._bar.update(self._task, completed=self.done, note=self.note)
        elif time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            self._print_line()

    def log(self, line: str) -> None:
        """Print a line above the bar."""
        if self._bar:
            self._bar.console.print(shown(line), markup=False, highlight=False)
        else:
            log(line)

    def _print_line(self) -> None:
        self._last_line = time.monotonic()
        elapsed = self._last_line - self._started
        done_now = self.done - self.first
        left = elapsed / done_now * (self.total - self.done) if done_now else float("nan")
        note = f"  {self.note}" if self.note else ""
        self.log(
            f"{self.what}: {self.done}/{self.total}{note}  {_clock(elapsed)} elapsed, "
            f"{_clock(left)} left"
        )


def _clock(seconds: float) -> str:
    if math.isnan(seconds):  # no unit done yet
        return "?"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
