import re
from io import StringIO

import pytest
from rich.console import Console

from evaluate.reports import table
from evaluate.reports.results import open_folder
from evaluate.reports.summary import Score, Summary, SummaryRow, summarize
from evaluate.reports.table import (
    make_differences,
    make_table,
    print_table,
    to_latex,
    to_markdown,
    write_tables,
)
from tests.evaluate.conftest import add_run

NASTY = r"a_b & 50% of #1 {x} [y] | \z ~ ^ $ <q> * `c` 梟"


def make_summary(*rows, tasks=("us8k", "birds"), **others):
    published = (
        SummaryRow("old", "", "published", {"us8k": Score(70.0)}),
        SummaryRow("older", "", "published", {"us8k": Score(60.0)}),
    )
    return Summary(tasks, (*rows, *published), **others)


OWL = SummaryRow(
    "owl", "adam", "measured", {"us8k": Score(65.04, 60.0, 70.0), "birds": Score(99.99)}
)


def test_cells():
    cells = make_table(make_summary(OWL, map_tasks=frozenset(["birds"])))
    assert list(cells) == ["model", "probe", "source", "us8k", "birds (mAP)"]
    assert cells.values.tolist() == [
        ["owl", "adam", "measured", "65.0 (60.0-70.0)", "100.0"],
        ["old", "-", "published", "70.0", "-"],
        ["older", "-", "published", "60.0", "-"],
    ]


def test_a_task_may_have_the_name_of_a_column():
    odd = SummaryRow("owl", "adam", "measured", {"us8k": Score(65.0), "source": Score(99.0)})
    table = make_table(make_summary(odd, tasks=("us8k", "source")))
    assert "owl & adam & measured & 65.0 & 99.0" in to_latex(table)
    assert to_markdown(table).count("source") == 2


def test_published_rows_only_beside_a_task_of_the_paper():
    lone = SummaryRow("owl", "adam", "measured", {"birds": Score(50.0)})
    assert make_table(make_summary(lone))["source"].tolist() == ["measured"]


def test_differences_are_from_the_best_published_of_the_probe():
    def measured(model, probe, value, **others):
        return SummaryRow(model, probe, "measured", {"us8k": Score(value, **others)})

    published = [
        SummaryRow(model, probe, "published", {"us8k": Score(value)})
        for model, probe, value in (
            ("a", "byol_a", 70.0),
            ("b", "byol_a", 60.0),
            ("c", "evar", 80.0),
        )
    ]
    tiny = measured("tiny", "byol_a", 99.0, is_comparable=False)
    rows = [
        measured("owl", "byol_a", 65.0),
        measured("owl", "logistic", 99.0),
        measured("lark", "byol_a", 71.5),
        measured("lark", "evar", 78.0),
        tiny,
    ]
    differences = make_differences(Summary(("us8k",), (*rows, *published)))
    assert list(differences) == ["task", "probe", "best published", "owl", "lark"]
    assert differences.values.tolist() == [
        ["us8k", "byol_a", "70.0, a", "-5.0 (rank 2 of 3)", "+1.5 (rank 1 of 3)"],
        ["us8k", "evar", "80.0, c", "-", "-2.0 (rank 2 of 2)"],
    ]
    assert make_differences(Summary(("us8k",), (tiny, *published))).empty


def split_markdown(line: str) -> list[str]:
    """Cells as a reader of Markdown tables sees them."""
    cells = re.split(r"(?<!\\)\|", line.strip())[1:-1]
    return [re.sub(r"\\(.)", r"\1", cell.strip()) for cell in cells]


def test_markdown_gives_the_cells_back():
    cells = make_table(make_summary(SummaryRow(NASTY, "adam", "measured", OWL.scores)))
    header, rule, *rows = to_markdown(cells).splitlines()
    assert split_markdown(header) == list(cells)
    assert re.fullmatch(r"\|(:-+\|){3}(-+:\|){2}", rule)
    assert [split_markdown(row) for row in rows] == cells.values.tolist()
    assert len({len(line) for line in to_markdown(make_table(make_summary(OWL))).splitlines()}) == 1


