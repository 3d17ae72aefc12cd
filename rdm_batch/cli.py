"""Entry point of the ``rdm-batch`` command: parse, call, print.

Each subcommand has one ``_add_*`` function that declares its arguments and names the
function to call. What a command does lives in ``pipelines``; imports are made when a
command runs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from rdm_batch import __version__
from rdm_batch.errors import RdmBatchError

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def build_parser() -> argparse.ArgumentParser:
    """Build the argument parser with every subcommand."""
    parser = argparse.ArgumentParser(prog="rdm-batch", description=__doc__.splitlines()[0])
    parser.add_argument("--version", action="version", version=f"rdm-batch {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_report(commands)
    _add_train(commands)
    return parser


def _add_report(commands: Commands) -> None:
    parser = commands.add_parser(
        "report",
        help="show a finished job again, or two side by side",
        description="Print the summary of a finished job and write its page again, from saved "
        "results alone. With two jobs, print them side by side and say what keeps them from "
        "being compared.",
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
        help="difference between two runs that counts as noise (default: 0.05)",
    )
    parser.add_argument(
        "--fail-on-worse",
        action="store_true",
        help="exit with status 2 when a figure of OTHER is worse than that of URI",
    )
    parser.set_defaults(run=_run_report)


def _run_report(args: argparse.Namespace) -> int:
    from rdm_batch.reports.command import show_comparison, show_report

    if args.other is None:
        show_report(args.uri, args.out)
        return 0
    worse = show_comparison(args.uri, args.other, args.tolerance)
    return 2 if worse and args.fail_on_worse else 0


def _add_train(commands: Commands) -> None:
    train = commands.add_parser("train", help="train an encoder, an autoencoder or a head")
    kinds = train.add_subparsers(dest="kind", required=True, metavar="KIND")
    for kind, summary in (
        ("clip", "the image and text encoder"),
        ("autoencoder", "the autoencoder under a diffusion head"),
        ("rdm", "a retrieval-augmented diffusion head"),
    ):
        parser = kinds.add_parser(
            kind,
            help=summary,
            description=f"Train {summary}. Writes weights.safetensors, checkpoint.pt, pictures "
            "and training.json.",
        )
        parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="YAML")
        parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
        parser.add_argument(
            "--resume", action="store_true", help="continue from checkpoint.pt in FOLDER"
        )
        parser.set_defaults(run=_run_train)


def _run_train(args: argparse.Namespace) -> int:
    from rdm_batch.pipelines.train import train

    print(train(args.kind, args.config, args.out, args.resume))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand.

    Args:
        argv: Arguments without the program name. None means ``sys.argv[1:]``.

    Returns:
        The exit status: 0 done, 1 an expected failure (printed without a traceback).
    """
    args = build_parser().parse_args(argv)
    try:
        status: int = args.run(args)
    except RdmBatchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return status


if __name__ == "__main__":
    sys.exit(main())
