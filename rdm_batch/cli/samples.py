"""``rdm-batch samples`` and ``export``: check sample sets, and hand them on."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from rdm_batch.cli.options import Command, Options
from rdm_batch.errors import SampleSetError

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
    from rdm_batch.storage.sample_set import SampleSet

    try:
        sample_set = SampleSet.open(args.uri)
        found = sample_set.verify()
    except SampleSetError as problem:
        print(problem)
        return 1
    print(f"{args.uri}: {found.num_rows:,} samples, complete")
    return 0


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
    from rdm_batch.pipelines.export import export_samples

    request = _export().build(args)
    written = export_samples(request.samples, request.format, request.out, request.allow_partial)
    print(
        f"{request.out}: {written.num_samples:,} samples in {written.num_files:,} "
        f"file{'s' if written.num_files != 1 else ''}, {written.num_bytes:,} bytes"
    )
    return 0


SAMPLES = Command("samples", "check a sample set", _add_samples)
EXPORT = Command("export", "give a sample set to other tools", _add_export)
