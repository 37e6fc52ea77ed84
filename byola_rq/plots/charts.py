"""Figures of numbers: distortion, scores, maps of embeddings, confusion matrices."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from byola_rq.plots.style import COLORS, QUIET, TEXT, make_figure, plain, tidy


def draw_distortion(
    num_bins: Sequence[int],
    measured: Mapping[str, Sequence[float]],
    expected: Mapping[str, Sequence[float]],
) -> Any:
    """Plot mean absolute error against the number of bins, measured and expected."""
    figure = make_figure(7, 4)
    axes = figure.subplots()
    for name, color in zip(measured, COLORS, strict=False):
        if name in expected:
            # Expected curves are wide and pale, so that both show where they coincide.
            axes.plot(num_bins, expected[name], color=color, linewidth=6, alpha=0.25)
        axes.plot(num_bins, measured[name], "o-", color=color, linewidth=1.2, label=name)
    if expected:
        axes.plot([], [], color=QUIET, linewidth=6, alpha=0.25, label="expected of even values")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(list(num_bins), [str(each) for each in num_bins])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_yticks([0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5])
    values = [value for curve in (*measured.values(), *expected.values()) for value in curve]
    axes.set_ylim(0.7 * min(values), 1.4 * max(values))
    axes.set_xlabel("bins K")
    axes.set_ylabel("mean absolute error (nat)")
    axes.legend(frameon=False, fontsize=9)
    tidy(axes)
    return figure


def draw_scores(
    scores: Mapping[str, float],
    intervals: Mapping[str, tuple[float, float]] | None = None,
    *,
    title: str = "",
    label: str = "percent right",
) -> Any:
    """Plot a bar for each model's score in percent, with its interval if given."""
    figure = make_figure(7, 0.9 + 0.42 * len(scores))
    axes = figure.subplots()
    for place, (name, score) in enumerate(scores.items()):
        axes.barh(place, score, height=0.66, color=COLORS[place % len(COLORS)])
        low, high = (intervals or {}).get(name, (np.nan, np.nan))
        if np.isfinite(low):
            axes.plot([low, high], [place, place], color="white", linewidth=3)
            axes.plot([low, high], [place, place], color=TEXT, linewidth=1.2)
        axes.text(102, place, f"{score:.1f}", va="center", fontsize=9)
    axes.set_yticks(range(len(scores)), [plain(name) for name in scores])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel(label)
    axes.set_title(title, fontsize=10)
    tidy(axes)
    return figure


def draw_map(places: npt.NDArray[np.floating[Any]], labels: Sequence[str], *, title: str) -> Any:
    """Plot points `(N, 2)`, colored by label."""
    figure = make_figure(7.5, 4.4)
    axes = figure.subplots()
    names = sorted(set(labels))
    markers = "osD^vP*X"
    for number, name in enumerate(names):
        chosen = [place for place, label in enumerate(labels) if label == name]
        axes.plot(
            *places[chosen].T,
            markers[number // len(COLORS) % len(markers)],
            color=COLORS[number % len(COLORS)],
            label=plain(name),
            markersize=5,
            alpha=0.8,
        )
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, fontsize=10)
    return figure


def draw_confusions(counts: npt.ArrayLike, classes: Sequence[str], *, title: str) -> Any:
    """Plot a confusion matrix: true classes in rows, predicted ones in columns, shares of rows."""
    table = np.asarray(counts, dtype=float)
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    size = 2.2 + 0.42 * len(classes)
    figure = make_figure(size + 1.2, size)
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in zip(*np.nonzero(table), strict=True):
        color = "white" if shares[row, column] > 0.55 else TEXT
        axes.text(
            column, row, f"{table[row, column]:g}", color=color, ha="center", va="center",
            fontsize=8,
        )  # fmt: skip
    names = [plain(name) for name in classes]
    axes.set_xticks(range(len(classes)), names, rotation=90, fontsize=8)
    axes.set_yticks(range(len(classes)), names, fontsize=8)
    axes.set_xlabel("taken for")
    axes.set_ylabel("is")
    axes.set_title(title, fontsize=10)
    figure.colorbar(image, ax=axes, label="share of the class")
    return figure
