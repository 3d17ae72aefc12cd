"""The texts a job embeds, and the files they may stand in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from rdm_batch.errors import SpecError
from rdm_batch.files import read_limited
from rdm_batch.specs.conditioning import MAX_PROMPT_CHARACTERS
from rdm_batch.storage.object_store import local_path

MAX_FILE_BYTES: Final = 128 << 20
"""Bytes of a file of prompts, which is held in memory: some million lines."""


@dataclass(frozen=True)
class Prompts:
    """Hold the texts to embed, in the order samples take them.

    Attributes:
        texts: What the encoder reads.
        labels: The class name of each text; None for prompts.
    """

    texts: tuple[str, ...]
    labels: tuple[str, ...] | None = None


def read_lines(uri: str, field: str) -> tuple[str, ...]:
    """Read a file of texts, one a line; empty lines do not count.

    Args:
        uri: The file.
        field: Names the file in messages, as in ``conditioning.prompts_file``.

    Raises:
        SpecError: The file is missing, is no file or beyond ``MAX_FILE_BYTES``, is not UTF-8, holds
            no text, or one of more than ``MAX_PROMPT_CHARACTERS``.
    """
    where = f"{field} {uri}"
    path = local_path(uri, error=SpecError)
    try:
        data = read_limited(path, MAX_FILE_BYTES, SpecError)
    except SpecError as error:
        raise SpecError(where, error.found, error.needed or "a text file") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SpecError(
            where, f"byte {error.start} is not UTF-8", "a UTF-8 text file, one prompt a line"
        ) from None
    lines = tuple(line.strip() for line in text.splitlines() if line.strip())
    for number, line in enumerate(lines, 1):
        if len(line) > MAX_PROMPT_CHARACTERS:
            raise SpecError(
                where,
                f"prompt {number:,} has {len(line):,} characters",
                f"at most {MAX_PROMPT_CHARACTERS:,}",
                "encoders read the first 75 words or so",
            )
    if not lines:
        raise SpecError(where, "holds no prompt", "at least one line of text")
    return lines
