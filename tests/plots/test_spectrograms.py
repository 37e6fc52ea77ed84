"""The shared pictures: what is drawn where, in which colors."""

from pathlib import Path

import numpy as np
import pytest
import torch

from byola_rq.audio.frontend import LogMelSpectrogram
from byola_rq.errors import ConfigError
from byola_rq.plots.charts import draw_confusions, draw_distortion, draw_map, draw_scores
from byola_rq.plots.spectrograms import (
    color_limits,
    draw_bins,
    draw_log_mel,
    draw_views,
    hertz_ticks,
    save_views_picture,
)
from byola_rq.plots.style import make_figure, save_figure
from tests.refusal import refused

pytest.importorskip("matplotlib", reason="pictures need matplotlib")

FRONTEND = LogMelSpectrogram()


def test_octaves_stand_at_their_bands() -> None:
    """A sine of a tick's frequency is loudest in the band where the tick stands."""
    ticks = hertz_ticks(FRONTEND)
    assert [label for _, label in ticks] == ["4k", "2k", "1k", "500", "250"]
    for place, label in ticks:
        hertz = float(label.removesuffix("k")) * (1000 if label.endswith("k") else 1)
        sine = torch.sin(2 * torch.pi * hertz * torch.arange(16000) / 16000)
        assert abs(int(FRONTEND(sine).mean(dim=1).argmax()) - place) <= 1


def test_ticks_never_crowd() -> None:
    for options in ({"n_mels": 128}, {"n_mels": 16}, {"f_min": 500}, {"f_max": 2000}):
        frontend = LogMelSpectrogram(**options)  # type: ignore[arg-type]
        places = [place for place, _ in hertz_ticks(frontend)]
        assert places
        assert all(0 <= place < frontend.n_mels for place in places)
        gaps = -np.diff(places)
        assert (gaps > 0.08 * frontend.n_mels).all()


def test_one_scale_for_all() -> None:
    quiet, loud = torch.full((64, 9), -2.0), torch.full((64, 9), 3.0)
    assert color_limits([quiet, loud]) == (-2.0, 3.0)
    assert color_limits([loud, torch.full((64, 9), -90.0)]) == (-13.0, 3.0)
    low, high = color_limits([quiet])  # even where there is no range at all
    assert low < high


def test_a_spectrogram_has_its_axes() -> None:
    axes = make_figure(4, 3).subplots()
    log_mel = torch.randn(64, 96)
    image = draw_log_mel(axes, log_mel, FRONTEND, title="x", limits=(-1, 2))
    np.testing.assert_array_equal(image.get_array(), log_mel.numpy())
    assert image.get_extent() == [0, 0.96, -0.5, 63.5]
    assert image.get_clim() == (-1, 2)
    assert image.origin == "lower"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("time (s)", "frequency (Hz)")


@pytest.mark.parametrize("num", [1, 3, 5])
def test_views_share_one_scale(num: int) -> None:
    log_mels = {f"view {number}": torch.randn(64, 96) * (number + 1) for number in range(num)}
    figure = draw_views(log_mels, FRONTEND)
    shown = [axes for axes in figure.axes if axes.get_visible() and axes.images]
    assert [axes.get_title() for axes in shown] == list(log_mels)
    assert len({axes.images[0].get_clim() for axes in shown}) == 1


def test_a_step_curve_has_the_bins() -> None:
    axes = make_figure(4, 3).subplots()
    edges, values = torch.tensor([1.0, 2.5]), torch.tensor([0.4, 2.0, 2.9])
    draw_bins(axes, edges, values, torch.tensor([0.0, 0.5, 3.0]))
    (steps,) = axes.patches
    drawn = steps.get_data()
    np.testing.assert_allclose(drawn.edges, [0, 1, 2.5, 3])
    np.testing.assert_allclose(drawn.values, values)


def test_distortion_is_drawn_as_measured() -> None:
    figure = draw_distortion((2, 5), {"a": (2.0, 1.0)}, {"a": (2.2, 1.1)})
    (axes,) = figure.axes
    drawn = [line.get_ydata().tolist() for line in axes.lines if len(line.get_ydata())]
    assert drawn == [[2.2, 1.1], [2.0, 1.0]]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["2", "5"]
    low, high = axes.get_ylim()
    assert low < 1 < 2.2 < high


def test_a_bar_for_each_score() -> None:
    figure = draw_scores({"a": 40.0, "b": 90.0}, {"b": (85.0, 95.0)}, title="t")
    (axes,) = figure.axes
    assert [bar.get_width() for bar in axes.patches] == [40.0, 90.0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["a", "b"]
    assert [line.get_xdata().tolist() for line in axes.lines] == [[85.0, 95.0], [85.0, 95.0]]
    assert [text.get_text() for text in axes.texts] == ["40.0", "90.0"]


def test_labels_of_a_map_are_told_apart() -> None:
    labels = [f"label {number}" for number in range(30) for _ in range(2)]
    figure = draw_map(np.random.default_rng(0).standard_normal((60, 2)), labels, title="t")
    (axes,) = figure.axes
    looks = {(line.get_color(), line.get_marker()) for line in axes.lines}
    assert len(looks) == 30
    (legend,) = figure.legends
    assert len(legend.get_texts()) == 30


def test_confusions_are_shares_of_the_true_class() -> None:
    figure = draw_confusions([[3, 1], [0, 0]], ["cat", "dog"], title="t")
    axes = figure.axes[0]
    np.testing.assert_allclose(axes.images[0].get_array(), [[0.75, 0.25], [0, 0]])
    assert [text.get_text() for text in axes.texts] == ["3", "1"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("taken for", "is")


def test_pictures_are_written(tmp_path: Path) -> None:
    views = torch.randn(64, 96), torch.randn(64, 96)
    path = tmp_path / "new" / "views.png"
    save_views_picture(path, torch.randn(64, 96), views, FRONTEND, title="t")
    from matplotlib.image import imread

    # 3 x 6144 numbers, in 256 colors.
    pixels = imread(path).reshape(-1, 4)
    assert len(np.unique(pixels, axis=0)) > 200
    with refused(ConfigError, "unwritable", tmp_path / "picture.nothing"):
        save_figure(make_figure(1, 1), tmp_path / "picture.nothing")
