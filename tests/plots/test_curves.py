"""The picture of runs' curves: what is drawn, in which colors, where."""

import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from byola_rq.errors import ConfigError, MissingPackageError
from byola_rq.plots import curves
from byola_rq.plots.curves import save_curves_picture
from byola_rq.plots.style import save_figure
from tests.refusal import refused

COLUMNS = ("loss", "learning_rate", "embedding_std", "effective_rank", "segments_per_second")


def make_run(num_rows: int, seed: int = 0, *, without: str = "") -> dict[str, Any]:
    random = np.random.default_rng(seed)
    columns = {name: random.uniform(0.1, 1, num_rows) for name in COLUMNS if name != without}
    return {"step": np.arange(1, num_rows + 1) * 50.0, **columns}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that are saved, still as figures."""
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    figures: list[Any] = []

    def keep(figure: Any, path: Path) -> None:
        figures.append(figure)
        save_figure(figure, path)

    monkeypatch.setattr(curves, "save_figure", keep)
    return figures


@pytest.mark.parametrize("num_runs", [1, 3, 6, 9])
def test_every_run_has_a_line_of_its_own_in_every_panel(
    drawn: list[Any], tmp_path: Path, num_runs: int
) -> None:
    runs = {f"run {number}": make_run(5, number) for number in range(num_runs)}
    save_curves_picture(tmp_path / "curves.png", runs)
    (figure,) = drawn
    titles = ["loss", "learning rate", "embedding std", "effective rank", "segments/s"]
    assert [axes.get_title() for axes in figure.axes] == titles
    for axes, column in zip(figure.axes, COLUMNS, strict=True):
        lines = axes.lines
        assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == num_runs
        for line, columns in zip(lines, runs.values(), strict=True):
            np.testing.assert_array_equal(line.get_xdata(), columns["step"])
            np.testing.assert_array_equal(line.get_ydata(), columns[column])
    if num_runs == 1:
        assert figure.get_suptitle() == "run 0"
        assert not figure.legends
    else:
        (legend,) = figure.legends
        named = {text.get_text(): line.get_color() for text, line in pair(legend)}
        assert list(named) == list(runs)
        colors = [line.get_color() for line in figure.axes[0].lines]
        assert list(named.values()) == colors


def pair(legend: Any) -> list[tuple[Any, Any]]:
    return list(zip(legend.get_texts(), legend.get_lines(), strict=True))


@pytest.mark.parametrize("is_validated", [False, True])
@pytest.mark.parametrize("num_runs", [1, 3, 6])
def test_nothing_overlaps(
    drawn: list[Any], tmp_path: Path, num_runs: int, is_validated: bool
) -> None:
    name = "a_run_in_a_folder_with_a_name_as_long_as_those_of_sweeps_are_{}"
    runs = {name.format(number): make_run(200, number) for number in range(num_runs)}
    if is_validated:
        runs = {name: validated(run) for name, run in runs.items()}
    save_curves_picture(tmp_path / "curves.png", runs)
    (figure,) = drawn
    boxes = [axes.get_tightbbox() for axes in figure.axes]
    boxes += [legend.get_window_extent() for legend in figure.legends]
    width, height = figure.get_size_inches() * figure.dpi
    for number, box in enumerate(boxes):
        assert 0 <= box.x0 < box.x1 <= width
        assert 0 <= box.y0 < box.y1 <= height
        assert not any(box.overlaps(other) for other in boxes[:number])


def test_a_column_that_no_run_has_gets_no_panel(drawn: list[Any], tmp_path: Path) -> None:
    old = make_run(5, without="effective_rank")
    save_curves_picture(tmp_path / "old.png", {"old": old})
    assert "effective rank" not in [axes.get_title() for axes in drawn[0].axes]
    save_curves_picture(tmp_path / "both.png", {"old": old, "new": make_run(5)})
    (rank,) = [axes for axes in drawn[1].axes if axes.get_title() == "effective rank"]
    assert len(rank.lines) == 1


def test_long_runs_are_smoothed_but_their_learning_rate_is_not(
    drawn: list[Any], tmp_path: Path
) -> None:
    run = make_run(500)
    save_curves_picture(tmp_path / "curves.png", {"run": run})
    loss, learning_rate = (axes.lines for axes in drawn[0].axes[:2])
    rows, mean = loss
    np.testing.assert_array_equal(rows.get_ydata(), run["loss"])
    assert rows.get_alpha() < 0.5
    for place in (0, 200, 490):  # 2 % are 10 rows, the mean stands at their middle
        rows_there = slice(place, place + 10)
        assert mean.get_ydata()[place] == pytest.approx(run["loss"][rows_there].mean())
        assert mean.get_xdata()[place] == pytest.approx(run["step"][rows_there].mean())
    assert len(mean.get_xdata()) == 491
    assert len(learning_rate) == 1
    np.testing.assert_array_equal(learning_rate[0].get_ydata(), run["learning_rate"])


def test_rows_that_are_not_finite_are_left_out(drawn: list[Any], tmp_path: Path) -> None:
    run = make_run(5)
    run["loss"][[1, 3]] = np.nan, np.inf
    run["effective_rank"][:] = np.nan
    save_curves_picture(tmp_path / "curves.png", {"run": run})
    (line,) = drawn[0].axes[0].lines
    assert line.get_xdata().tolist() == [50, 150, 250]
    assert len(drawn[0].axes) == 4


def test_equal_learning_rates_are_all_seen(drawn: list[Any], tmp_path: Path) -> None:
    save_curves_picture(tmp_path / "curves.png", {name: make_run(5) for name in "abc"})
    widths = [line.get_linewidth() for line in drawn[0].axes[1].lines]
    assert widths[0] > widths[1] > widths[2]  # drawn in this order


def validated(run: dict[str, Any]) -> dict[str, Any]:
    """Add a score in percent to every tenth row; the third of them is the best."""
    scores = np.full(len(run["step"]), np.nan)
    scores[9::10] = 40 + 5 * np.sin(np.arange(len(scores) // 10))
    scores[29] = 71.5
    return {**run, "validation": scores}


def test_validation_stands_beside_the_loss_with_a_star_at_the_best(
    drawn: list[Any], tmp_path: Path
) -> None:
    from matplotlib.colors import to_rgba

    run = validated(make_run(1200))
    save_curves_picture(tmp_path / "curves.png", {"run": run})
    loss, panel, *others = drawn[0].axes
    assert panel.get_title() == "validation (%)"
    assert len(others) == 4
    for one, other in ((loss, panel), *itertools.pairwise(others)):
        assert one.get_position().y0 == pytest.approx(other.get_position().y0, abs=0.02)
        assert one.get_position().width == pytest.approx(other.get_position().width, rel=0.1)
    (line,) = panel.lines  # as it is, however long
    assert line.get_xdata().tolist() == run["step"][9::10].tolist()
    assert line.get_ydata().tolist() == run["validation"][9::10].tolist()
    (star,) = panel.collections
    assert star.get_offsets().tolist() == [[30 * 50.0, 71.5]]
    assert tuple(star.get_facecolor()[0]) == to_rgba(line.get_color())


def test_few_panels_fill_the_picture(drawn: list[Any], tmp_path: Path) -> None:
    run = validated(make_run(30))
    for names in (("loss",), ("loss", "validation"), ("validation", "learning_rate")):
        columns = {name: run[name] for name in ("step", *names)}
        save_curves_picture(tmp_path / "curves.png", {"run": columns})
        assert len(drawn[-1].axes) == len(names)


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_one_row_is_enough(drawn: list[Any], tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "new" / f"curves.{suffix}"
    save_curves_picture(path, {"run": make_run(1)})
    signature = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}[suffix]
    assert path.read_bytes().startswith(signature)
    assert drawn[0].axes[0].lines[0].get_marker() == "."


def test_nothing_to_draw_is_refused(drawn: list[Any], tmp_path: Path) -> None:
    with refused(ConfigError, "empty", tmp_path / "curves.png"):
        save_curves_picture(tmp_path / "curves.png", {"run": {}, "other": make_run(0)})
    with refused(ConfigError, "unwritable", tmp_path / "curves.nothing"):
        save_curves_picture(tmp_path / "curves.nothing", {"run": make_run(3)})


def test_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingPackageError, match=r"\.\[plots\]"):
        save_curves_picture(tmp_path / "curves.png", {"run": make_run(3)})


def test_no_name_is_a_formula(drawn: list[Any], tmp_path: Path) -> None:
    names = [r"$\frac$", "$x$ and $y$", "a\x1b[31m"]
    save_curves_picture(tmp_path / "curves.png", {name: make_run(3) for name in names})
    texts = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert texts == [r"\$\frac\$", r"\$x\$ and \$y\$", r"a\x1b[31m"]
