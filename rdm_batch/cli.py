"""Entry point of the ``rdm-batch`` command: parse, call, print.

Each subcommand has one ``_add_*`` function that declares its arguments and names the
function to call. What a command does lives in ``pipelines``; imports are made when a
command runs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from rdm_batch import __version__
from rdm_batch.errors import RdmBatchError


def build_parser() -> argparse.ArgumentParser:
    """Build the argument parser with every subcommand."""
    parser = argparse.ArgumentParser(prog="rdm-batch", description=__doc__.splitlines()[0])
    parser.add_argument("--version", action="version", version=f"rdm-batch {__version__}")
    parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    return parser


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
