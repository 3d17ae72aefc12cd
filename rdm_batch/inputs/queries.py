"""What a job gives to be conditioned on besides texts: pictures, embeddings, rows."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Int64, UInt8

from rdm_batch.datasets.folder import ImageFolder
from rdm_batch.datasets.source import ImageItem, ImageSource
from rdm_batch.datasets.tables import read_table
from rdm_batch.datasets.vectors import VectorColumn
from rdm_batch.errors import DatabaseError, ImageError, RdmBatchError, SpecError
from rdm_batch.files import canonical_digest, read_limited
from rdm_batch.formats.format_error import FormatError
from rdm_batch.formats.npy_file import NpyFile
from rdm_batch.inputs.images import open_images
from rdm_batch.retrieval.embeddings import check_embeddings
from rdm_batch.retrieval.neighbor_memory import read_neighbor_memory
from rdm_batch.storage.object_store import local_path

MAX_BYTES: Final = 2 << 30
"""Bytes of given embeddings or ids, which are in memory and travel to every head."""
MAX_PICTURES: Final = 1_000_000
_DECODE_THREADS: Final = 4
_AT_ONCE: Final = 64
_MAX_ROW_DIGITS: Final = 13


@dataclass(frozen=True, eq=False)
class GivenQueries:
    """Hold what samples are conditioned on, in the order they take it.

    Attributes:
        digest: Of all that decides samples and their provenance.
    """

    digest: str

    def __len__(self) -> int:
        """Count the queries."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class GivenPictures(GivenQueries):
    """Hold pictures, each of which has been decoded once.

    Attributes:
        location: Where they are, as ``open_images`` takes it.
        names: Name of each.
        source: The pictures.
        captions: What is said of each; None where nothing is. Not in the digest.
        sizes: Height and width of every kind of picture there is, and how many have it.
    """

    location: str
    names: tuple[str, ...]
    source: ImageSource
    captions: tuple[str | None, ...]
    sizes: Mapping[tuple[int, int], int]

    def __len__(self) -> int:
        """Count the pictures."""
        return len(self.names)


@dataclass(frozen=True, eq=False)
class GivenEmbeddings(GivenQueries):
    """Hold embeddings, one or several for each query.

    Attributes:
        name: Of the file.
        embeddings: All of them, finite and not zero.
        whole: Whether each query's embeddings are a whole context: the file has three axes.
    """

    name: str
    embeddings: Float32[np.ndarray, "queries tokens dim"]
    whole: bool

    def __len__(self) -> int:
        """Count the queries."""
        return len(self.embeddings)


@dataclass(frozen=True, eq=False)
class GivenRows(GivenQueries):
    """Hold row ids of the database, one or several for each query.

    Attributes:
        row_ids: The ids, not compared with any database yet.
    """

    row_ids: Int64[np.ndarray, "queries tokens"]

    def __len__(self) -> int:
        """Count the queries."""
        return len(self.row_ids)


def open_pictures(location: str, field: str) -> GivenPictures:
    """Open query pictures and decode each of them once.

    Args:
        location: What ``open_images`` takes.
        field: Names them in messages, as in ``conditioning.images``.

    Raises:
        ImageError: Nothing usable is there, or a picture cannot be decoded; the first is named, and
            how many there are.
        SpecError: There are too many.
    """
    source, _ = open_images(location)
    if len(source) > MAX_PICTURES:
        raise SpecError(f"{field} {location}", f"{len(source):,} pictures", f"{MAX_PICTURES:,}")
    digest, names, broken = hashlib.sha256(), [], []
    captions: list[str | None] = []
    sizes: Counter[tuple[int, int]] = Counter()
    for item in _decoded(source):
        if isinstance(item, RdmBatchError):
            broken.append(item)
            continue
        names.append(item.item_id)
        captions.append(item.caption)
        sizes[item.image.shape[:2]] += 1
        shape = "x".join(map(str, item.image.shape))
        digest.update(f"{len(item.item_id)} {item.item_id} {shape} ".encode())
        digest.update(_contiguous(item.image))
    if broken:
        first = broken[0]
        count = f" ({len(broken):,} of {len(source):,} pictures cannot be read)"
        raise ImageError(
            f"{field}, {first.where}", first.found + count, first.needed, "repair or remove them"
        )
    return GivenPictures(
        digest.hexdigest(), location, tuple(names), source, tuple(captions), dict(sizes)
    )


