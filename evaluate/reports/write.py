"""Write all files of the summary."""

from pathlib import Path

from byola_rq.errors import MissingPackageError
from byola_rq.runtime.terminal import warn
from evaluate.reports.chart import write_chart
from evaluate.reports.label_curve import write_label_curve
from evaluate.reports.summary import summarize, write_summary
from evaluate.reports.table import print_table, write_tables


def write_reports(out: Path) -> None:
    """Write the summary of an output folder in every format, and print it.

    Raises:
        ReportError: If results.csv is not valid.
    """
    summary = summarize(out)
    write_summary(out, summary)
    write_tables(out, summary)
    for note in summary.notes:
        warn(f"warning: {note}")
    print_table(summary)
    try:
        write_chart(summary.with_all_labels(), out / "summary.png")
        write_label_curve(summary, out / "labels.png")
    except MissingPackageError as error:
        warn(f"no chart: {error}")
