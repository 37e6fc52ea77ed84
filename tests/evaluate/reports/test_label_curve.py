import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from evaluate.reports.comparison import compare
from evaluate.reports.label_curve import draw_label_curve, gather_curves, write_label_curve
from evaluate.reports.records import ReportError
from evaluate.reports.results import open_folder, read_results
from evaluate.reports.summary import Score, Summary, SummaryRow, summarize, write_summary
from evaluate.reports.table import make_table
from tests.evaluate.conftest import add_run
from tests.refusal import refused

LARK = {"model": "lark", "weights_sha256": "cd" * 32}


def hits(num_right, num_clips=10):
    return np.arange(num_clips) < num_right


def few(fraction, num_unlabelled=5):
    return {"label_fraction": fraction, "n_unlabelled": num_unlabelled, "n_train": 3}


@pytest.fixture
def out(tmp_path):
    """Owl and lark, owl with a tenth and with all labels, both with the later run worse."""
    open_folder(tmp_path)
    add_run(tmp_path, "r1", {("", 0): hits(8)})
    add_run(tmp_path, "r2", {("", 0): hits(4)}, **few(0.1))
    add_run(tmp_path, "r3", {("", 0): hits(6)}, **LARK)
    return tmp_path


def make_summary(num_models=2, tasks=("birds",), probes=("logistic",)):
    rows = [
        SummaryRow(
            f"model {number} of a long and telling $name$",
            probe,
            "measured",
            {task: Score(50 + 10 * np.log10(share), 20.0, 60.0) for task in tasks},
            share,
        )
        for number in range(num_models)
        for probe in probes
        for share in (1, 0.01, 0.1)
    ]
    return Summary(tuple(tasks), tuple(rows))


def test_shares_of_the_labels_never_mix(out):
    rows = summarize(out).measured
    assert [(r.model, r.setting, r.scores["birds"].value) for r in rows] == [
        ("owl", "logistic", 80), ("owl", "logistic, 10 % of labels", 40), ("lark", "logistic", 60),
    ]  # fmt: skip
    assert make_table(summarize(out))["probe"].tolist() == [row.setting for row in rows]
    write_summary(out, summarize(out))
    assert 'owl,"logistic, 10 % of labels",measured' in (out / "summary.csv").read_text()
    compared = compare(out, "owl", "lark")
    assert [(row.probe, row.first, row.second) for row in compared.rows] == [("logistic", 80, 60)]
    assert "10 % of labels" in " ".join(compared.notes)
    add_run(out, "r4", {("", 0): hits(5)}, **LARK, **few(0.2))
    assert len(compare(out, "owl", "lark").rows) == 1
    add_run(out, "r5", {("", 0): hits(9)}, **LARK, **few(0.1))
    compared = compare(out, "owl", "lark")
    assert [(row.probe, row.first, row.second) for row in compared.rows] == [
        ("logistic", 80, 60), ("logistic, 10 % of labels", 40, 90),
    ]  # fmt: skip


def test_models_with_no_share_in_common_are_not_compared(out):
    add_run(out, "r4", {("", 0): hits(5)}, model="wren", weights_sha256="ef" * 32, **few(0.1))
    with refused(ReportError, "missing", out):
        compare(out, "lark", "wren")


def test_a_set_counts_as_whole_whatever_share_of_its_labels_was_used(out):
    """Two folds of ten clips: the run is complete, though it trained on few of them."""
    folds = {("1", 0): hits(4), ("2", 0): hits(6)}
    add_run(
        out, "r4", folds, task="tones", label_fraction=0.1, n_train=3, n_valid=2, n_unlabelled=5
    )
    (row,) = [row for row in summarize(out).measured if "tones" in row.scores]
    assert row.scores["tones"].value == 50
    assert {row.num_clips for row in read_results(out) if row.task == "tones"} == {20}


def test_a_published_set_with_fewer_labels_is_not_ranked(out):
    counts = {"task": "us8k", "split": "leave one fold out", "n_test": 874, "n_valid": 1}
    run = {("1", 0): hits(4)}
    add_run(out, "r4", run, **counts, probe="byol_a", fold="1", n_train=7857)
    few_labels = {"label_fraction": 0.1, "n_train": 785, "n_unlabelled": 7072}
    add_run(out, "r5", run, **counts, probe="byol_a", fold="1", **few_labels)
    from evaluate.reports.published import differs_in

    whole, fewer = (row for row in read_results(out) if row.task == "us8k")
    assert whole.num_clips == fewer.num_clips == 8732
    assert (differs_in(whole), differs_in(fewer)) == ("", "10 % of labels")


def test_curves_are_of_pairs_with_two_shares(out):
    panels = gather_curves(summarize(out))
    assert list(panels) == [("birds", "logistic")]
    curves = panels["birds", "logistic"]
    assert {model: list(curve) for model, curve in curves.items()} == {
        "owl": [0.1, 1], "lark": [1],
    }  # fmt: skip
    write_label_curve(summarize(out), out / "labels.png")
    assert (out / "labels.png").read_bytes().startswith(b"\x89PNG")
    write_label_curve(summarize(out).with_all_labels(), out / "none.png")
    assert not (out / "none.png").exists()


def test_lines_and_intervals_are_where_the_scores_are():
    summary = make_summary()
    figure = draw_label_curve(summary, gather_curves(summary))
    (axes,) = figure.axes
    lines = [line for line in axes.lines if len(line.get_xdata()) == 3]
    assert [line.get_ydata() for line in lines] == [pytest.approx([30, 40, 50])] * 2
    for line in lines:  # side by side, so that intervals are seen
        np.testing.assert_allclose(line.get_xdata(), [0.01, 0.1, 1], rtol=0.02)
    ends = [list(line.get_ydata()) for line in axes.lines if line not in lines]
    assert ends == [[20.0, 60.0]] * 6
    assert axes.get_xscale() == "log"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1 %", "10 %", "100 %"]


@pytest.mark.parametrize(
    ("num_models", "tasks", "probes"),
    [(1, ("birds",), ("knn",)), (9, ("birds", "esc50"), ("logistic", "finetune"))],
)
def test_no_text_lies_on_another_or_outside(num_models, tasks, probes):
    summary = make_summary(num_models, tasks, probes)
    figure = draw_label_curve(summary, gather_curves(summary))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    # Of the numbers at an axis matplotlib makes more than it draws.
    beside = {label for axes in figure.axes for label in axes.get_yticklabels()}
    texts = [text for text in figure.findobj(Text) if text.get_text() and text not in beside]
    boxes = [text.get_window_extent(canvas.get_renderer()).padded(-0.5) for text in texts]
    boxes = [box for box in boxes if box.width > 0 and box.height > 0]
    assert len(boxes) > num_models + len(tasks) * len(probes)
    for number, box in enumerate(boxes):
        assert figure.bbox.x0 <= box.x0 <= box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 <= box.y1 <= figure.bbox.y1
        assert not any(box.overlaps(other) for other in boxes[:number])
