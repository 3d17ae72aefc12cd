"""Arrays with a JSON header in one ``.npz`` file, written and read without pickles."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rdm_batch.errors import MetricError

HEADER = "header"


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
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            header = json.loads(str(file[HEADER]))
            if header.pop("format") != file_format:
                raise ValueError("another format")
            names = [name for name in file.files if name != HEADER and wanted(name)]
            return header, {name: file[name] for name in names}
    except (
        *(OSError, EOFError, zipfile.BadZipFile),
        # What numpy and json raise on files that are something else altogether.
        *(ValueError, KeyError, TypeError, AttributeError),
    ) as error:
        raise MetricError(
            str(path),
            f"not readable ({type(error).__name__}: {error})",
            f"a file of format {file_format!r}",
            action,
        ) from error
