import itertools
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from byola_rq.errors import MissingPackageError
from evaluate.reports.chart import draw_chart, write_chart
from evaluate.reports.published import PUBLISHED, PUBLISHED_PROBES
from evaluate.reports.records import WriteError
from evaluate.reports.summary import Score, Summary, SummaryRow
from evaluate.tasks.task import PAPER_TASKS
from tests.conftest import ROOT
from tests.refusal import refused

MODELS = (
    "rq_2048",
    "random (2048-d, 1a2b3c4d)",
    "a_very_long_model_name_of_an_experiment_with_many_options_2026_11_21_seed_0",
    "Averylongmodelnamewithoutanyplacewhereitcouldbebrokenintotwolines",
    "$x^2$ and $y",
    "梟",
    "byola-v2-reproduction (norm checkpoint)",
    "eight (limit 50)",
)
OTHER_TASKS = ("esc50", "fsd50k", "a_long_name_of_a_task", "gtzan", "cremad")


def make_summary(num_models, tasks, probes=("logistic",), *, is_comparable=True):
    generator = np.random.default_rng(0)
    rows = []
    for model in MODELS[:num_models]:
        for probe in probes:
            scores = {}
            for task in tasks:
                value, width = generator.uniform(5, 99), generator.uniform(0.5, 5)
                ends = (max(0, value - width), min(100, value + width))
                scores[task] = Score(value, *ends, is_comparable)
            rows.append(SummaryRow(model, probe, "measured", scores))
    for model, values in PUBLISHED:
        named = zip((*PAPER_TASKS, "mean"), values, strict=True)
        scores = {task: Score(value) for task, value in named if value is not None}
        rows.append(SummaryRow(model, PUBLISHED_PROBES.get(model, ""), "published", scores))
    all_tasks = tuple(dict.fromkeys((*PAPER_TASKS, *(task for task in tasks if task != "mean"))))
    return Summary(all_tasks, tuple(rows), map_tasks=frozenset({"fsd50k"}))


def panels(figure):
    return {axes.get_title(loc="left"): axes for axes in figure.axes}


def diamonds(axes):
    return [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "D"]


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize(
    ("num_models", "tasks", "probes"),
    [
        (1, ("birds",), ("logistic",)),
        (2, ("us8k",), ("logistic", "adam", "knn")),
        (2, ("us8k", "spcv2"), ("byol_a", "evar", "knn")),
        (8, (*PAPER_TASKS, "mean", *OTHER_TASKS), ("byol_a",)),
    ],
)
def test_no_text_lies_on_another_or_outside(num_models, tasks, probes):
    figure = draw_chart(make_summary(num_models, tasks, probes))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text()]
    boxes = [text.get_window_extent(renderer).padded(-0.5) for text in texts]
    shown = [(t, b) for t, b in zip(texts, boxes, strict=True) if b.width > 0 and b.height > 0]
    assert len(shown) > len(tasks) * num_models
    for text, box in shown:
        assert figure.bbox.x0 <= box.x0, text
        assert box.x1 <= figure.bbox.x1, text
        assert figure.bbox.y0 <= box.y0, text
        assert box.y1 <= figure.bbox.y1, text
    for (text, box), (other, other_box) in itertools.combinations(shown, 2):
        assert not box.overlaps(other_box), (text, other)


def test_panels_are_in_the_order_of_the_table():
    figure = draw_chart(make_summary(3, (*PAPER_TASKS, "mean", "fsd50k")))
    assert list(panels(figure)) == [*PAPER_TASKS, "mean", "fsd50k (mAP)"]


def test_bars_and_intervals_are_the_scores():
    summary = make_summary(3, ("us8k",))
    (axes,) = draw_chart(summary).axes
    scores = [row.scores["us8k"] for row in summary.measured]
    assert [bar.get_width() for bar in axes.patches] == [score.value for score in scores]
    spans = {tuple(line.get_xdata()) for line in axes.lines}
    assert {(score.low, score.high) for score in scores} <= spans
    shown = {text.get_text() for text in axes.texts}
    assert {f"{score.value:.1f}" for score in scores} <= shown
    assert len({bar.get_facecolor() for bar in axes.patches}) == 3


def test_published_scores_of_the_probe_stand_beside_their_task_with_their_names():
    axes = panels(draw_chart(make_summary(1, ("us8k", "birds"), ("byol_a",))))
    assert diamonds(axes["us8k"]) == [79.1, 78.2, 78.0]
    assert diamonds(axes["birds"]) == []
    names = [label.get_text().replace("\n", " ") for label in axes["us8k"].get_yticklabels()]
    assert names == [
        "rq_2048", "BYOL-A (Mixup), 2048-d", "BYOL-A, 512-d", "randomized quantization",
    ]  # fmt: skip
    axes = panels(draw_chart(make_summary(1, ("us8k",), ("byol_a", "evar", "knn"))))
    assert diamonds(axes["us8k"]) == [79.1, 78.2, 79.7, 78.0]


@pytest.mark.parametrize(("probe", "is_comparable"), [("byol_a", False), ("logistic", True)])
def test_another_set_or_probe_has_no_published_scores_and_says_so(probe, is_comparable):
    summary = make_summary(1, ("us8k",), (probe,), is_comparable=is_comparable)
    figure = draw_chart(summary)
    assert diamonds(figure.axes[0]) == []
    assert "No published scores" in figure.get_supxlabel().replace("\n", " ")
    ranked = draw_chart(make_summary(1, ("us8k", "birds"), ("byol_a",)))
    assert "No published scores" not in ranked.get_supxlabel().replace("\n", " ")


def test_model_keeps_its_color_where_others_were_not_tested():
    summary = make_summary(3, ("us8k", "birds"))
    first, *others = summary.rows
    lone = SummaryRow(first.model, "logistic", "measured", {"us8k": first.scores["us8k"]})
    axes = panels(draw_chart(Summary(summary.tasks, (lone, *others))))
    assert len(axes["birds"].patches) == 2
    assert [bar.get_facecolor() for bar in axes["birds"].patches] == [
        bar.get_facecolor() for bar in axes["us8k"].patches[1:]
    ]


def test_file_is_a_picture_and_replaces_the_old(tmp_path):
    path = tmp_path / "summary.png"
    path.write_text("old")
    write_chart(make_summary(1, ("birds",)), path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_measured_is_no_picture(tmp_path):
    write_chart(make_summary(0, ()), tmp_path / "summary.png")
    assert list(tmp_path.iterdir()) == []


def test_folder_that_is_not_there(tmp_path):
    with refused(WriteError, "unwritable", tmp_path / "gone/x.png"):
        write_chart(make_summary(1, ("birds",)), tmp_path / "gone/x.png")


def test_without_matplotlib(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with refused(MissingPackageError, "missing", key="matplotlib") as caught:
        write_chart(make_summary(1, ("birds",)), tmp_path / "summary.png")
    assert ".[plots]" in str(caught.value)


def test_global_state_of_matplotlib_stays_as_it_is(tmp_path):
    code = """
import sys
import matplotlib
before = matplotlib.rcParams.copy()  # reading the backend's entry would import pyplot
from pathlib import Path
from tests.evaluate.reports.test_chart import make_summary, write_chart
write_chart(make_summary(1, ("birds",)), Path(sys.argv[1]))
assert "matplotlib.pyplot" not in sys.modules
assert matplotlib.rcParams.copy() == before
"""
    path = tmp_path / "summary.png"
    subprocess.run([sys.executable, "-W", "error", "-c", code, path], cwd=ROOT, check=True)
    assert path.exists()
