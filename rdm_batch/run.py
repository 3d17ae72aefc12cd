"""Run a job: ``python -m rdm_batch.run jobs/quickstart.yaml``."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from rdm_batch.cli import INTERRUPTED
from rdm_batch.cli.options import NOT_READY, add_address
from rdm_batch.errors import expected
from rdm_batch.reports.progress import Progress

if TYPE_CHECKING:
    from rdm_batch.reports.run_report import RunReport
    from rdm_batch.specs.job import JobSpec


def build_parser() -> argparse.ArgumentParser:
    """Build the argument parser."""
    parser = argparse.ArgumentParser(
        prog="python -m rdm_batch.run",
        description="Generate the samples a job file asks for, score them, and report. "
        "Running the same job again completes what is missing.",
    )
    parser.add_argument("job", type=Path, help="job file (YAML); see docs/job-spec.md")
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY.PATH=VALUE",
        help="override a field of the job; the value is YAML; may be given several times",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check everything, say what is missing, and print the plan; start nothing and write "
        "nothing; exit with 0 if the job is ready to run, 3 if not",
    )
    add_address(parser, "auto inside a submitted job or with RAY_ADDRESS set, else local")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a job from the command line.

    Args:
        argv: Arguments without the program name. None means ``sys.argv[1:]``.

    Returns:
        The exit status: 0 done (of a dry run: ready), 1 an expected failure (printed without a
        traceback), 3 a valid job that is not ready to run (a dry run's), 130 interrupted.
    """
    args = build_parser().parse_args(argv)
    try:
        from rdm_batch.specs.load import is_sweep

        swept = is_sweep(args.job, args.overrides)
        if args.dry_run:
            if swept:
                from rdm_batch.sweeps.plan import dry_run
            else:
                from rdm_batch.generation.preflight import dry_run

            text, ready = dry_run(args.job, args.overrides)
            print(text)
            return 0 if ready else NOT_READY
        with Progress() as progress:
            # As a log is read, what everybody imports is no news.
            with progress.step("load the program", quiet_s=15.0):
                from rdm_batch.generation.job import run_job
                from rdm_batch.reports.sweep_table import print_sweep
                from rdm_batch.reports.table import print_summary
                from rdm_batch.sweeps.sweep import run_sweep
            if swept:
                found, page = run_sweep(args.job, args.overrides, args.address, progress)
            else:
                report, page = run_job(args.job, args.overrides, args.address, progress)
        if swept:
            print_sweep(found)
        else:
            print_summary(report)
        print(f"page: {page}")
    except Exception as error:
        failure = expected(error)
        if failure is None:
            raise
        print(f"error: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        again = shlex.join(
            ["python", "-m", "rdm_batch.run", *(sys.argv[1:] if argv is None else argv)]
        )
        print(f"interrupted; what is stored is safe. Resume with:\n  {again}", file=sys.stderr)
        return INTERRUPTED
    return 0


class _Callable(ModuleType):
    """Let this module be the function ``rdm_batch.run`` of the interface as well.

    Whoever imports it sets that name to it, after which a function of the name is out of reach.
    """

    def __call__(self, job: JobSpec, address: str | None = None) -> RunReport:
        """Run a job; see ``generation.job.run``."""
        from rdm_batch.generation.job import run

        return run(job, address)


sys.modules[__name__].__class__ = _Callable


if __name__ == "__main__":
    status = main()
    if status == INTERRUPTED:
        # Without Ray, threads of this process would finish their shards first.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
