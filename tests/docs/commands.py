"""Compare commands in documents with the parsers of their programs."""

from __future__ import annotations

import argparse
import ast
import contextlib
import functools
import io
import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import TypeAdapter, ValidationError

from rdm_batch import cli, run
from rdm_batch.errors import RdmBatchError
from rdm_batch.specs.job import EvaluationSpec, JobSpec
from rdm_batch.specs.load import is_sweep, load_job
from rdm_batch.specs.training import load_training
from rdm_batch.sweeps.cells import load_sweep
from tests.docs.documents import ROOT
from tests.docs.fields import resolves


@functools.cache
def commands() -> argparse.ArgumentParser:
    """Build the parser of every command, once."""
    return cli.build_parser()


def command_problems(line: str, mention: bool = False) -> list[str]:
    """Parse a command line with the parser of its program.

    Args:
        line: The line; ``[...]`` marks what may be left out, ``|`` alternatives, ``...`` more.
        mention: The line names a command in a sentence and may end after its name.
    """
    try:
        tokens = shlex.split(line, comments=True)
    except ValueError as error:
        return [f"{line}: {error}"]
    tokens = [_without_brackets(token) for token in tokens]
    open_ended = "..." in tokens
    tokens = [token for token in tokens if token not in ("...", "")]
    problems: list[str] = []
    for chosen in itertools.product(*(token.split("|") for token in tokens)):
        problems += _parse(list(chosen), open_ended or mention, line)
    return problems


def _without_brackets(token: str) -> str:
    """Take the brackets off what may be left out, and leave those inside a value."""
    token = token.removeprefix("[")
    return token[:-1] if token.count("]") > token.count("[") else token


def _parse(tokens: list[str], open_ended: bool, line: str) -> list[str]:
    match tokens:
        case ["ray", "job", "submit", *rest] if "--" in rest:
            return _parse(rest[rest.index("--") + 1 :], open_ended, line)
        case ["make", *targets]:
            made = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
            return [f"{line}: no target {name}" for name in targets if name not in made]
        case ["rdm-batch", *arguments]:
            return _arguments(commands(), arguments, open_ended, line)
        case [program, "-m", "rdm_batch.run", *arguments] if program.endswith("python"):
            return _arguments(run.build_parser(), arguments, open_ended, line)
        case [program, "-m", module, *arguments] if program.endswith("python"):
            if module.startswith("benchmarks."):
                return [f"{line}: {text}" for text in _benchmark(module, arguments)]
    return []


def _arguments(
    parser: argparse.ArgumentParser, arguments: list[str], open_ended: bool, line: str
) -> list[str]:
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            args = parser.parse_args(arguments)
    except SystemExit:
        problems = list(_unknown(parser, arguments))
        if not open_ended:
            problems = [said.getvalue().splitlines()[-1]]
    else:
        problems = list(_unknown(parser, arguments))  # no abbreviations either
        for check in (_job, _training, _scores, _weights):
            problems += check(args)
    return [f"{line}: {problem}" for problem in problems]


def _unknown(parser: argparse.ArgumentParser, arguments: list[str]) -> Iterator[str]:
    """Find what no full command line could contain either: other commands, other options."""
    position = 0
    while (actions := subcommands(parser)) and position < len(arguments):
        if arguments[position] not in actions:
            yield f"no command {arguments[position]}"
            return
        parser = actions[arguments[position]]
        position += 1
    for argument in arguments[position:]:
        option = argument.partition("=")[0]
        if option.startswith("--") and option not in parser._option_string_actions:
            yield f"no option {argument}"


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """List the commands below a parser by name."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def _job(args: argparse.Namespace) -> list[str]:
    """Load a job with its overrides, as far as the command names a file."""
    if "overrides" not in args:
        return []
    overrides = [text for text in args.overrides if text != "key.path=value"]
    if not args.job.is_absolute() and (ROOT / args.job).exists():
        try:
            load = load_sweep if is_sweep(ROOT / args.job, overrides) else load_job
            load(ROOT / args.job, overrides)
        except RdmBatchError as error:
            return [str(error)]
        return []
    missing = [f"{args.job} does not exist"] if args.job.parts[0] == "jobs" else []
    return missing + [
        f"--set {text} sets no field of a job"
        for text in overrides
        if not resolves(text.partition("=")[0].split("."), [JobSpec])
    ]


def _training(args: argparse.Namespace) -> list[str]:
    """Read the settings a training command names."""
    if "config" not in args or args.config.parts[0] != "rdm_batch":
        return []
    try:
        load_training(ROOT / args.config, args.kind)
    except RdmBatchError as error:
        return [str(error)]
    return []


def _scores(args: argparse.Namespace) -> list[str]:
    """Hold the scores a command asks for against those a job may ask for."""
    names = getattr(args, "EvaluationSpec.scores", None)
    field = EvaluationSpec.model_fields["scores"]
    try:
        if names is not None:
            TypeAdapter(Annotated[field.annotation, field]).validate_python(tuple(names))
    except ValidationError as error:
        return [error.errors()[0]["msg"]]
    return []


def _weights(args: argparse.Namespace) -> list[str]:
    """Hold what a command says of weights against what they lack: a .ckpt names no architecture."""
    named = (getattr(args, f"WeightedModel.{name}", None) for name in ("preset", "architecture"))
    if getattr(args, "uri", "").endswith(".ckpt") and not any(named):
        return ["a .ckpt needs --preset or --architecture"]
    return []


def _benchmark(module: str, arguments: list[str]) -> Iterator[str]:
    found = _source(module)
    if found is None:
        yield f"no module {module}"
        return
    known = _options_in(found)
    for argument in arguments:
        if argument.startswith("--") and argument not in known:
            yield f"{module} has no option {argument}"


def _source(module: str) -> Path | None:
    path = ROOT / module.replace(".", "/")
    candidates = (path.with_suffix(".py"), path / "__main__.py")
    return next((one for one in candidates if one.exists()), None)


def _options_in(path: Path) -> set[str]:
    """List the options that a module, or one it imports of its own package, declares."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= {node.value} if node.value.startswith("--") else set()
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("benchmarks."):
            imported = _source(str(node.module))
            found |= _options_in(imported) if imported is not None else set()
    return found


def option_problems(span: str) -> list[str]:
    """Find options no command has, and fields no job has."""
    tokens = span.replace("|", " ").split()
    known = _all_options(commands()) | _all_options(run.build_parser())
    problems = [
        f"no command has the option {token}"
        for token in tokens
        if token.startswith("--") and token not in known
    ]
    for option, value in itertools.pairwise(tokens):
        key = value.partition("=")[0]
        if option == "--set" and not resolves(key.split("."), [JobSpec]):
            problems.append(f"--set {value} sets no field of a job")
    return problems


def _all_options(parser: argparse.ArgumentParser) -> set[str]:
    found = set(parser._option_string_actions)
    for inner in subcommands(parser).values():
        found |= _all_options(inner)
    return found
