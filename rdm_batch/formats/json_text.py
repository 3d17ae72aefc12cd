"""JSON that others wrote."""

from __future__ import annotations

import json
from typing import Any

from rdm_batch.formats.format_error import FormatError


def parse_json(text: str | bytes) -> Any:
    """Read JSON, at most as deep as Python's reader goes.

    Raises:
        FormatError: It is damaged, nested deeper than any real file, or holds a number that
            is none (NaN, Infinity) or has thousands of digits.
    """
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError:
        raise FormatError("its JSON nests too deep") from None
    except ValueError as problem:
        raise FormatError(f"its JSON is damaged: {problem}") from None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")
