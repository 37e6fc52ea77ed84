"""Score against the share of the labels: a panel per task and probe, a line per model."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from byola_rq.plots.style import COLORS, make_figure, save_figure, tidy
from evaluate.reports.summary import Score, Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MAX_COLUMNS = 3
_STYLES = ("-", "--", ":")  # the next one once all colors are used
_APART = 1.025  # factor on the axis between the intervals of two models
_LONGEST_NAME = 40  # characters of a name in the legend

Curve = dict[float, Score]  # share of the labels, ascending -> score


def write_label_curve(summary: Summary, path: Path) -> None:
    """Write the curves as a picture; nothing if no model has two shares of one task and probe.

    Raises:
        MissingPackageError: If matplotlib is not installed.
        ConfigError: If the picture cannot be written.
    """
    panels = gather_curves(summary)
    if panels:
        save_figure(draw_label_curve(summary, panels), path)


def gather_curves(summary: Summary) -> dict[tuple[str, str], dict[str, Curve]]:
    """Group scores by (task, probe), model and share; only pairs where a model has two shares."""
    panels: dict[tuple[str, str], dict[str, Curve]] = {}
    for row in sorted(summary.measured, key=lambda each: each.label_fraction):
        for task, score in row.scores.items():
            of_panel = panels.setdefault((task, row.probe), {})
            of_panel.setdefault(row.model, {})[row.label_fraction] = score
    order = list(summary.columns)
    return {
        key: panels[key]
        for key in sorted(panels, key=lambda key: order.index(key[0]))
        if any(len(curve) > 1 for curve in panels[key].values())
    }


def draw_label_curve(summary: Summary, panels: dict[tuple[str, str], dict[str, Curve]]) -> Any:
    """Draw the curves with 95 % intervals as a matplotlib figure; shares on a log axis."""
    from matplotlib.lines import Line2D

    num_columns = min(_MAX_COLUMNS, len(panels))
    num_rows = math.ceil(len(panels) / num_columns)
    models = list(dict.fromkeys(row.model for row in summary.measured))
    models = [model for model in models if any(model in curves for curves in panels.values())]
    names = [_shorten(model) for model in models]
    width = 3.4 * num_columns + 0.6
    num_names = max(1, int(width / (0.6 + 0.08 * max(map(len, names)))))  # per line of the legend
    figure = make_figure(width, 2.9 * num_rows + 0.2 * math.ceil(len(names) / num_names) + 0.4)
    for number, ((task, probe), curves) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(num_rows, num_columns, number)
        axes.set_title(f"{summary.title(task)}, {probe}", fontsize=10, parse_math=False)
        for model, curve in curves.items():
            _draw_line(axes, curve, models.index(model), len(models))
        _label(axes, sorted({share for curve in curves.values() for share in curve}))
    legend = figure.legend(
        [Line2D([], [], marker="o", markersize=4, **_style(n)) for n in range(len(models))],
        names,
        loc="outside upper center",
        ncols=num_names,
        frameon=False,
        fontsize=9,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    caption = "share of the labels; upright: 95 % interval over test clips"
    figure.supxlabel(caption, fontsize=9)
    figure.supylabel("accuracy in percent, or mAP", fontsize=9)
    return figure


def _style(number: int) -> dict[str, Any]:
    return {
        "color": COLORS[number % len(COLORS)],
        "linestyle": _STYLES[number // len(COLORS) % len(_STYLES)],
        "linewidth": 1.4,
    }


def _draw_line(axes: "Axes", curve: Curve, number: int, num_models: int) -> None:
    shift = _APART ** (number - (num_models - 1) / 2)
    shares = [share * shift for share in curve]
    values = [score.value for score in curve.values()]
    axes.plot(shares, values, marker="o", markersize=4, **_style(number))
    for share, score in zip(shares, curve.values(), strict=True):
        if score.low is not None and score.high is not None:
            axes.plot([share, share], [score.low, score.high], color=_style(number)["color"])


def _label(axes: "Axes", shares: list[float]) -> None:
    axes.set_xscale("log")
    axes.set_xticks(shares, [f"{100 * share:g} %" for share in shares])
    axes.minorticks_off()
    tidy(axes)


def _shorten(name: str) -> str:
    """Return the end of a long name, where models differ."""
    return name if len(name) <= _LONGEST_NAME else f"…{name[1 - _LONGEST_NAME :]}"
