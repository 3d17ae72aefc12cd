"""``rdm-batch samples`` and ``export``: check sample sets, and hand them on."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from rdm_batch.cli.options import Command, Options

if TYPE_CHECKING:
    from rdm_batch.specs.export import SampleExport


def _add_samples(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    check = actions.add_parser(
        "check",
        help="compare every file with its digest",
        description="Read every file of a sample set and compare it with what was recorded when "
        "it was stored. Prints one line per problem and exits with status 1 when there is one.",
    )
    check.add_argument("uri", metavar="URI", help="sample set, path or s3://")
    check.set_defaults(run=_run_check)


def _run_check(args: argparse.Namespace) -> int:
    from rdm_batch.export import check_samples
    from rdm_batch.reports.progress import Progress

    with Progress() as progress:
        problems = check_samples(args.uri, progress)
    for problem in problems:
        print(f"{args.uri}: {problem}")
    found = f"{len(problems):,} problem{'s' if len(problems) != 1 else ''}"
    print(f"{args.uri}: {found if problems else 'complete'}")
    return 1 if problems else 0


def _export() -> Options[SampleExport]:
    from rdm_batch.specs.export import SampleExport

    return Options(SampleExport, {"samples": "SAMPLES"})


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Write a sample set as one file or a folder that other tools read. Run again, a folder is "
        "completed."
    )
    _export().add_to(parser)
    parser.set_defaults(run=_run_export)


def _run_export(args: argparse.Namespace) -> int:
    from rdm_batch.export import export_samples

    request = _export().build(args)
    written = export_samples(request.samples, request.format, request.out, request.allow_partial)
    print(
        f"{request.out}: {written.num_samples:,} samples in {written.num_files:,} "
        f"file{'s' if written.num_files != 1 else ''}, {written.num_bytes:,} bytes"
    )
    return 0


SAMPLES = Command("samples", "check a sample set", _add_samples)
EXPORT = Command("export", "give a sample set to other tools", _add_export)
