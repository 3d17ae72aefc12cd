"""Arrays with a JSON header in one ``.npz`` file, written and read without pickles."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from rdm_batch.errors import MetricError
from rdm_batch.formats.format_error import FormatError
from rdm_batch.formats.json_text import parse_json
from rdm_batch.formats.npz_file import NpzFile, open_npz
from rdm_batch.specs.messages import first_problem

HEADER = "header"
"""The array with the header, as text."""
MAX_HEADER_BYTES = 16 << 20


def write_npz(
    path: Path, file_format: str, header: dict[str, Any], arrays: dict[str, np.ndarray]
) -> None:
    """Write arrays and a header.

    Args:
        path: File to write.
        file_format: Name and version of the format; ``read_npz`` asks for the same.
        header: JSON values.
        arrays: Arrays by name, any name but ``header``.
    """
    text = json.dumps({"format": file_format} | header)
    members: dict[str, np.ndarray] = {HEADER: np.array(text)} | arrays
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **members)


def read_npz(
    path: Path,
    file_format: str,
    action: str,
    wanted: Callable[[str], bool] = lambda _: True,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read what ``write_npz`` wrote.

    Args:
        path: File to read.
        file_format: Format it must have.
        action: What the user can do when it does not.
        wanted: Which arrays to read.

    Raises:
        MetricError: The file is missing, damaged, holds pickles or has another format.
    """
    try:
        with open_npz(path) as file:
            header = parse_json(_read_text(file, HEADER))
            if not isinstance(header, dict) or header.pop("format", None) != file_format:
                raise FormatError("it has another format")
            names = [name for name in file.names if name != HEADER and wanted(name)]
            return header, {name: file.read(name) for name in names}
    except FormatError as problem:
        raise MetricError(
            str(path), f"not readable ({problem})", f"a file of format {file_format!r}", action
        ) from None


def _read_text(file: NpzFile, name: str) -> str:
    array = file.read(name, MAX_HEADER_BYTES)
    if array.dtype.kind != "U" or array.shape:
        raise FormatError(f"{name} is {array.dtype} of shape {array.shape}, not a text")
    try:
        # From its bytes: numpy would make texts of characters that there are not.
        return (
            array.astype(array.dtype.newbyteorder("<")).tobytes().decode("utf-32-le").rstrip("\0")
        )
    except UnicodeDecodeError:
        raise FormatError(f"{name} is no text") from None


@contextmanager
def stored_fields(path: Path, action: str) -> Iterator[None]:
    """Turn whatever a header with other fields than ours leads to into one error.

    Args:
        path: The file.
        action: What the user can do.

    Raises:
        MetricError: A field or array is missing, or is something else.
    """
    try:
        yield
    except ValidationError as error:
        raise MetricError(str(path), f"not readable ({first_problem(error)})", "", action) from None
    except KeyError as error:
        raise MetricError(str(path), f"not readable (it lacks {error})", "", action) from None
    except (FormatError, TypeError, AttributeError, ValueError) as error:
        raise MetricError(str(path), f"not readable ({error})", "", action) from None


def check_array(name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    """Refuse an array of another shape, or of texts.

    Raises:
        FormatError: It is one.
    """
    if array.shape != shape or array.dtype.kind not in "fiu":
        raise FormatError(f"{name} is {array.dtype} of shape {array.shape}; needed {shape}")
