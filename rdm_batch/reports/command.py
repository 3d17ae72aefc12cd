"""What ``rdm-batch report`` does."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from rdm_batch.errors import SampleSetError
from rdm_batch.files import check_target, written_aside
from rdm_batch.reports.compare import (
    compare,
    compare_scores,
    print_comparison,
    print_rows,
)
from rdm_batch.reports.run_report import RunReport
from rdm_batch.reports.saved import load_run, load_scores, save_page
from rdm_batch.reports.table import print_summary
from rdm_batch.specs.scores import Score


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
        try:
            with written_aside(out) as aside:
                aside.write_text(run.page(), encoding="utf-8")
        except OSError as error:
            raise SampleSetError(str(out), f"cannot be written ({error.strerror})") from error
        where = str(out)
    elif uri.endswith(".json"):
        return
    else:
        where = save_page(uri, run)
    console.print(f"Page: {where}", markup=False, highlight=False, soft_wrap=True)


def show_comparison(
    first_uri: str, second_uri: str, tolerance: float, console: Console | None = None
) -> tuple[str, ...]:
    """Print two finished jobs, or the scores of two evaluations, side by side.

    Args:
        first_uri: What to measure against: an output location, a ``report.json``, or a file of
            scores that ``rdm-batch evaluate --json`` wrote.
        second_uri: What is in question; when either is a file of scores, only scores are
            compared.
        tolerance: Relative difference that is taken for noise.
        console: Where to print; None means standard output.

    Returns:
        The names of the figures that got worse.

    Raises:
        SampleSetError: One of them has no report.
    """
    first, second = _load(first_uri), _load(second_uri)
    if isinstance(first, RunReport) and isinstance(second, RunReport):
        comparison = compare(first, second, tolerance)
        print_comparison(first, second, comparison, console)
        return comparison.worse
    comparison = compare_scores(_scores(first), _scores(second), tolerance)
    print_rows(first_uri, second_uri, comparison, console)
    return comparison.worse


def _load(uri: str) -> RunReport | tuple[Score, ...]:
    return load_scores(uri) or load_run(uri).report


def _scores(found: RunReport | tuple[Score, ...]) -> tuple[Score, ...]:
    return found.scores if isinstance(found, RunReport) else found
