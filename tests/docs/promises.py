"""Compare what a document says of commands, fields and files with what is there."""

from __future__ import annotations

import argparse
import ast
import contextlib
import functools
import importlib.util
import io
import itertools
import pkgutil
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, get_args

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

from rdm_batch import cli, run
from rdm_batch.errors import RdmBatchError
from rdm_batch.specs.job import EvaluationSpec, JobSpec
from rdm_batch.specs.load import load_job, parse_job
from rdm_batch.specs.training import TrainingSpec, load_training
from tests.docs.documents import ROOT, Document, anchors, command_lines

_PACKAGE = ROOT / "rdm_batch"
_DOTTED = re.compile(r"[a-z][a-z0-9_]*(\.[a-z_][a-z0-9_]*)+")
_KEY_VALUE = re.compile(r"([a-z_]+): (.+)")
_PATH = re.compile(r"[\w.-]+(/[\w.-]*)+")
_FILES = {"py", "yaml", "yml", "json", "md", "html", "j2", "npz", "png", "parquet", "safetensors"}
_FILES |= {"p", "pt", "pth", "ckpt", "toml", "tar", "txt"}
_PLACEHOLDER = re.compile(r"[A-Z_]{2,}")


@functools.cache
def _commands() -> argparse.ArgumentParser:
    return cli.build_parser()


def find_problems(path: Path, document: Document) -> list[str]:
    """List everything a document promises that is not so.

    Args:
        path: Where it stands; links are relative to it.
        document: What it shows.
    """
    problems: list[str] = []
    for language, block in document.blocks:
        if language == "yaml":
            problems += _yaml_problems(block)
        elif language in ("", "sh", "bash", "console"):
            for line in command_lines(block):
                problems += command_problems(line)
    for span in document.spans:
        problems += _span_problems(span, path)
    for link in document.links:
        problems += _link_problems(link, path)
    for name in re.findall(r"package://([\w./-]*\w)", document.text):
        if name not in ("name", "...") and not (_PACKAGE / "assets" / name).exists():
            problems.append(f"package://{name} does not exist")
    return problems


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
            return _arguments(_commands(), arguments, open_ended, line)
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
        for check in (_job, _training, _scores):
            problems += check(args)
    return [f"{line}: {problem}" for problem in problems]


def _unknown(parser: argparse.ArgumentParser, arguments: list[str]) -> Iterator[str]:
    """Find what no full command line could contain either: other commands, other options."""
    position = 0
    while (actions := _subcommands(parser)) and position < len(arguments):
        if arguments[position] not in actions:
            yield f"no command {arguments[position]}"
            return
        parser = actions[arguments[position]]
        position += 1
    for argument in arguments[position:]:
        option = argument.partition("=")[0]
        if option.startswith("--") and option not in parser._option_string_actions:
            yield f"no option {argument}"


