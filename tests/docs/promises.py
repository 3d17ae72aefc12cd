"""Compare what a document says of commands, fields and files with what is there."""

from __future__ import annotations

import re
from pathlib import Path

from tests.docs.commands import command_problems, commands, option_problems, subcommands
from tests.docs.documents import ROOT, Document, anchors, command_lines
from tests.docs.fields import is_field, is_name, setting_problems, yaml_problems

_PACKAGE = ROOT / "rdm_batch"
_DOTTED = re.compile(r"[a-z][a-z0-9_]*(\.[a-z_][a-z0-9_]*)+")
_KEY_VALUE = re.compile(r"([a-z_]+): (.+)")
_PATH = re.compile(r"[\w.-]+(/[\w.-]*)+")
_FILES = {"py", "yaml", "yml", "json", "md", "html", "j2", "npz", "png", "parquet", "safetensors"}
_FILES |= {"p", "pt", "pth", "ckpt", "toml", "tar", "txt", "csv"}


def find_problems(path: Path, document: Document) -> list[str]:
    """List everything a document promises that is not so.

    Args:
        path: Where it stands; links are relative to it.
        document: What it shows.
    """
    problems: list[str] = []
    for language, block in document.blocks:
        if language == "yaml":
            problems += yaml_problems(block)
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


def _span_problems(span: str, path: Path) -> list[str]:
    programs = ("rdm-batch ", "python -m ", ".venv/bin/python -m ", "ray job submit ", "make ")
    if span.startswith(programs):
        return command_problems(span, mention=len(span.split()) <= 3)
    if span.startswith("--"):
        return option_problems(span)
    words = span.split()
    command = subcommands(commands()).get(words[0]) if words else None
    names_action = command is not None and len(words) > 1 and subcommands(command)
    if names_action and not _KEY_VALUE.fullmatch(span):
        return command_problems(f"rdm-batch {span}", mention=True)
    key, equals, _ = span.partition("=")
    if _DOTTED.fullmatch(key) and (equals or key.rpartition(".")[2] not in _FILES):
        return [] if is_field(key) or is_name(key) else [f"{key} is no field of a job or training"]
    if match := _KEY_VALUE.fullmatch(span):
        return setting_problems(match[1], match[2])
    if re.fullmatch(r"\w+\.py", span):
        there = any((folder / span).exists() for folder in (ROOT, _PACKAGE, path.parent))
        return [] if there else [f"{span} does not exist"]
    if _PATH.fullmatch(span):
        return _path_problems(span, path)
    return []


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
