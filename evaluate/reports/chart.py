"""Chart of the summary: a panel per task, a bar per model, published scores below the bars."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from byola_rq.plots.style import COLORS, GRID, QUIET, TEXT, make_figure, quiet_glyphs
from byola_rq.runtime.files import whole_file
from evaluate.reports.records import writing
from evaluate.reports.summary import Score, Summary, SummaryRow
from evaluate.tasks.task import PAPER_TASKS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MAX_COLUMNS = 4
_NAME_LENGTH, _TITLE_LENGTH = 26, 22  # characters per line, of at most two lines
_NAME_INCHES, _PANEL_INCHES, _LINE_INCHES, _TITLE_INCHES = 2.0, 2.1, 0.28, 0.65
_CAPTION_LENGTH = 17  # characters per inch


@dataclass(frozen=True)
class _Band:
    """Panels side by side, with common lines."""

    columns: Sequence[str]
    measured: Sequence[SummaryRow]
    colors: Sequence[str]  # colors of the measured rows
    published: Sequence[SummaryRow]
    ranked: Mapping[str, Sequence[SummaryRow]]  # published rows to compare with, by column

    @property
    def positions(self) -> list[float]:
        """Position of each line from the top; published ones after a gap."""
        num_measured = len(self.measured)
        below = [num_measured + 0.3 + 0.8 * number for number in range(len(self.published))]
        return [*map(float, range(num_measured)), *below]

    @property
    def num_lines(self) -> float:
        """Height of the band, in lines."""
        return self.positions[-1] + 1


def write_chart(summary: Summary, path: Path) -> None:
    """Write a bar per model and task with its interval, and published scores as diamonds below.

    A published score is drawn only if its set and split were tested with its probe. If nothing was
    measured, nothing is written.

    Raises:
        MissingPackageError: If matplotlib is not installed.
        WriteError: If the picture cannot be written.
    """
    if not summary.columns:
        return
    figure = draw_chart(summary)
    with writing(path), whole_file(path) as temporary, quiet_glyphs():
        figure.savefig(temporary, format="png", dpi=150)


def draw_chart(summary: Summary) -> Any:
    """Draw the chart as a matplotlib figure, without changing matplotlib's global state.

    Raises:
        MissingPackageError: If matplotlib is not installed.
    """
    bands = _divide(summary)
    num_columns = max(len(band.columns) for band in bands)
    width = _NAME_INCHES + _PANEL_INCHES * num_columns
    heights = [_LINE_INCHES * band.num_lines + _TITLE_INCHES for band in bands]
    caption = textwrap.fill(_caption(summary, bands), round(_CAPTION_LENGTH * width))
    height = sum(heights) + 0.3 + 0.16 * caption.count("\n")
    figure = make_figure(width, height)
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08, wspace=0.04, hspace=0.03)
    grid = figure.add_gridspec(len(bands), num_columns, height_ratios=heights)
    for number, band in enumerate(bands):
        for position, column in enumerate(band.columns):
            axes = figure.add_subplot(grid[number, position])
            _draw_panel(axes, summary.title(column), column, band)
            if position == 0:
                _draw_names(
                    axes, band, has_probes=len({row.setting for row in summary.measured}) > 1
                )
    figure.supxlabel(caption, x=0.01, ha="left", fontsize=7.5, color=QUIET)
    return figure


def _divide(summary: Summary) -> list[_Band]:
    """Divide columns, the paper's first, into bands of at most `_MAX_COLUMNS` panels."""
    bands = []
    for is_papers in (True, False):
        columns = [
            column
            for column in summary.columns
            if (column in PAPER_TASKS or column == "mean") == is_papers
        ]
        num_bands = math.ceil(len(columns) / _MAX_COLUMNS)
        num_columns = math.ceil(len(columns) / max(1, num_bands))
        for number in range(num_bands):
            of_band = columns[number * num_columns : (number + 1) * num_columns]
            colored = [
                (row, COLORS[number % len(COLORS)])
                for number, row in enumerate(summary.measured)
                if set(of_band) & row.scores.keys()
            ]
            measured, colors = zip(*colored, strict=True)
            ranked = {
                column: [rival for row in measured for rival in summary.rivals(row, column)]
                for column in of_band
            }
            published = [row for row in summary.published if row in chain(*ranked.values())]
            bands.append(_Band(of_band, measured, colors, published, ranked))
    return bands


