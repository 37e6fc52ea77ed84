"""Chart of the report: a panel per task, a line per variant with its mean and interval."""

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from byola_rq.plots.style import COLORS, QUIET, TEXT, make_figure, save_figure, tidy
from evaluate.ablation.report import AblationReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NAME_INCHES, _PANEL_INCHES, _LINE_INCHES, _TITLE_INCHES = 2.4, 2.2, 0.26, 0.9
_SIGNIFICANT, _EQUAL = COLORS[1], COLORS[0]
_CAPTION_LENGTH = 17  # characters of an inch
_CAPTION = (
    "Accuracy in percent (or mAP), 95 % interval over seeds and test clips. Open: the reference; "
    "orange: significantly different from it."
)


def write_chart(report: AblationReport, path: Path) -> None:
    """Write the means with their intervals as a picture; nothing if nothing is measured.

    Raises:
        MissingPackageError: If matplotlib is not installed.
        ConfigError: If the picture cannot be written.
    """
    if report.lines:
        save_figure(draw_chart(report), path)


def draw_chart(report: AblationReport) -> Any:
    """Draw the chart as a matplotlib figure.

    Raises:
        MissingPackageError: If matplotlib is not installed.
    """
    width = _NAME_INCHES + _PANEL_INCHES * len(report.tasks)
    caption = textwrap.fill(_CAPTION, round(_CAPTION_LENGTH * width))
    height = _TITLE_INCHES + _LINE_INCHES * len(report.lines) + 0.14 * caption.count("\n")
    figure = make_figure(width, height)
    panels = figure.subplots(1, len(report.tasks), squeeze=False, sharey=True)[0]
    for axes, task in zip(panels, report.tasks, strict=True):
        _draw_panel(axes, report, task)
    names = [line.variant for line in report.lines]
    for tick in panels[0].set_yticks(range(len(names)), names):
        tick.label1.set_parse_math(False)
        tick.label1.set_fontsize(7.5)
    figure.supxlabel(caption, x=0.01, ha="left", fontsize=7, color=QUIET)
    return figure


def _draw_panel(axes: "Axes", report: AblationReport, task: str) -> None:
    for position, line in enumerate(report.lines):
        score, difference = line.scores[task], line.differences.get(task)
        is_significant = difference is not None and difference.is_significant
        color = _SIGNIFICANT if is_significant else _EQUAL
        face = "white" if line.variant == report.grid.reference else color
        axes.plot([score.low, score.high], [position, position], color=color, linewidth=1.4)
        axes.plot(score.value, position, "o", color=color, markerfacecolor=face, markersize=5)
        if line.variant == report.grid.reference:
            axes.axvline(score.value, color=TEXT, linewidth=0.8, linestyle="--", zorder=0)
    axes.set_title(task, loc="left", fontsize=9, color=TEXT, fontweight="bold", parse_math=False)
    axes.set_ylim(len(report.lines) - 0.5, -0.5)
    axes.tick_params(length=0, labelsize=7.5)
    tidy(axes)