def _contiguous(image: UInt8[np.ndarray, "height width 3"]) -> memoryview:
    return np.ascontiguousarray(image).data


def _decoded(source: ImageSource) -> Iterator[ImageItem | RdmBatchError]:
    def decode(index: int) -> ImageItem | RdmBatchError:
        try:
            return source[index]
        except ImageError as error:
            return error

    # Other sources keep a place between calls and are asked by one thread.
    threads = _DECODE_THREADS if isinstance(source, ImageFolder) else 1
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(source), _AT_ONCE):
            yield from pool.map(decode, range(start, min(start + _AT_ONCE, len(source))))


def open_embeddings(location: str, column: str | None, field: str) -> GivenEmbeddings:
    """Read given embeddings whole, and check every row.

    Args:
        location: A ``.npy`` file of two or three axes, or a parquet file.
        column: Vector column of a parquet file; None finds it.
        field: Names the file in messages, as in ``conditioning.file``.

    Raises:
        DatabaseError: The file is missing, damaged, cut short or too large, holds something else,
            or a row is not finite or zero.
    """
    where = f"{field} {location}"
    path = local_path(location, error=DatabaseError)
    suffix = path.suffix.lower()
    if suffix == ".npy":
        if column is not None:
            raise SpecError("conditioning.column", "a .npy has no columns", "no column")
        array = _read_npy(path, where)
        if array.dtype.kind != "f" or array.ndim not in (2, 3):
            found = f"{array.dtype} of shape {array.shape}"
            raise DatabaseError(where, found, "floats of shape (N, width) or (N, k_nn, width)")
    elif suffix == ".parquet":
        array = _read_vectors(path, column, where)
    else:
        raise DatabaseError(where, "is neither .npy nor .parquet", "one of them")
    if array.size == 0:
        raise DatabaseError(where, f"holds nothing (shape {array.shape})", "at least one row")
    with np.errstate(over="ignore"):  # what overflows float32 is refused below
        embeddings = np.ascontiguousarray(array, dtype=np.float32)
    check_embeddings(embeddings.reshape(-1, embeddings.shape[-1]), where)
    digest = hashlib.sha256(f"{path.name} {embeddings.shape} ".encode())
    digest.update(embeddings.data)
    whole = embeddings.ndim == 3
    tokens = embeddings if whole else embeddings[:, None, :]
    return GivenEmbeddings(digest.hexdigest(), path.name, tokens, whole)


def _read_npy(path: Path, where: str) -> np.ndarray:
    try:
        file = NpyFile(path)
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise FormatError(f"has {size:,} bytes (at most {MAX_BYTES:,} are held in memory)")
        return file.rows()
    except FormatError as problem:
        raise DatabaseError(where, f"unreadable ({problem})", "a whole .npy array") from None


def _read_vectors(path: Path, column: str | None, where: str) -> np.ndarray:
    vectors, parts, size = VectorColumn(path, column), [], 0
    for part in vectors.batches():
        size += part.nbytes
        if size > MAX_BYTES:
            raise DatabaseError(where, f"holds more than {MAX_BYTES:,} bytes", f"{MAX_BYTES:,}")
        parts.append(part)
    return np.concatenate(parts) if parts else np.empty((0, 0), np.float32)


def rows_of(entries: Sequence[int | tuple[int, ...]], field: str) -> GivenRows:
    """Take row ids as a job file lists them.

    Args:
        entries: Ids, or tuples of as many ids each.
        field: Names them in messages.

    Raises:
        SpecError: Entries differ in length, or one is empty.
    """
    listed = [entry if isinstance(entry, tuple) else (entry,) for entry in entries]
    width = len(listed[0]) if listed else 0
    for number, entry in enumerate(listed):
        if len(entry) != width or not entry:
            raise SpecError(
                f"{field}, entry {number}", f"{len(entry)} rows", f"{width or 1}, as the first has"
            )
    return _given_rows(np.array(listed, dtype=np.int64), field)