def _draw_panel(axes: "Axes", title: str, column: str, band: _Band) -> None:
    title = _fold(title, _TITLE_LENGTH)
    axes.set_title(title, loc="left", fontsize=9, color=TEXT, fontweight="bold", parse_math=False)
    positions = band.positions
    num_measured = len(band.measured)
    for number, row in enumerate(band.measured):
        if column in row.scores:
            _draw_bar(axes, positions[number], row.scores[column], band.colors[number])
        else:
            axes.text(2, positions[number], "not tested", fontsize=7, color=QUIET, va="center")
    published = [
        (position, row.scores[column].value)
        for position, row in zip(positions[num_measured:], band.published, strict=True)
        if row in band.ranked[column]
    ]
    for position, value in published:
        axes.plot(value, position, "D", color="white", markeredgecolor=TEXT, markersize=4.5)
        _write_value(axes, position, value, QUIET)
    if published:
        best = max(value for _, value in published)
        ends = [-0.5, num_measured - 0.3]
        axes.plot([best, best], ends, color="white", linewidth=2.2, zorder=2)
        axes.plot([best, best], ends, color=TEXT, linewidth=0.9, linestyle="--", zorder=2)
    axes.set_xlim(0, 100)
    axes.set_ylim(band.num_lines - 0.5, -0.5)
    axes.set_xticks([0, 25, 50, 75, 100], ["0", "", "50", "", "100"], fontsize=7.5, color=TEXT)
    axes.set_yticks([])
    axes.tick_params(length=0)
    axes.grid(axis="x", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_facecolor("white")
    for side, spine in axes.spines.items():
        spine.set_visible(side == "left")
        spine.set_color(QUIET)


def _draw_bar(axes: "Axes", position: float, score: Score, color: str) -> None:
    axes.barh(position, score.value, height=0.66, color=color)
    if score.low is not None and score.high is not None:
        ends, height = [score.low, score.high], [position, position]
        axes.plot(ends, height, color="white", linewidth=2.6, zorder=3)  # visible on dark bars
        axes.plot(ends, height, color=TEXT, linewidth=1.1, zorder=3)
    _write_value(axes, position, score.value, TEXT)


def _write_value(axes: "Axes", position: float, value: float, color: str) -> None:
    axes.text(102.5, position, f"{value:.1f}", fontsize=7.5, color=color, va="center")


def _draw_names(axes: "Axes", band: _Band, *, has_probes: bool) -> None:
    names = [f"{row.model}, {row.setting}" if has_probes else row.model for row in band.measured]
    names += [row.model for row in band.published]
    folded = [_fold(name, _NAME_LENGTH) for name in names]
    for number, tick in enumerate(axes.set_yticks(band.positions, folded)):
        tick.label1.set_parse_math(False)
        tick.label1.set_fontsize(6.5 if "\n" in folded[number] else 7.5)
        tick.label1.set_color(TEXT if number < len(band.measured) else QUIET)


def _fold(name: str, length: int) -> str:
    """Break a name into at most two lines; a longer one loses its middle: names differ at ends."""
    if len(name) <= length:
        return name
    if len(name) > 2 * length:
        name = f"{name[: length - 1]}…{name[-length:]}"
    places = range(len(name) - length, length + 1)
    between_words = [place for place in places if name[place - 1] in " _-/,"]
    place = between_words[-1] if between_words else length
    return f"{name[:place].rstrip()}\n{name[place:]}"


def _caption(summary: Summary, bands: Sequence[_Band]) -> str:
    text = "Accuracy in percent (or mAP); lines on the bars: 95 % interval over test clips."
    if any(band.published for band in bands):
        text += " Diamonds: published scores of the same set, split and probe; dashed: the best."
    of_papers = [(row, column) for row in summary.measured for column in row.scores]
    if not all(summary.rivals(*pair) for pair in of_papers if pair[1] in PAPER_TASKS):
        text += " No published scores if set, split or probe differ from the published ones."
    return text