def test_markdown_leaves_underscores_within_words():
    text = to_markdown(make_table(make_summary(SummaryRow("a_b _c_", "", "measured", OWL.scores))))
    assert r"a_b \_c\_" in text


def unescape_latex(cell: str) -> str:
    for name, character in [
        ("textbackslash", "\\"), ("textasciitilde", "~"), ("textasciicircum", "^"),
        ("textless", "<"), ("textgreater", ">"), ("textbar", "|"),
    ]:  # fmt: skip
        cell = cell.replace(f"\\{name}{{}}", f"\0{ord(character)}\0")
    cell = re.sub(r"\\([&%$#_{}])", r"\1", cell.replace("{[}", "["))
    return re.sub(r"\0(\d+)\0", lambda match: chr(int(match[1])), cell)


def test_latex_gives_the_cells_back():
    table = make_table(make_summary(SummaryRow(NASTY, "adam", "measured", OWL.scores)))
    text = to_latex(table)
    lines = text.splitlines()
    assert lines[1] == r"\begin{tabular}{lllrr}"
    assert [line for line in lines if line.endswith("rule")] == [
        r"\toprule", r"\midrule", r"\midrule", r"\bottomrule",
    ]  # fmt: skip
    rows = [line.removesuffix(r" \\") for line in lines if line.endswith(r" \\")]
    cells = [[unescape_latex(cell) for cell in re.split(r" (?<!\\)& ", row)] for row in rows]
    assert [row[:3] for row in cells] == [row[:3] for row in [list(table), *table.values.tolist()]]
    assert cells[1][3:] == ["65.0 (60.0--70.0)", "100.0"]
    assert cells[2][3:] == ["70.0", "--"]
    assert text.count("{") == text.count("}")


def test_terminal_table_shows_names_as_they_are(capsys):
    nasty = SummaryRow("owl [bold]", "adam", "measured", OWL.scores)
    print_table(make_summary(nasty))
    shown = capsys.readouterr().out
    assert "owl [bold]" in shown
    assert "65.0 (60.0-70.0)" in shown
    assert "older" in shown


@pytest.mark.parametrize(("width", "is_one_line"), [(120, True), (54, False)])
def test_intervals_go_below_scores_on_a_narrow_terminal(monkeypatch, width, is_one_line):
    shown = StringIO()
    console = Console(file=shown, width=width, force_terminal=True, color_system=None)
    monkeypatch.setattr(table, "Console", lambda **_: console)
    print_table(make_summary(OWL))
    assert ("65.0 (60.0-70.0)" in shown.getvalue()) == is_one_line
    assert "(60.0-70.0)" in shown.getvalue()


def test_files_say_what_the_scores_rest_on(tmp_path):
    open_folder(tmp_path)
    add_run(tmp_path, "r1", {("", 0): [True] * 7 + [False] * 3}, task="spcv2", n_train=105_817,
            split="publisher's lists", probe="byol_a")  # fmt: skip
    summary = summarize(tmp_path)
    write_tables(tmp_path, summary)
    text = (tmp_path / "summary.md").read_text()
    assert "| owl " in text
    assert "-22.2 (rank 4 of 4)" in text
    assert "- byola_rq 0.1.0, torch 2.13.0, scikit-learn 1.9.1, cpu\n" in text
    assert "## Notes" not in text
    assert (tmp_path / "summary.tex").read_text() == to_latex(make_table(summary))
    add_run(tmp_path, "r2", {("", 0): [True, False]}, task="nsynth")
    write_tables(tmp_path, summarize(tmp_path))
    assert "not the published sets" in (tmp_path / "summary.md").read_text()


def test_no_name_rules_the_terminal_or_a_page(capsys, tmp_path):
    name = "a\x1b]0;x\x07\u202e<b>[red]"
    row = SummaryRow(name, "adam", "measured", {"us8k": Score(50.0)})
    summary = make_summary(row, notes=(f"note of {name}",))
    print_table(summary)
    assert all(line.isprintable() for line in capsys.readouterr().out.splitlines())
    write_tables(tmp_path, summary)
    for written in ("summary.md", "summary.tex"):
        text = (tmp_path / written).read_text()
        assert all(line.isprintable() for line in text.splitlines())
    assert "<b>" not in (tmp_path / "summary.md").read_text()
