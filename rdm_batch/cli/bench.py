"""``rdm-batch bench``: suites of jobs, run again and again and held against what was accepted."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rdm_batch.cli.options import NOT_READY, Command, add_address
from rdm_batch.cli.report import add_comparing, compare_and_print
from rdm_batch.files import check_target, write_file

if TYPE_CHECKING:
    from rdm_batch.regression.suite import Suite

_SUITE = "suite file (YAML); see docs/nightly.md"
_HISTORY = "folder or s3://bucket/prefix of the history of runs"
_CODES = (
    "Exit status: 0 pass, 3 fail, 4 undecided, 5 no baseline, 6 not comparable; 1 where nothing "
    "could be judged, 2 for wrong usage."
)


def _add(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_run(actions)
    _add_history(actions)
    _add_compare(actions)
    _add_bisect(actions)
    _add_page(actions)
    _add_accept(actions)
    _add_prune(actions)


def _add_run(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    run = actions.add_parser(
        "run",
        help="run the jobs of a suite, judge them, and add the run to a history",
        description="Run every job of a suite anew, hold what it gives against the accepted "
        f"baseline, and add the run to a history. {_CODES}",
    )
    run.add_argument("suite", type=Path, metavar="SUITE", help=_SUITE)
    run.add_argument("--history", metavar="URI", help=f"{_HISTORY} (needed unless --dry-run)")
    run.add_argument(
        "--seeds",
        type=int,
        default=1,
        metavar="N",
        help="run jobs with gate 3 with so many seeds (3 or more); from their scores come its "
        "bounds, which count once they are accepted (default: %(default)s)",
    )
    run.add_argument(
        "--against",
        type=Path,
        metavar="FOLDER",
        help="another checkout of this program: gate 4 runs every job with both in turn, instead "
        "of looking for steps in the history",
    )
    run.add_argument(
        "--pairs",
        type=int,
        metavar="N",
        help="with --against, how often each of the two is run at most; it ends when the figure "
        "that decides does (default: 40, at least 6)",
    )
    run.add_argument("--junit", type=Path, metavar="FILE", help="write the verdicts as JUnit XML")
    run.add_argument(
        "--annotations",
        action="store_true",
        help="print the verdicts as GitHub's workflow commands as well",
    )
    run.add_argument(
        "--dry-run",
        action="store_true",
        help="check the suite and all its jobs, say what is missing, and print the plan; exit "
        "with 0 if it is ready to run",
    )
    add_address(run, "auto inside a submitted job or with RAY_ADDRESS set, else local")
    run.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from rdm_batch.errors import RegressionError, SpecError
    from rdm_batch.regression.baseline import load_baseline
    from rdm_batch.regression.ci import annotation_lines, junit_xml
    from rdm_batch.regression.history import History
    from rdm_batch.regression.interleave import check_checkout
    from rdm_batch.regression.nightly import run_suite, start_run
    from rdm_batch.regression.records import EXIT_CODES
    from rdm_batch.regression.statistics.ratios import LEAST_PAIRS, MOST_PAIRS
    from rdm_batch.regression.suite import check_jobs, load_suite
    from rdm_batch.regression.tables import print_run
    from rdm_batch.reports.progress import Progress

    suite = load_suite(args.suite)
    if args.dry_run:
        return _dry_run(suite)
    if args.history is None:
        raise SpecError("--history", "is missing", "where the run is to be added")
    if args.seeds != 1 and args.seeds < 3:
        raise SpecError("--seeds", f"{args.seeds}", "1, or at least 3: two give no bounds")
    if args.junit is not None:
        check_target(args.junit, RegressionError)
    pairs = MOST_PAIRS if args.pairs is None else args.pairs
    if args.pairs is not None and args.against is None:
        raise SpecError("--pairs", "stands without --against", "a checkout to run in turn with")
    if pairs < LEAST_PAIRS:
        raise SpecError("--pairs", f"{pairs}", f"{LEAST_PAIRS} or more")
    if args.against is not None:
        check_checkout(args.against)
    history = History(args.history)
    baseline = load_baseline(suite.baseline, suite.spec.name)
    run_id, notes = start_run(history, baseline)
    with Progress() as progress:
        with progress.step("check the jobs"):
            checked = check_jobs(suite, run_id)
        run = run_suite(
            suite,
            checked,
            run_id,
            history,
            baseline,
            args.address,
            progress,
            args.seeds,
            args.against,
            pairs,
        )
    print_run(run, notes)
    if args.junit is not None:
        write_file(args.junit, junit_xml(run), RegressionError)
    if args.annotations:
        print("\n".join(annotation_lines(run, str(args.suite))))
    return EXIT_CODES[run.outcome]


def _dry_run(suite: Suite) -> int:
    from rdm_batch.errors import InvalidJobError
    from rdm_batch.generation.plan import describe_plan
    from rdm_batch.regression.suite import check_jobs

    for job in suite.jobs:
        print(f"job {job.name} ({job.entry.job})")
        print("\n".join(f"  {line}" for line in describe_plan(job.job)))
        speed = job.entry.gates.speed
        if speed is not None and speed.searches is not None:
            print(f"  speed      {speed.repeats} x {speed.searches:,} searches alone")
        elif speed is not None and speed.repeated:
            print(f"  speed      {speed.repeats} runs more, not scored")
    try:
        check_jobs(suite, "dry-run")
    except InvalidJobError as error:
        print(f"{suite.path}: not ready to run, {error.found}")
        for problem in error.problems:
            print(f"  - {problem}")
        return NOT_READY
    print(f"{suite.path}: ready to run, {len(suite.jobs)} jobs")
    return 0


def _add_history(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    history = actions.add_parser(
        "history",
        help="list the runs of a history, or one figure over all of them",
        description="List the runs of a history, or with --job and --figure one figure over all "
        "of them. Files that are no runs are named and not read.",
    )
    history.add_argument("history", metavar="URI", help=_HISTORY)
    history.add_argument("--job", metavar="NAME", help="job of the suite")
    history.add_argument("--figure", metavar="NAME", help="such as fid or images_per_s")
    history.set_defaults(run=_run_history)


def _run_history(args: argparse.Namespace) -> int:
    from rdm_batch.errors import RegressionError, SpecError
    from rdm_batch.regression.history import History
    from rdm_batch.regression.tables import print_history, print_series

    if (args.job is None) != (args.figure is None):
        raise SpecError("--job and --figure", "one of them is missing", "both, or neither")
    contents = History(args.history).read()
    if args.job is None:
        print_history(contents)
        return 0
    if not print_series(contents, args.job, args.figure):
        known = sorted({f"{f.job} {f.name}" for run in contents.runs for f in run.figures})
        raise RegressionError(
            args.history,
            f"no run has a figure {args.figure!r} of a job {args.job!r}",
            f"one of {', '.join(known)}" if known else "a run",
        )
    return 0


def _add_accept(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    accept = actions.add_parser(
        "accept",
        help="make a run the baseline that later ones are held against",
        description="Write what a run has made into the suite's baseline file, to be reviewed and "
        "committed. Nothing in the history changes.",
    )
    accept.add_argument("suite", type=Path, metavar="SUITE", help=_SUITE)
    accept.add_argument(
        "wanted",
        nargs="?",
        default="latest",
        metavar="RUN",
        help="id of the run, or how it begins (default: the latest of the suite)",
    )
    accept.add_argument("--history", required=True, metavar="URI", help=_HISTORY)
    accept.add_argument(
        "--reason", required=True, metavar="TEXT", help="why it is right; stands in the file"
    )
    accept.add_argument(
        "--job", nargs="+", default=[], metavar="NAME", help="jobs to accept (default: all)"
    )
    accept.set_defaults(run=_run_accept)


def _run_accept(args: argparse.Namespace) -> int:
    from rdm_batch.regression.accept import accept
    from rdm_batch.regression.history import History
    from rdm_batch.regression.suite import load_suite

    suite = load_suite(args.suite)
    _, new = accept(suite, History(args.history), args.wanted, args.reason, args.job)
    for one in new:
        print(f"accepted {one.job} of run {one.run} on {one.machine_class}")
    print(f"{suite.baseline}: review and commit it")
    return 0


def _add_prune(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    prune = actions.add_parser(
        "prune",
        help="remove the samples that old runs of a suite have kept",
        description="Remove canaries and influences of all runs of a suite but the latest ones. "
        "What the suite's baseline file refers to stays, and so do all figures and verdicts.",
    )
    prune.add_argument("suite", type=Path, metavar="SUITE", help=_SUITE)
    prune.add_argument("--history", required=True, metavar="URI", help=_HISTORY)
    prune.add_argument(
        "--keep",
        type=int,
        default=30,
        metavar="N",
        help="how many of the latest runs keep everything (default: %(default)s)",
    )
    prune.add_argument("--dry-run", action="store_true", help="say what would go, remove nothing")
    prune.set_defaults(run=_run_prune)


def _run_prune(args: argparse.Namespace) -> int:
    from rdm_batch.regression.history import History
    from rdm_batch.regression.prune import prune
    from rdm_batch.regression.suite import load_suite
    from rdm_batch.reports.units import format_bytes, format_count

    suite = load_suite(args.suite)
    found = prune(suite, History(args.history), args.keep, really=not args.dry_run)
    what = f"{format_count(found.objects, 'object')} of {format_count(len(found.runs), 'run')}"
    done = "would be removed" if args.dry_run else "removed"
    print(f"{args.history}: {what}, {format_bytes(found.num_bytes)}, {done}")
    return 0


def _add_page(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    page = actions.add_parser(
        "page",
        help="write the page of a history",
        description="Write a static page of a history: the verdicts of the latest run, then every "
        "series with the steps found in it, named by the commits they lie between.",
    )
    page.add_argument("history", metavar="URI", help=_HISTORY)
    page.add_argument("--out", type=Path, required=True, metavar="FILE", help="the page to write")
    page.add_argument("--suite", metavar="NAME", help="default: that of the latest run")
    page.set_defaults(run=_run_page)


def _run_page(args: argparse.Namespace) -> int:
    from rdm_batch.errors import RegressionError
    from rdm_batch.regression.history import History
    from rdm_batch.regression.page import history_page

    check_target(args.out, RegressionError)
    text = history_page(History(args.history).read(), args.history, args.suite)
    write_file(args.out, text.encode(), RegressionError)
    print(f"page: {args.out}")
    return 0


def _add_compare(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    compare = actions.add_parser(
        "compare",
        help="compare runs of a history, figure by figure",
        description="Print the figures of several runs side by side, each against the first run. "
        f"Figures are named 'JOB FIGURE', such as 'rdm fid'. {_CODES}",
    )
    compare.add_argument(
        "runs", nargs="+", metavar="RUN", help="id of a run, how it begins, or latest; two or more"
    )
    compare.add_argument("--history", required=True, metavar="URI", help=_HISTORY)
    add_comparing(compare)
    compare.set_defaults(run=_run_compare)


def _run_compare(args: argparse.Namespace) -> int:
    from rdm_batch.errors import SpecError
    from rdm_batch.regression.accept import find_run
    from rdm_batch.regression.history import History
    from rdm_batch.regression.records import EXIT_CODES
    from rdm_batch.regression.sides import run_sides

    if len(args.runs) < 2:
        raise SpecError("RUN", "one run", "two or more")
    contents = History(args.history).read()
    found = [find_run(contents, wanted, args.history) for wanted in args.runs]
    return EXIT_CODES[compare_and_print(args, lambda: run_sides(found))]


def _add_bisect(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    bisect = actions.add_parser(
        "bisect",
        help="find the commit that changed samples or scores",
        description="Search the commits between GOOD and BAD with git bisect: each draws and "
        "scores the job with its own program, checked out beside the working tree, and is judged "
        "by this one. Exit status: 0 found, 4 where commits that cannot be judged hide it.",
    )
    bisect.add_argument("good", metavar="GOOD", help="commit that made what is right")
    bisect.add_argument("bad", metavar="BAD", help="later commit that does not")
    bisect.add_argument("--suite", type=Path, required=True, metavar="SUITE", help=_SUITE)
    bisect.add_argument("--job", required=True, metavar="NAME", help="job that tells them apart")
    bisect.add_argument(
        "--gate",
        choices=("identity", "paired"),
        default="identity",
        help="identity: the first commit that changes a byte of the canary; paired: the first that "
        "moves the primary score by more than its delta (default: %(default)s)",
    )
    bisect.set_defaults(run=_run_bisect)


def _run_bisect(args: argparse.Namespace) -> int:
    from rdm_batch.errors import RegressionError
    from rdm_batch.regression.bisect import bisect
    from rdm_batch.regression.records import EXIT_CODES
    from rdm_batch.regression.suite import load_suite, suggestion
    from rdm_batch.reports.progress import Progress

    suite = load_suite(args.suite)
    job = next((job for job in suite.jobs if job.name == args.job), None)
    if job is None:
        names = [job.name for job in suite.jobs]
        near = suggestion(args.job, names)
        raise RegressionError("--job", f"{args.job} is no job of the suite", ", ".join(names), near)
    with Progress() as progress:
        found = bisect(
            args.good,
            args.bad,
            job,
            suite.path.parent / job.entry.job,
            args.gate,
            progress,
            Path.cwd(),
        )
    for step in found.steps:
        print(f"{step.commit[:12]} {step.said}: {step.reason}")
    if found.commit is None:
        print("the first bad commit is among those that were skipped, or after one of them")
        return EXIT_CODES["undecided"]
    print(f"first bad commit: {found.commit} {found.subject}")
    return 0


BENCH = Command("bench", "run suites of jobs and hold them against what was accepted", _add)
