"""Read documents: what they show as code, where, and what they link to."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in (
        "*.md",
        "*.yaml",
        "docs/**/*.md",
        "jobs/*.yaml",
        "rdm_batch/assets/**/*.md",
        "rdm_batch/assets/**/*.yaml",
        "benchmarks/**/README.md",
    )
    for path in ROOT.glob(pattern)
)

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?:(?<=\n\n)|\A)(?: {4}.*\n|\n(?= {4}))+")
_SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_COMMENTS = re.compile(r"(?:^ *#.*\n)+", re.MULTILINE)


@dataclass(frozen=True)
class Document:
    """Hold what a document shows: blocks of code with their language, spans, links."""

    text: str
    blocks: tuple[tuple[str, str], ...]
    spans: tuple[str, ...]
    links: tuple[str, ...]


def read_document(path: Path) -> Document:
    """Read Markdown, or the comments of a YAML file as if they were Markdown."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return read_markdown(text)
    comments = "\n".join(
        re.sub(r"^ *# ?", "", block, flags=re.MULTILINE) for block in _COMMENTS.findall(text)
    )
    # Comments indent code by two.
    read = read_markdown(re.sub(r"^ {2}", " " * 4, comments, flags=re.MULTILINE))
    return Document(text, read.blocks, read.spans, read.links)


def read_markdown(text: str) -> Document:
    """Take a Markdown text apart."""
    blocks = [(match[1], match[2]) for match in _FENCE.finditer(text)]
    rest = _FENCE.sub("\n", text)
    blocks += [("", match[0]) for match in _INDENTED.finditer(rest)]
    rest = _INDENTED.sub("\n", rest)
    spans = [" ".join(span.replace("\\|", "|").split()) for span in _SPAN.findall(rest)]
    return Document(text, tuple(blocks), tuple(spans), tuple(_LINK.findall(rest)))


def command_lines(block: str) -> Iterator[str]:
    """List the lines of a block of shell, continued ones joined, loops unrolled."""
    values: dict[str, list[str]] = {}
    for line in re.sub(r"\\\n\s*", " ", block).splitlines():
        line = line.strip().removeprefix("$ ")
        loop = re.match(r"for (\w+) in ([^;]+); do", line)
        if loop:
            values[loop[1]] = loop[2].split()
        elif line == "done":
            values.clear()
        elif line:
            for chosen in itertools.product(*values.values()):
                filled = line
                for name, value in zip(values, chosen, strict=True):
                    filled = filled.replace(f"${name}", value)
                yield filled


def anchors(text: str) -> set[str]:
    """List the anchors of a Markdown text's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
