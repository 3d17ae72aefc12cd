"""Write ``docs/commands.md`` from the parsers, so that every option is described once."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from rdm_batch.cli import build_parser

_HEADER = """# The commands

Made from the parsers of `rdm-batch` by `make docs`; most options and their help come from the
models in `rdm_batch/specs/`. A job is run by `python -m rdm_batch.run` ([job file](job-spec.md)).
A URI is a path, `s3://bucket/key`, or `package://name` for a file that ships with this package.
"""


def command_reference() -> str:
    """Describe every command and its options as Markdown."""
    return "\n".join([_HEADER, *_sections(build_parser())]).rstrip() + "\n"


def _sections(parser: argparse.ArgumentParser) -> Iterator[str]:
    # argparse has no public way to look into a parser.
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            summaries = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, inner in action.choices.items():
                if not any(isinstance(one, argparse._SubParsersAction) for one in inner._actions):
                    about = inner.description or f"{summaries[name]}."
                    yield f"## `{inner.prog}`\n\n{about[0].upper()}{about[1:]}\n"
                    yield from _table(inner)
                else:
                    yield from _sections(inner)


def _table(parser: argparse.ArgumentParser) -> Iterator[str]:
    yield "| argument | meaning |"
    yield "|---|---|"
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction) or action.help == argparse.SUPPRESS:
            continue
        meaning = (action.help or "") % {"default": action.default}
        if action.option_strings and action.required:
            meaning = f"{meaning} (required)".strip()
        cells = (f"`{_written(action)}`", meaning)
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
    yield ""


def _written(action: argparse.Action) -> str:
    value = "" if action.nargs == 0 else str(action.metavar or (action.dest).upper())
    if action.choices is not None:
        value = "|".join(map(str, action.choices))
    if action.nargs == "+":
        value = f"{value} ..."
    if action.nargs == "?":
        value = f"[{value}]"
    return " ".join([*action.option_strings[:1], value]).strip()


if __name__ == "__main__":
    print(command_reference(), end="")
