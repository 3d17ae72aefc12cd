"""Small tables that others wrote: CSV, JSON lines, parquet; plain values, bounded costs."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from rdm_batch.errors import RdmBatchError, SpecError
from rdm_batch.files import UNREADABLE, open_regular, read_limited
from rdm_batch.formats.format_error import FormatError
from rdm_batch.formats.json_text import parse_json

TABLE_SUFFIXES: Final = (".csv", ".jsonl", ".parquet")
MAX_TABLE_BYTES: Final = 128 << 20
"""Bytes of the file of a table that is held in memory."""
MAX_VALUE_BYTES: Final = 1 << 30
"""Bytes of its values: a parquet file may repeat a long text at no cost to itself."""
MAX_COLUMNS: Final = 1_000
MAX_ROWS: Final = 10_000_000
_BATCH_ROWS: Final = 4_096
_PARQUET_LISTS: Final = 1_000_000


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a table by its suffix: ``.csv`` with a header, ``.jsonl`` of objects, or ``.parquet``.

    Values of CSV are texts, an empty one is none. Values of JSON keep their kind; a column of
    several kinds is refused, and one that is missing in an object has no value there.

    Args:
        path: The file.
        columns: Names of the columns wanted. None: all.

    Raises:
        SpecError: The file is missing, of another kind, damaged or too large, a column is missing
            or there twice, or its values are no texts, numbers or truth values.
    """
    read = {".csv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
    reader = read.get(path.suffix.lower())
    if reader is None:
        raise SpecError(str(path), "is no table", f"one of {', '.join(TABLE_SUFFIXES)}")
    table = reader(path, columns)
    for name in table.schema.names:
        if not is_plain(table.schema.field(name).type):
            raise SpecError(
                str(path),
                f"column {name!r} holds {table.schema.field(name).type}",
                "texts, numbers or truth values",
                "name the columns that are wanted",
            )
    return table


def is_plain(kind: pa.DataType) -> bool:
    """Say whether values of a type are texts, numbers or truth values."""
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_null(kind)
    )


def _read_text(path: Path) -> str:
    data = read_limited(path, MAX_TABLE_BYTES, SpecError)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SpecError(str(path), f"byte {error.start} is not UTF-8", "UTF-8 text") from None


def _read_csv(path: Path, columns: Sequence[str] | None) -> pa.Table:
    reader = csv.reader(io.StringIO(_read_text(path), newline=""), strict=True)
    values: list[list[str | None]] = []
    names: list[str] = []
    try:
        names = next(reader, [])
        _check_names(path, names, columns)
        wanted = [names.index(name) for name in _chosen(names, columns)]
        values = [[] for _ in wanted]
        for row in reader:
            if not row:
                continue  # an empty line
            if len(row) != len(names):
                found = f"line {reader.line_num:,} has {len(row)} values"
                raise SpecError(str(path), found, f"{len(names)}, one a column")
            for column, place in zip(values, wanted, strict=True):
                column.append(row[place] or None)
    except csv.Error as problem:
        raise SpecError(str(path), f"line {reader.line_num:,}: {problem}", "CSV") from None
    chosen = [pa.array(column, pa.string()) for column in values]
    return pa.table(dict(zip(_chosen(names, columns), chosen, strict=True)))


def _read_jsonl(path: Path, columns: Sequence[str] | None) -> pa.Table:
    rows: list[dict[str, Any]] = []
    names: dict[str, None] = {}
    for number, line in enumerate(_read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except FormatError as problem:
            raise SpecError(str(path), f"line {number:,}: {problem}", "a JSON object") from None
        if not isinstance(row, dict):
            raise SpecError(str(path), f"line {number:,} holds no object", "a JSON object a line")
        names |= dict.fromkeys(row)
        if len(names) > MAX_COLUMNS:
            raise SpecError(str(path), "too many columns", f"at most {MAX_COLUMNS:,}")
        rows.append(row)
    _check_names(path, list(names), columns)
    found = {}
    for name in _chosen(list(names), columns):
        try:
            found[name] = pa.array([row.get(name) for row in rows])
        except (pa.ArrowException, *UNREADABLE):
            raise SpecError(
                str(path), f"column {name!r} holds values of several kinds", "one kind"
            ) from None
    return pa.table(found)


def _read_parquet(path: Path, columns: Sequence[str] | None) -> pa.Table:
    with parquet_errors(str(path), SpecError), open_regular(path) as raw:
        file = pq.ParquetFile(raw, thrift_container_size_limit=_PARQUET_LISTS)
        _check_names(path, file.schema_arrow.names, columns)
        chosen = _chosen(file.schema_arrow.names, columns)
        batches, size, rows = [], 0, 0
        for batch in file.iter_batches(_BATCH_ROWS, columns=chosen, use_threads=False):
            batch.validate(full=True)  # texts that are none, places outside of a column
            size, rows = size + batch.nbytes, rows + batch.num_rows
            if size > MAX_VALUE_BYTES or rows > MAX_ROWS:
                raise SpecError(
                    str(path),
                    f"holds more than {MAX_VALUE_BYTES >> 20:,} MiB or {MAX_ROWS:,} rows",
                    "a table that fits into memory",
                    "name the columns that are wanted, or cut it",
                )
            batches.append(batch)
        schema = pa.schema([file.schema_arrow.field(name) for name in chosen])
        table = pa.Table.from_batches(batches, schema)
    plain = pa.schema([pa.field(field.name, _decoded(field.type)) for field in table.schema])
    with parquet_errors(str(path), SpecError):
        return table.cast(plain)


def _decoded(kind: pa.DataType) -> pa.DataType:
    """Give the type of the values behind a dictionary, as categories are stored."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _chosen(names: Sequence[str], columns: Sequence[str] | None) -> list[str]:
    return list(names if columns is None else columns)


def _check_names(path: Path, names: Sequence[str], columns: Sequence[str] | None) -> None:
    if len(names) > MAX_COLUMNS:
        raise SpecError(str(path), f"{len(names):,} columns", f"at most {MAX_COLUMNS:,}")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise SpecError(str(path), f"column {twice!r} stands twice", "each name once")
    missing = next((name for name in columns or () if name not in names), None)
    if missing is not None:
        listed = ", ".join(map(repr, names)) or "none"
        raise SpecError(str(path), f"no column {missing!r}", f"one of its columns: {listed}")


@contextmanager
def parquet_errors(where: str, error: type[RdmBatchError]) -> Iterator[None]:
    """Say of whatever pyarrow raises that the file cannot be read.

    Raises:
        RdmBatchError: As ``error``, in place of an error of pyarrow or of the file system.
    """
    try:
        yield
    except RdmBatchError:
        raise
    except (pa.ArrowException, *UNREADABLE) as problem:
        reason = str(problem) or type(problem).__name__
        if isinstance(problem, OSError) and problem.strerror:
            reason = problem.strerror
        raise error(where, f"unreadable ({reason})", "a parquet file") from problem
