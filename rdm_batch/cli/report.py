"""``rdm-batch report``: show finished jobs."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rdm_batch.cli.options import Command
from rdm_batch.errors import SpecError
from rdm_batch.files import check_target, write_file

if TYPE_CHECKING:
    from rdm_batch.regression.records import Outcome
    from rdm_batch.regression.sides import Side

MAX_SIDES = 26
"""As many as there are letters to call them by."""


def _add(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Print the summary of a finished job and write its page again, from saved results alone. "
        "With several jobs, or files of `rdm-batch evaluate --json`, print them side by side, "
        "compare each with the first, and say what keeps them from being compared."
    )
    parser.add_argument("uri", metavar="URI", help="output location of a job, or a report.json")
    parser.add_argument("others", metavar="OTHER", nargs="*", help="runs to compare with URI")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write the page here (default: beside the samples)"
    )
    add_comparing(parser)
    parser.add_argument(
        "--fail-on-worse",
        action="store_true",
        help="exit with 0 where every figure that decides is the same or better, 3 where one is "
        "worse, 4 where its error does not tell, 6 where one is gone or does not compare, or "
        "nothing was compared",
    )
    parser.set_defaults(run=_run)


def add_comparing(parser: argparse.ArgumentParser) -> None:
    """Declare the options of commands that compare."""
    parser.add_argument(
        "--figures",
        nargs="+",
        default=[],
        metavar="NAME",
        help="figures that decide, such as fid or images_per_s (default: the scores of the first "
        "side, and what has a threshold)",
    )
    parser.add_argument(
        "--threshold",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="by how much a figure may be worse, such as fid=0.2 or images_per_s=5%%; may be given "
        "several times (default: two standard errors of the difference)",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.05,
        metavar="FRACTION",
        help="difference that counts as noise where neither a threshold nor an error is known "
        "(default: %(default)s)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the comparison here")


def _run(args: argparse.Namespace) -> int:
    if not args.others:
        from rdm_batch.reports.command import show_report

        _refuse(args, "--fail-on-worse", "--figures", "--threshold", "--json")
        show_report(args.uri, args.out)
        return 0
    from rdm_batch.regression.records import EXIT_CODES
    from rdm_batch.regression.sides import load_sides

    _refuse(args, "--out")
    outcome = compare_and_print(args, lambda: load_sides([args.uri, *args.others]))
    return EXIT_CODES[outcome] if args.fail_on_worse else 0


def compare_and_print(args: argparse.Namespace, load: Callable[[], Sequence[Side]]) -> Outcome:
    """Compare what is loaded as the options of ``add_comparing`` say; give what it amounts to."""
    from rdm_batch.errors import RegressionError
    from rdm_batch.regression.comparison import compare_sides, parse_thresholds
    from rdm_batch.regression.comparison_table import comparison_json, print_comparison

    thresholds = parse_thresholds(args.threshold)
    if not 0 <= args.tolerance < float("inf"):
        raise SpecError("--tolerance", f"{args.tolerance}", "0 or more")
    if args.json is not None:
        check_target(args.json, RegressionError)
    sides = load()
    if len(sides) > MAX_SIDES:
        raise SpecError("OTHER", f"{len(sides)} sides", f"at most {MAX_SIDES}")
    comparison = compare_sides(sides, args.figures, thresholds, args.tolerance)
    judged = bool(getattr(args, "fail_on_worse", True))
    print_comparison(comparison, judged)
    if args.json is not None:
        write_file(args.json, comparison_json(comparison).encode(), RegressionError)
    return comparison.outcome


def _refuse(args: argparse.Namespace, *options: str) -> None:
    """Refuse options that would do nothing."""
    for option in options:
        if getattr(args, option.removeprefix("--").replace("-", "_")):
            alone = "a comparison, which has no page" if args.others else "one job alone"
            raise SpecError(option, f"does nothing for {alone}", "", "leave it out")


REPORT = Command("report", "show a finished job again, or several side by side", _add)
