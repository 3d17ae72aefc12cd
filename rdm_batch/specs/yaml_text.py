"""Read YAML that anybody may have written: job files, training settings, architectures, values.

What a text stands for is bounded before it is built. Aliases make a few lines stand for billions
of values, depth makes whoever walks them later run out of stack, and tags of plain values accept
texts that Python's own conversions then choke on.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Hashable
from datetime import date
from pathlib import Path
from typing import Any, Final

import yaml

from rdm_batch.errors import SpecError
from rdm_batch.files import read_limited

MAX_FILE_BYTES: Final = 1 << 20
"""Bytes of a file of settings. The largest that ships has 2 KB, and PyYAML reads about one MB in a
second; long lists go into files of prompts."""
MAX_NODES: Final = 100_000
"""Values a text may stand for, keys counted and aliases written out."""
MAX_CHARACTERS: Final = MAX_FILE_BYTES
"""Characters of all these values together."""
MAX_DEPTH: Final = 32
"""Mappings and lists inside each other; a job file has five."""
MAX_NUMBER_CHARACTERS: Final = 100
"""Characters of a number. Python refuses to print one of more than 4,300 digits."""

_TAG = "tag:yaml.org,2002:"
_PLAIN_KEYS = (str, int, float, date, type(None))
# A lone half of a character, and what ends a text for the operating system.
_NO_TEXT = re.compile("[\x00\ud800-\udfff]")


def read_yaml(path: Path) -> object:
    """Read what a YAML file stands for; no tag can run code.

    Args:
        path: A UTF-8 file of at most ``MAX_FILE_BYTES``.

    Raises:
        SpecError: The file cannot be read, is no YAML, or stands for more than is allowed.
    """
    where = str(path)
    data = read_limited(path, MAX_FILE_BYTES, SpecError)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SpecError(where, f"byte {error.start} is not UTF-8", "UTF-8 text") from None
    return parse_yaml(text, where)


def parse_yaml(text: str, where: str) -> object:
    """Read what a YAML text stands for; as ``read_yaml``.

    Args:
        text: The text.
        where: Named in messages.

    Raises:
        SpecError: It is no YAML, or stands for more than is allowed.
    """
    try:
        loader = _Loader(text)  # which refuses characters that YAML does not have
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise SpecError(where, f"is not YAML ({_one_line(error)})") from None


class _Loader(yaml.SafeLoader):
    """Bound what is read, refuse what plain YAML takes silently, and fail in one way."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Refuse a text while it is read that will be too deep or too much."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        self._depth += 1
        self._nodes += 1
        if self._depth > MAX_DEPTH:
            raise _refusal(f"more than {MAX_DEPTH} levels inside each other", event.start_mark)
        if self._nodes > MAX_NODES:
            raise _refusal(f"more than {MAX_NODES:,} values", event.start_mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def compose_document(self) -> yaml.Node | None:
        """Refuse a document that stands for too much once its aliases are written out."""
        node = super().compose_document()
        if node is not None:
            _Extent().of(node, 0)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Build a value; one its own tag does not fit is no YAML."""
        _check_scalar(node)
        try:
            return super().construct_object(node, deep)
        except (
            # What a text of the wrong kind leads PyYAML's own conversions to raise.
            *(ValueError, TypeError, KeyError, IndexError, AttributeError),
            *(OverflowError, binascii.Error),
        ):
            kind = str(node.tag).removeprefix(_TAG)
            raise _refusal(f"this is no {kind}", node.start_mark) from None

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict[Any, Any]:
        """Refuse a key that stands twice: plain YAML silently keeps the last one."""
        seen: set[Hashable] = set()
        if not isinstance(node, yaml.MappingNode):
            raise _refusal("this is no mapping", node.start_mark)
        for key_node, _ in node.value:
            if key_node.tag == f"{_TAG}merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, _PLAIN_KEYS):
                raise _refusal("a key is not a plain value", key_node.start_mark)
            if key in seen:
                raise _refusal(f"key {key!r} stands twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


class _Extent:
    """Measure what a document stands for, each part of it once."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[int, int, int] | None] = {}

    def of(self, node: yaml.Node, depth: int) -> tuple[int, int, int]:
        """Count a node's values, characters and levels, aliases written out.

        Raises:
            yaml.constructor.ConstructorError: They are too many, or a node holds itself.
        """
        known = self._known.get(id(node), ())
        if known is None:
            raise _refusal("an alias stands inside what it names", node.start_mark)
        if known:
            nodes, characters, levels = known
        else:
            self._known[id(node)] = None
            nodes, characters, levels = 1, 0, 1
            if isinstance(node, yaml.ScalarNode):
                characters = len(node.value)
            for child in _children(node):
                child_nodes, child_characters, child_levels = self.of(child, depth + 1)
                nodes += child_nodes
                characters += child_characters
                levels = max(levels, 1 + child_levels)
            self._known[id(node)] = nodes, characters, levels
        for found, limit, unit in (
            (depth + levels, MAX_DEPTH + 1, "levels inside each other"),
            (nodes, MAX_NODES, "values"),
            (characters, MAX_CHARACTERS, "characters"),
        ):
            if found > limit:
                what = f"aliases make this more than {limit:,} {unit}"
                raise _refusal(what, node.start_mark)
        return nodes, characters, levels


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _check_scalar(node: yaml.Node) -> None:
    if not isinstance(node, yaml.ScalarNode):
        return
    if node.tag in (f"{_TAG}int", f"{_TAG}float") and len(node.value) > MAX_NUMBER_CHARACTERS:
        what = f"a number of {len(node.value):,} characters"
        raise _refusal(f"{what}, more than {MAX_NUMBER_CHARACTERS}", node.start_mark)
    if _NO_TEXT.search(node.value):
        raise _refusal("holds a character that no text has", node.start_mark)


def _refusal(what: str, mark: yaml.Mark) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, what, mark)


def _one_line(error: Exception) -> str:
    # The name that PyYAML has for a text says nothing; where it came from is told before.
    return " ".join(str(error).replace('in "<unicode string>", ', "").split())
