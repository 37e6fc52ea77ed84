"""Report of a grid as text: tables as csv and Markdown, and a sentence for every difference."""

from collections.abc import Sequence
from pathlib import Path

from pandas import DataFrame

from byola_rq.runtime.files import replace_file
from byola_rq.text.cells import csv_cell, markdown_cell
from evaluate.ablation.report import AblationReport, format_difference
from evaluate.reports.records import writing
from evaluate.reports.table import to_markdown


def write_report(out: Path, report: AblationReport) -> list[Path]:
    """Write the grid's tables, `<grid>.md` and `<grid>.csv`.

    Raises:
        WriteError: If a file cannot be written.
    """
    name = report.grid.name
    texts = {
        out / f"{name}.md": to_report(report),
        out / f"{name}.csv": make_table(report)
        .map(csv_cell)
        .to_csv(index=False, lineterminator="\n"),
    }
    for path, text in texts.items():
        with writing(path):
            replace_file(path, text)
    return list(texts)


def make_table(report: AblationReport) -> DataFrame:
    """Build a table with a row for every variant and task: means, differences, costs."""
    rows = []
    for line in report.lines:
        for task, score in line.scores.items():
            difference = line.differences.get(task)
            rows.append(
                {
                    "grid": report.grid.name,
                    "variant": line.variant,
                    "task": task,
                    "probe": report.probe,
                    "seeds": line.num_seeds,
                    "score": score.value,
                    "low": score.low,
                    "high": score.high,
                    "reference": report.grid.reference,
                    "difference": difference.value if difference else None,
                    "difference_low": difference.low if difference else None,
                    "difference_high": difference.high if difference else None,
                    "p": difference.p if difference else None,
                    "is_significant": difference.is_significant if difference else None,
                    "segments": line.segments,
                    "hours": line.hours,
                }
            )
    return DataFrame(rows).round(4)


def to_report(report: AblationReport) -> str:
    """Format the report as Markdown."""
    significant, others = report.describe_differences()
    parts = [f"# {markdown_cell(report.grid.name)}\n", f"{_preamble(report)}\n"]
    if report.lines:
        parts += [to_markdown(make_scores(report), num_names=1)]
    if any(line.differences for line in report.lines):
        against = markdown_cell(report.grid.reference)
        parts += [f"## Against {against}\n", _preamble_of_differences()]
        parts += [to_markdown(make_differences(report), num_names=1)]
    if significant or others:
        parts += [_list("Significant", significant), _list("Not significant", others)]
    if report.notes:
        parts += [_list("Notes", report.notes)]
    return "\n".join(parts)


def make_scores(report: AblationReport) -> DataFrame:
    """Build the table of means, as text."""
    rows = [
        (
            line.variant,
            *(f"{e.value:.1f} ({e.low:.1f}-{e.high:.1f})" for e in line.scores.values()),
            line.num_seeds,
            f"{line.segments:,}",
            f"{line.hours:.2f}",
        )
        for line in report.lines
    ]
    columns = ["variant", *report.tasks, "seeds", "segments", "hours"]
    return DataFrame(rows, columns=columns).astype(str)


def make_differences(report: AblationReport) -> DataFrame:
    """Build the table of differences to the reference, as text; a star if significant."""
    rows = [
        (
            line.variant,
            *(
                format_difference(e) + (" *" if e.is_significant else "")
                for e in line.differences.values()
            ),
        )
        for line in report.lines
        if line.differences
    ]
    return DataFrame(rows, columns=["variant", *report.tasks])


def _preamble(report: AblationReport) -> str:
    return (
        f"Accuracy in percent (or mAP) of the probe {report.probe}, mean over seeds, with "
        "its 95 %\ninterval over seeds and test clips. Segments and hours are totals over all "
        "seeds; hours\nof concurrent runs are added."
    )


def _preamble_of_differences() -> str:
    return (
        "Difference from the reference in points, with its 95 % interval over seeds and test\n"
        "clips, paired over clips; a star marks p < 0.05. Of 20 variants that are equal to the\n"
        "reference, one is expected to get a star.\n"
    )


def _list(title: str, lines: Sequence[str]) -> str:
    return f"{title}:\n\n" + (
        "".join(f"- {markdown_cell(line)}\n" for line in lines) or "- no variant\n"
    )
