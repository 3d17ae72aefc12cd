"""JSON that others wrote."""

from __future__ import annotations

import json
from typing import Any, Final

from rdm_batch.formats.format_error import FormatError

MAX_DEPTH: Final = 64
"""Objects and lists inside each other. What is written here has fewer than ten, and whoever walks
a value later runs out of stack where its depth has no bound."""


def parse_json(text: str | bytes) -> Any:
    """Read JSON whose values are of bounded depth and can be printed.

    Raises:
        FormatError: It is damaged, nested deeper than ``MAX_DEPTH``, or holds a number that is none
            (NaN, Infinity) or has thousands of digits, or half a character.
    """
    try:
        value = json.loads(text, parse_constant=_refuse)
        if "\\u" in text if isinstance(text, str) else b"\\u" in text:
            # Half a character, as an escape can name it, is nothing that can be printed.
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise FormatError("its JSON nests too deep") from None
    except ValueError as problem:
        raise FormatError(f"its JSON is damaged: {problem}") from None
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [child for part in level for child in _children(part)]
        if not level:
            return value
    raise FormatError("its JSON nests too deep")


def _children(value: Any) -> list[Any]:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [part for part in parts if isinstance(part, dict | list)]


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")