def _subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
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
            load_job(ROOT / args.job, overrides)
        except RdmBatchError as error:
            return [str(error)]
        return []
    missing = [f"{args.job} does not exist"] if args.job.parts[0] == "jobs" else []
    return missing + [
        f"--set {text} sets no field of a job"
        for text in overrides
        if not _resolves(text.partition("=")[0].split("."), [JobSpec])
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


def _span_problems(span: str, path: Path) -> list[str]:
    programs = ("rdm-batch ", "python -m ", ".venv/bin/python -m ", "ray job submit ", "make ")
    if span.startswith(programs):
        return command_problems(span, mention=len(span.split()) <= 3)
    if span.startswith("--"):
        return _option_problems(span)
    words = span.split()
    command = _subcommands(_commands()).get(words[0]) if words else None
    names_action = command is not None and len(words) > 1 and _subcommands(command)
    if names_action and not _KEY_VALUE.fullmatch(span):
        return command_problems(f"rdm-batch {span}", mention=True)
    key, equals, _ = span.partition("=")
    if _DOTTED.fullmatch(key) and (equals or key.rpartition(".")[2] not in _FILES):
        return (
            [] if _is_field(key) or _is_name(key) else [f"{key} is no field of a job or training"]
        )
    if match := _KEY_VALUE.fullmatch(span):
        return _setting_problems(match[1], match[2])
    if re.fullmatch(r"\w+\.py", span):
        there = any((folder / span).exists() for folder in (ROOT, _PACKAGE, path.parent))
        return [] if there else [f"{span} does not exist"]
    if _PATH.fullmatch(span):
        return _path_problems(span, path)
    return []


def _option_problems(span: str) -> list[str]:
    tokens = span.replace("|", " ").split()
    known = {"--format"} | _all_options(_commands()) | _all_options(run.build_parser())
    problems = [
        f"no command has the option {token}"
        for token in tokens
        if token.startswith("--") and token not in known
    ]
    for option, value in itertools.pairwise(tokens):
        key = value.partition("=")[0]
        if option == "--set" and not _resolves(key.split("."), [JobSpec]):
            problems.append(f"--set {value} sets no field of a job")
    return problems


def _all_options(parser: argparse.ArgumentParser) -> set[str]:
    found = set(parser._option_string_actions)
    for inner in _subcommands(parser).values():
        found |= _all_options(inner)
    return found


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


def _reachable() -> list[type[BaseModel]]:
    waiting = [JobSpec, *_models_in(TrainingSpec)]
    found: list[type[BaseModel]] = []
    while waiting:
        model = waiting.pop()
        if model not in found:
            found.append(model)
            for field in model.model_fields.values():
                waiting += _models_in(field.annotation)
    return found


def _resolves(parts: list[str], models: list[type[BaseModel]]) -> bool:
    fields = [model.model_fields[parts[0]] for model in models if parts[0] in model.model_fields]
    if not fields or len(parts) == 1:
        return bool(fields)
    return any(
        _resolves(parts[1:], list(_models_in(field.annotation))) or "dict" in str(field.annotation)
        for field in fields
    )


def _is_field(dotted: str) -> bool:
    """Say whether a job or a training file has the field; a path may begin inside a part."""
    parts = dotted.split(".")
    if parts[0] in JobSpec.model_fields:
        return _resolves(parts, [JobSpec])
    return _resolves(parts, _reachable())


def _is_name(dotted: str) -> bool:
    """Say whether a Python name exists."""
    if importlib.util.find_spec(dotted.partition(".")[0]) is None:
        return False
    try:
        pkgutil.resolve_name(dotted)
    except (ImportError, AttributeError):
        return False
    return True


def _setting_problems(key: str, text: str) -> list[str]:
    fields = [model.model_fields[key] for model in _reachable() if key in model.model_fields]
    if not fields:
        return [f"{key}: {text} sets no field of a job or training"]
    if _PLACEHOLDER.search(text):
        return []
    value = yaml.safe_load(text)
    for field in fields:
        with contextlib.suppress(ValidationError):
            TypeAdapter(Annotated[field.annotation, field]).validate_python(value)
            return []
    return [f"{key}: {text} is not a value it takes"]


def _yaml_problems(block: str) -> list[str]:
    document = yaml.safe_load(block)
    if not isinstance(document, dict):
        return []
    if "train" in document:
        adapter: TypeAdapter[Any] = TypeAdapter(TrainingSpec)
        document, adapters = {"settings": document}, {"settings": adapter}
    elif {"name", "model", "output"} <= set(document):
        try:
            parse_job(document, "job")
        except RdmBatchError as error:
            return [str(error)]
        return []
    else:
        adapters = {
            name: TypeAdapter(Annotated[field.annotation, field])
            for name, field in JobSpec.model_fields.items()
        }
    problems = [f"{name} is no part of a job" for name in document if name not in adapters]
    for name, adapter in adapters.items():
        if name in document:
            try:
                adapter.validate_python(document[name])
            except ValidationError as error:
                problems.append(f"{name}: {error.errors()[0]['loc']}: {error.errors()[0]['msg']}")
    return problems


def _path_problems(span: str, path: Path) -> list[str]:
    roots = (ROOT, _PACKAGE, path.parent)
    if any((root / span).exists() for root in roots):
        return []
    first = span.partition("/")[0]
    here = any((root / first).is_dir() for root in (ROOT, _PACKAGE)) and first != "out"
    return [f"{span} does not exist"] if here or span.endswith(".py") else []


def _link_problems(link: str, path: Path) -> list[str]:
    if re.match(r"[a-z]+://|mailto:", link):
        return []
    target, _, anchor = link.partition("#")
    file = path.parent / target if target else path
    if not file.exists():
        return [f"the link {link} leads nowhere"]
    if anchor and anchor not in anchors(file.read_text(encoding="utf-8")):
        return [f"the link {link} names no heading"]
    return []