def open_rows(location: str, field: str) -> GivenRows:
    """Read row ids from a file: text, ``.npy``, parquet, or a neighbor memory.

    Args:
        location: The file.
        field: Names it in messages, as in ``conditioning.rows_file``.

    Raises:
        RdmBatchError: The file is missing, damaged or too large, or holds something else.
    """
    where = f"{field} {location}"
    path = local_path(location, error=SpecError)
    match path.suffix.lower():
        case ".npy":
            array = _read_npy(path, where)
            if array.dtype.kind not in "iu" or array.ndim not in (1, 2):
                found = f"{array.dtype} of shape {array.shape}"
                raise SpecError(where, found, "integers of shape (N,) or (N, k_nn)")
            if array.size and int(array.max()) > np.iinfo(np.int64).max:
                raise SpecError(where, f"row id {int(array.max())}", "row ids")
            ids = array.astype(np.int64)
            return _given_rows(ids[:, None] if ids.ndim == 1 else ids, where)
        case ".parquet":
            column = read_table(path, ["row_id"]).column("row_id")
            if column.null_count or not pa.types.is_signed_integer(column.type):
                raise SpecError(where, f"row_id holds {column.type} or gaps", "int64 row ids")
            return _given_rows(column.to_numpy().astype(np.int64)[:, None], where)
        case ".p":
            return _given_rows(read_neighbor_memory(path).row_ids[:, None], where)
        case ".txt":
            return _given_rows(_read_ids(path, where), where)
    raise SpecError(where, "is of no known kind", ".txt, .npy, .parquet or .p")


def _read_ids(path: Path, where: str) -> Int64[np.ndarray, "queries tokens"]:
    rows: list[list[int]] = []
    text = read_limited(path, MAX_BYTES >> 4, SpecError).decode("ascii", "replace")
    for number, line in enumerate(text.splitlines(), 1):
        words = line.replace(",", " ").split()
        wrong = [word for word in words if not (word.isdigit() and len(word) <= _MAX_ROW_DIGITS)]
        if wrong:
            found = f"line {number:,} holds {wrong[0][:40]!r}"
            raise SpecError(where, found, "row ids, separated by spaces or commas")
        if words:
            rows.append([int(word) for word in words])
            if len(rows[-1]) != len(rows[0]):
                found = f"line {number:,} holds {len(words)} rows"
                raise SpecError(where, found, f"{len(rows[0])}, as the first line has")
    return np.array(rows, dtype=np.int64).reshape(len(rows), -1 if rows else 1)


def _given_rows(ids: Int64[np.ndarray, "queries tokens"], where: str) -> GivenRows:
    if ids.size == 0:
        raise SpecError(where, "holds no rows", "at least one")
    digest = hashlib.sha256(f"{ids.shape} ".encode())
    digest.update(np.ascontiguousarray(ids, dtype="<i8").data)
    return GivenRows(digest.hexdigest(), ids)


@dataclass(frozen=True, eq=False)
class GivenPath(GivenQueries):
    """Hold the pictures that a path of queries goes through.

    Attributes:
        pictures: Place on the path to the picture there.
    """

    pictures: dict[int, GivenPictures]
    num_points: int

    def __len__(self) -> int:
        """Count the ends of the path and what lies between them."""
        return self.num_points


def open_path(points: Sequence[dict[str, str | int]], field: str) -> GivenPath:
    """Open the pictures of a path.

    Args:
        points: For each point its kind (``text``, ``image`` or ``row``) and its value.
        field: Names the path in messages.

    Raises:
        ImageError: A picture cannot be decoded, or several stand where one belongs.
    """
    pictures, described = {}, []
    for place, point in enumerate(points):
        ((kind, value),) = point.items()
        if kind == "image":
            opened = open_pictures(str(value), f"{field}.{place}.image")
            if len(opened) != 1:
                where = f"{field}.{place}.image {value}"
                raise ImageError(where, f"holds {len(opened):,} images", "an image file")
            pictures[place], value = opened, opened.digest
        described.append([kind, value])
    return GivenPath(canonical_digest(described, escape=False), pictures, len(points))
