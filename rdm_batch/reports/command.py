"""What ``rdm-batch report`` does."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from rdm_batch.errors import SampleSetError
from rdm_batch.files import check_target, write_file
from rdm_batch.reports.saved import load_run, save_page
from rdm_batch.reports.table import print_summary


def show_report(uri: str, out: Path | None = None, console: Console | None = None) -> None:
    """Print the summary of a finished job and write its page again, from what was saved.

    Args:
        uri: The output location of the job, or its ``report.json`` alone (then the page has
            no pictures and no histograms).
        out: Where to write the page; None means beside a report given by its location, and
            nowhere for a ``report.json``.
        console: Where to print; None means standard output.

    Raises:
        SampleSetError: There is no report, or the page cannot be written.
    """
    console = console or Console()
    if out is not None:
        check_target(out, SampleSetError)
    run = load_run(uri)
    print_summary(run.report, console)
    if out is not None:
        write_file(out, run.page().encode(), SampleSetError)
        where = str(out)
    elif uri.endswith(".json"):
        return
    else:
        where = save_page(uri, run)
    console.print(f"Page: {where}", markup=False, highlight=False, soft_wrap=True)
