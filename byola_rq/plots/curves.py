"""Picture of the training curves of one or several runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from byola_rq.errors import ConfigError
from byola_rq.plots.style import COLORS, make_figure, plain, save_figure, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FloatArray = npt.NDArray[np.float64]
Columns = Mapping[str, FloatArray]

# Column of metrics.csv -> title of its panel.
_PANELS = {
    "loss": "loss",
    "validation": "validation (%)",
    "learning_rate": "learning rate",
    "embedding_std": "embedding std",
    "effective_rank": "effective rank",
    "segments_per_second": "segments/s",
}
_STYLES = ("-", "--", ":")  # in turn, once the colors are used up
_LARGE = ("loss", "validation")  # panels of the upper row
_RAW = ("learning_rate", "validation")  # columns that are not smoothed
_FEW_ROWS = 30  # up to which each row is marked by a dot
_SMOOTHED = 0.02  # share of a run's rows to average over
_LONGEST_NAME = 44  # in characters, in the legend


def save_curves_picture(path: Path, runs: Mapping[str, Columns]) -> None:
    """Draw loss, validation, learning rate, embedding std, effective rank and segments/s.

    Draws a panel for each column that any run has. Runs of 100 rows and more are drawn as the
    running mean over 2 % of their rows, with the rows themselves in pale; learning rate and
    validation are never smoothed. A star marks the best validation of a run.

    Args:
        path: File to write.
        runs: Columns of metrics.csv by run, one value per row; `step` is required.

    Raises:
        ConfigError: If there is no row to draw, or the picture cannot be written.
        MissingPackageError: If matplotlib is not installed.
    """
    panels = [
        column
        for column in _PANELS
        if any(_has_values(columns, column) for columns in runs.values())
    ]
    if not panels:
        message = f"{path}: there are no curves yet; no run has a row in its metrics.csv"
        raise ConfigError(message, code="empty", path=path)
    figure = make_figure(12, 7)
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.06)
    axes = figure.subplot_mosaic(_arrange(panels), height_ratios=(1.5, 1))
    is_smoothed = [
        _draw_run(axes, columns, _style(number)) for number, columns in enumerate(runs.values())
    ]
    for column in panels:
        _label(axes[column], column)
        if column == "learning_rate":
            # Often equal: lines drawn first are wider, so that they show under later ones.
            for num_over, line in enumerate(reversed(axes[column].lines)):
                line.set_linewidth(1.4 + 0.7 * min(num_over, 5))
    _name_runs(figure, list(runs), is_smoothed=any(is_smoothed))
    save_figure(figure, path)


def _arrange(panels: list[str]) -> list[list[str]]:
    """Arrange panels in two rows of equal width, repeating names to fill the grid."""
    above = [column for column in panels if column in _LARGE] or panels
    below = [column for column in panels if column not in above]
    if not below:
        return [above, above]
    return [
        [column for column in above for _ in below],
        [column for column in below for _ in above],
    ]


def _style(number: int) -> dict[str, Any]:
    """Return the line style of run `number`, for all panels and the legend."""
    return {
        "color": COLORS[number % len(COLORS)],
        "linestyle": _STYLES[number // len(COLORS) % len(_STYLES)],
        "linewidth": 1.4,
    }


def _has_values(columns: Columns, column: str) -> bool:
    return column in columns and bool(np.isfinite(columns[column]).any())


def _draw_run(axes: dict[str, "Axes"], columns: Columns, style: dict[str, Any]) -> bool:
    """Draw a run's curve in every panel; return True if any was smoothed."""
    is_smoothed = [
        _draw_curve(axes[column], columns, column, style)
        for column in axes
        if _has_values(columns, column)
    ]
    return any(is_smoothed)


def _draw_curve(axes: "Axes", columns: Columns, column: str, style: dict[str, Any]) -> bool:
    """Draw one column of one run; return True if it was smoothed."""
    is_there = np.isfinite(columns[column])
    steps, values = columns["step"][is_there], columns[column][is_there]
    window = int(_SMOOTHED * len(steps))
    is_smoothed = window > 1 and column not in _RAW
    if is_smoothed:
        axes.plot(steps, values, color=style["color"], linewidth=0.6, alpha=0.2)
        # Each mean is drawn at the middle of its rows.
        steps, values = _running_mean(steps, window), _running_mean(values, window)
    marker = "." if len(steps) <= _FEW_ROWS else ""
    axes.plot(steps, values, marker=marker, markersize=4, **style)
    if column == "validation":
        best = int(np.argmax(values))
        axes.scatter(steps[best], values[best], s=110, marker="*", color=style["color"], zorder=3)
    return is_smoothed


def _running_mean(values: FloatArray, window: int) -> FloatArray:
    """Means over `window` consecutive values."""
    sums = np.cumsum(np.concatenate(([0.0], values)))
    means: FloatArray = (sums[window:] - sums[:-window]) / window
    return means


def _label(axes: "Axes", column: str) -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator

    axes.set_title(_PANELS[column], fontsize=10)
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(
        MaxNLocator(nbins=9 if column in _LARGE else 4, integer=True, steps=(1, 2, 2.5, 5, 10))
    )
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlim(left=0)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-3, 5))
    if column not in _LARGE:  # the distance to 0 matters for these
        axes.set_ylim(bottom=0)
    tidy(axes)


def _name_runs(figure: Any, names: list[str], *, is_smoothed: bool) -> None:
    """Add a title for one run, or a legend for several."""
    if len(names) == 1:
        figure.suptitle(_shorten(names[0]), fontsize=11)
    else:
        from matplotlib.lines import Line2D

        figure.legend(
            [Line2D([], [], **_style(number)) for number in range(len(names))],
            [_shorten(name) for name in names],
            loc="outside upper center",
            ncols=3 if len(names) != 4 else 2,
            frameon=False,
            fontsize=9,
        )
    if is_smoothed:
        figure.supxlabel("pale: every row; line: running mean of 2 % of a run's rows", fontsize=8)


def _shorten(name: str) -> str:
    """Shorten a long name to its end, which distinguishes runs."""
    return plain(name if len(name) <= _LONGEST_NAME else f"…{name[1 - _LONGEST_NAME :]}")
