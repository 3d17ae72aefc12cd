"""The ``rdm-batch`` command: parse, call, print.

One file per group of commands. Each declares its arguments, most of them taken from spec
models, and calls what does the work in the layers below. The arguments of a command are
made when it is chosen, and what it runs is imported when it runs, so that ``--help``
answers at once. A new command is one line in ``COMMANDS`` and its file.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from rdm_batch import __version__
from rdm_batch.cli import bench, checkpoint, database, evaluate, report, samples, train
from rdm_batch.cli.options import Command
from rdm_batch.errors import expected

INTERRUPTED = 130
"""Exit status of a program ended by Ctrl-C, as shells have it."""

COMMANDS: tuple[Command, ...] = (
    report.REPORT,
    database.DATABASE,
    train.TRAIN,
    evaluate.EVALUATE,
    evaluate.REFERENCE,
    checkpoint.CHECKPOINT,
    samples.SAMPLES,
    samples.EXPORT,
    bench.BENCH,
)


def build_parser(only: str | None = None) -> argparse.ArgumentParser:
    """Build the argument parser.

    Args:
        only: Name of the one command whose arguments are wanted; the others are known by
            name. None: the arguments of every command.
    """
    parser = argparse.ArgumentParser(
        prog="rdm-batch",
        description="Build, train and judge what jobs (python -m rdm_batch.run) are made of and "
        "leave behind.",
    )
    parser.add_argument("--version", action="version", version=f"rdm-batch {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        subparser = subparsers.add_parser(command.name, help=command.summary)
        subparser.description = f"{command.summary[0].upper()}{command.summary[1:]}."
        if only in (None, command.name):
            command.add(subparser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments without the program name. None means ``sys.argv[1:]``.

    Returns:
        The exit status: 0 done, 1 an expected failure (printed without a traceback), 130
        interrupted; of commands that judge also those of ``regression.records.EXIT_CODES``.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    chosen = next((text for text in arguments if not text.startswith("-")), "")
    args = build_parser(chosen).parse_args(arguments)
    try:
        status: int = args.run(args)
    except Exception as error:
        failure = expected(error)
        if failure is None:
            raise
        print(f"error: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on or begins again", file=sys.stderr)
        return INTERRUPTED
    return status
