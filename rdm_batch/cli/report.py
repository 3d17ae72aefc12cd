"""``rdm-batch report``: show finished jobs."""

from __future__ import annotations

import argparse
from pathlib import Path

from rdm_batch.cli.options import Command


def _add(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Print the summary of a finished job and write its page again, from saved results alone. "
        "With two jobs, or two files of `rdm-batch evaluate --json`, print them side by side and "
        "say what keeps them from being compared."
    )
    parser.add_argument("uri", metavar="URI", help="output location of a job, or a report.json")
    parser.add_argument("other", metavar="OTHER", nargs="?", help="the run to compare with URI")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write the page here (default: beside the samples)"
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.05,
        metavar="FRACTION",
        help="difference between two runs that counts as noise (default: %(default)s)",
    )
    parser.add_argument(
        "--fail-on-worse",
        action="store_true",
        help="exit with status 2 when a figure of OTHER is worse than that of URI",
    )
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from rdm_batch.reports.command import show_comparison, show_report

    if args.other is None:
        show_report(args.uri, args.out)
        return 0
    worse = show_comparison(args.uri, args.other, args.tolerance)
    return 2 if worse and args.fail_on_worse else 0


REPORT = Command("report", "show a finished job again, or two side by side", _add)
