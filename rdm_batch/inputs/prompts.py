"""The texts a job embeds, and the files they may stand in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from rdm_batch.datasets.tables import TABLE_SUFFIXES, read_table
from rdm_batch.errors import SpecError
from rdm_batch.files import canonical_digest, read_limited
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
        columns: What else is known of each text and is recorded with its samples, by name.
    """

    texts: tuple[str, ...]
    labels: tuple[str, ...] | None = None
    columns: pa.Table | None = None

    @property
    def columns_digest(self) -> str | None:
        """Identify what is recorded beside the texts; None where nothing is."""
        if self.columns is None:
            return None
        described = [
            [field.name, str(field.type), column.to_pylist()]
            for field, column in zip(self.columns.schema, self.columns.columns, strict=True)
        ]
        # Numbers that JSON lacks are told by their names.
        return canonical_digest(repr(described), escape=False)


def read_prompts(
    uri: str, field: str, column: str | None = None, columns: Sequence[str] | None = None
) -> Prompts:
    """Read prompts from a text file, or from a column of a table.

    Args:
        uri: A ``.csv``, ``.jsonl`` or ``.parquet`` table, or else a text file.
        field: Names the file in messages, as in ``conditioning.prompts_file``.
        column: The column of prompts. None: ``prompt``.
        columns: Other columns that are recorded. None: all.

    Raises:
        SpecError: As ``read_lines`` and ``read_table``; a prompt is missing or is no text; or
            columns are named of what is no table.
    """
    path = local_path(uri, error=SpecError)
    if path.suffix.lower() not in TABLE_SUFFIXES:
        if column is not None or columns is not None:
            found = f"{uri} is no table"
            raise SpecError(f"{field}, its columns", found, f"one of {', '.join(TABLE_SUFFIXES)}")
        return Prompts(read_lines(uri, field))
    where, name = f"{field} {uri}", column or "prompt"
    try:
        table = read_table(path, None if columns is None else list(dict.fromkeys((name, *columns))))
    except SpecError as error:
        raise SpecError(f"{field} {error.where}", error.found, error.needed, error.action) from None
    if name not in table.schema.names:
        listed = ", ".join(map(repr, table.schema.names)) or "none"
        raise SpecError(
            where,
            f"no column {name!r} among {listed}",
            "prompts",
            "name conditioning.prompt_column",
        )
    kind = table.schema.field(name).type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise SpecError(where, f"column {name!r} holds {kind}", "texts")
    texts = []
    for number, text in enumerate(table.column(name).to_pylist(), 1):
        if text is None or not text.strip():
            raise SpecError(where, f"row {number:,} has no {name}", "a text in every row")
        texts.append(text.strip())
    _check_texts(texts, where)
    others = table.drop_columns([name])
    return Prompts(tuple(texts), columns=others if others.num_columns else None)


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
    _check_texts(lines, where)
    return lines


def _check_texts(texts: Sequence[str], where: str) -> None:
    for number, text in enumerate(texts, 1):
        if len(text) > MAX_PROMPT_CHARACTERS:
            raise SpecError(
                where,
                f"prompt {number:,} has {len(text):,} characters",
                f"at most {MAX_PROMPT_CHARACTERS:,}",
                "encoders read the first 75 words or so",
            )
    if not texts:
        raise SpecError(where, "holds no prompt", "at least one line of text")
