"""Read small JSON objects that anybody may have written or altered: headers, entries, records."""

from __future__ import annotations

import json
from typing import Any, Final

MAX_DEPTH: Final = 64
"""Objects and lists inside each other. What is written here has fewer than ten, and whoever walks
a value later runs out of stack where its depth has no bound."""


def parse_json(text: str | bytes) -> Any:
    """Read a JSON text whose values are of bounded depth and can be printed.

    Raises:
        ValueError: It is no JSON, is deeper than ``MAX_DEPTH``, or holds what cannot be printed:
            a number of thousands of digits, half a character.
    """
    try:
        value = json.loads(text)
        if "\\u" in text if isinstance(text, str) else b"\\u" in text:
            # Half a character, as an escape can name it, is nothing that can be printed.
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        level = [child for part in level for child in _children(part)]
        if not level:
            return value
    raise ValueError(_TOO_DEEP)


_TOO_DEEP = f"more than {MAX_DEPTH} levels inside each other"


def _children(value: Any) -> list[Any]:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [part for part in parts if isinstance(part, dict | list)]
