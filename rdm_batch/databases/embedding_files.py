"""Embeddings that others computed, as files: clip-retrieval's folders, ``.npy``, parquet."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float

from rdm_batch.databases.encode import make_thumbnail
from rdm_batch.datasets.source import ImageItem, ImageSource
from rdm_batch.datasets.tables import is_plain, parquet_errors
from rdm_batch.datasets.vectors import VectorColumn
from rdm_batch.errors import DatabaseError
from rdm_batch.files import open_regular
from rdm_batch.formats.format_error import FormatError
from rdm_batch.formats.npy_file import NpyFile
from rdm_batch.retrieval.tables import ShardRows

PIECE_ROWS: Final = 65_536
"""Rows that are read at once, at most."""
_CAPTIONS: Final = ("caption", "text", "TEXT", "prompt")
_URLS: Final = ("url", "URL")
_NAMES: Final = ("image_path", "path", "key", "id")
_EMBEDDINGS: Final = re.compile(r"img_emb_?([0-9]+)\.npy")
_PARQUET_LISTS: Final = 1_000_000


class NpyVectors:
    """Rows of a ``.npy`` array.

    Args:
        path: The file.

    Raises:
        DatabaseError: It is damaged, cut short, or holds no rows of floats.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = NpyFile(path)
            self._file.rows(0, 0)
        except FormatError as problem:
            raise DatabaseError(str(path), f"unreadable ({problem})", _WANTED_NPY) from None
        header = self._file.header
        if len(header.shape) != 2 or header.dtype.kind != "f" or 0 in header.shape:
            raise DatabaseError(str(path), f"holds {header}", _WANTED_NPY)
        self.num_rows, self.dim = header.shape
        self.dtype = "float16" if header.dtype.itemsize == 2 else "float32"

    def read(self, start: int, stop: int) -> Float[np.ndarray, "rows dim"]:
        """Read a range of rows; float64 becomes float32."""
        try:
            rows = self._file.rows(start, stop)
        except FormatError as problem:
            raise DatabaseError(str(self.path), str(problem), _WANTED_NPY) from None
        with np.errstate(over="ignore"):  # what overflows is refused as a row without direction
            return rows.astype(self.dtype, copy=False)


_WANTED_NPY = "a whole .npy array of floats of shape (N, width)"


class ParquetVectors:
    """Rows of a vector column of a parquet file; going forward is quick.

    Args:
        path: The file.
        column: The column; None finds it.

    Raises:
        DatabaseError: As ``VectorColumn``, or it holds no rows.
    """

    def __init__(self, path: Path, column: str | None) -> None:
        self.path = path
        self._column = VectorColumn(path, column)
        self.num_rows = self._column.num_rows
        first = next(self._column.batches(), None)
        if first is None or not len(first):
            raise DatabaseError(str(path), "holds no rows", "at least one")
        self.dim, self.dtype = first.shape[1], first.dtype.name

    def read(self, start: int, stop: int) -> Float[np.ndarray, "rows dim"]:
        """Read a range of rows."""
        return self._column.read(start, stop)


@dataclass(frozen=True)
class EmbeddingFile:
    """Hold one file of embeddings with what is known of its rows.

    Attributes:
        vectors: The rows.
        metadata: A parquet file of as many rows; None where nothing is known.
    """

    vectors: NpyVectors | ParquetVectors
    metadata: Path | None


@dataclass(frozen=True)
class RowPictures:
    """Hold the pictures of given rows, in their order.

    Attributes:
        source: As many as there are rows.
        size: Longest side of a thumbnail in pixels.
    """

    source: ImageSource
    size: int


class EmbeddingParts:
    """Load rows of several files, piece by piece.

    Args:
        files: The files, in row order; of one width and type.
        pictures: Their pictures, to make thumbnails of. None: there are none.

    Attributes:
        sizes: Rows of each piece.
    """

    def __init__(self, files: Sequence[EmbeddingFile], pictures: RowPictures | None = None) -> None:
        self._pictures = pictures
        self._pieces = [
            (file, start, min(start + PIECE_ROWS, file.vectors.num_rows))
            for file in files
            for start in range(0, file.vectors.num_rows, PIECE_ROWS)
        ]
        self.sizes: list[int] = [stop - start for _, start, stop in self._pieces]
        self._known: tuple[Path, pa.Table] | None = None

    def load(self, number: int) -> ShardRows:
        """Load one piece."""
        file, start, stop = self._pieces[number]
        count = stop - start
        names, captions, urls = self._facts(file, start, stop)
        stem = file.vectors.path.name
        known = zip(names, urls, strict=True)
        return ShardRows(
            first_row=0,
            embeddings=file.vectors.read(start, stop),
            item_ids=[
                name or url or f"{stem}#{start + row}" for row, (name, url) in enumerate(known)
            ],
            patch_coords=[None] * count,
            captions=captions,
            thumbnails=self._thumbnails(number, names, urls),
            urls=urls,
        )

    def _thumbnails(
        self, number: int, names: list[str | None], urls: list[str | None]
    ) -> list[bytes] | None:
        """Make the thumbnails of a piece, whose pictures are the next ones in order."""
        if self._pictures is None:
            return None
        made = []
        first = sum(self.sizes[:number])
        for place, (name, url) in enumerate(zip(names, urls, strict=True), first):
            item = self._pictures.source[place]
            if not _may_be(item, name, url):
                raise DatabaseError(
                    f"row {place:,}",
                    f"is {url if item.url else name}, and its picture {item.url or item.item_id}",
                    "the pictures of these rows, in their order",
                    "name the source that the embeddings were made of, or build without pictures",
                )
            made.append(make_thumbnail(item.image, self._pictures.size))
        return made

    def _facts(
        self, file: EmbeddingFile, start: int, stop: int
    ) -> tuple[list[str | None], list[str | None], list[str | None]]:
        """Give name, caption and address of rows; of several columns the first with a value."""
        if file.metadata is None:
            nothing: list[str | None] = [None] * (stop - start)
            return nothing, nothing, nothing
        if self._known is None or self._known[0] != file.metadata:
            self._known = file.metadata, read_facts(file.metadata)
        table = self._known[1].slice(start, stop - start)
        return _first_of(table, _NAMES), _first_of(table, _CAPTIONS), _first_of(table, _URLS)


class ChosenParts:
    """Some rows of every piece, chosen by lot, always the same ones, in their order.

    Args:
        parts: The pieces.
        share: How many of the rows of each, above 0 and at most 1.
    """

    def __init__(self, parts: EmbeddingParts, share: float) -> None:
        self._parts = parts
        self._chosen = [
            np.sort(np.random.default_rng(number).permutation(size)[: math.ceil(share * size)])
            for number, size in enumerate(parts.sizes)
        ]
        self.sizes: list[int] = [len(rows) for rows in self._chosen]

    def load(self, number: int) -> ShardRows:
        """Load the chosen rows of one piece; nothing else of them is told."""
        chosen = self._chosen[number]
        rows = self._parts.load(number)
        ids, nothing = [rows.item_ids[row] for row in chosen.tolist()], [None] * len(chosen)
        return ShardRows(0, rows.embeddings[chosen], ids, nothing, nothing, None)


def _may_be(item: ImageItem, name: str | None, url: str | None) -> bool:
    """Tell whether a picture can be that of a row, as far as both say what they are."""
    if item.url is not None and url is not None:
        return item.url == url
    if item.url is not None or name is None or "#" in item.item_id:
        return True  # rows of a table have no names
    return PurePosixPath(item.item_id).stem == PurePosixPath(name).stem


def _first_of(table: pa.Table, names: Sequence[str]) -> list[str | None]:
    columns = [table.column(name).to_pylist() for name in names if name in table.schema.names]
    return [
        next((str(value) for value in values if value not in (None, "")), None)
        for values in (zip(*columns, strict=True) if columns else [()] * len(table))
    ]


def read_facts(path: Path) -> pa.Table:
    """Read those columns of a metadata table that a database keeps; others are not looked at.

    Raises:
        DatabaseError: The file is damaged.
    """
    with parquet_errors(str(path), DatabaseError), open_regular(path) as raw:
        file = pq.ParquetFile(raw, thrift_container_size_limit=_PARQUET_LISTS)
        schema = file.schema_arrow
        wanted = [
            name
            for name in (*_NAMES, *_URLS, *_CAPTIONS)
            if schema.names.count(name) == 1 and is_plain(schema.field(name).type)
        ]
        if not wanted:
            # A table without columns has no rows to count.
            return pa.table({_NAMES[-1]: pa.nulls(file.metadata.num_rows, pa.string())})
        table = file.read(columns=wanted, use_threads=False)
        table.validate(full=True)
        return table


def open_embedding_files(
    path: Path, metadata: Path | None = None, column: str | None = None
) -> list[EmbeddingFile]:
    """Find embeddings and what is known of them, and hold their numbers of rows together.

    Args:
        path: A folder as clip-retrieval writes it, a ``.npy`` or a parquet file.
        metadata: For a ``.npy``, a parquet file.
        column: For a parquet file, its vector column.

    Returns:
        The files, in row order: of a folder by the numbers in their names.

    Raises:
        DatabaseError: Nothing usable is there, files differ in width or type, a metadata file is
            missing or has another number of rows.
    """
    files = _found(path, metadata, column)
    shapes = {(file.vectors.dim, file.vectors.dtype) for file in files}
    if len(shapes) != 1:
        found = "; ".join(f"{dim} x {dtype}" for dim, dtype in sorted(shapes))
        raise DatabaseError(str(path), f"files of {found}", "one width and one type")
    for file in files:
        if file.metadata is None or file.metadata == file.vectors.path:
            continue
        with parquet_errors(str(file.metadata), DatabaseError), open_regular(file.metadata) as raw:
            reader = pq.ParquetFile(raw, thrift_container_size_limit=_PARQUET_LISTS)
            rows = reader.metadata.num_rows
        if rows != file.vectors.num_rows:
            raise DatabaseError(
                str(file.metadata),
                f"has {rows:,} rows",
                f"{file.vectors.num_rows:,}, as {file.vectors.path.name} has",
                "name the metadata that was written with these embeddings",
            )
    return files


def _found(path: Path, metadata: Path | None, column: str | None) -> list[EmbeddingFile]:
    if path.is_dir():
        if metadata is not None or column is not None:
            raise DatabaseError(
                str(path), "is a folder", "--metadata and --column only with a file"
            )
        return _found_in(path)
    suffix = path.suffix.lower()
    if suffix == ".npy" and column is None:
        return [EmbeddingFile(NpyVectors(path), metadata)]
    if suffix == ".parquet" and metadata is None:
        return [EmbeddingFile(ParquetVectors(path, column), path)]
    raise DatabaseError(
        str(path),
        "does not go with --metadata or --column"
        if suffix in (".npy", ".parquet")
        else "is neither .npy nor .parquet",
        "a folder, a .npy with --metadata, or a .parquet with --column",
    )


def _found_in(folder: Path) -> list[EmbeddingFile]:
    """Pair ``img_emb_3.npy`` with ``metadata_3.parquet``, in ``folder`` or its known subfolders."""
    arrays: dict[int, Path] = {}
    for place in (folder, folder / "img_emb"):
        for path in sorted(place.glob("img_emb*.npy")) if place.is_dir() else ():
            match = _EMBEDDINGS.fullmatch(path.name)
            if match is not None and arrays.setdefault(int(match[1]), path) != path:
                raise DatabaseError(str(path), f"stands beside {arrays[int(match[1])]}", "one")
    if not arrays:
        raise DatabaseError(
            str(folder),
            "holds no img_emb_*.npy",
            "a folder as clip-retrieval writes it, or the name of a .npy or .parquet file",
        )
    files = []
    for _, path in sorted(arrays.items()):
        name = path.name.replace("img_emb", "metadata").replace(".npy", ".parquet")
        places = (folder / "metadata" / name, folder / name)
        metadata = next((place for place in places if place.is_file()), None)
        files.append(EmbeddingFile(NpyVectors(path), metadata))
    without = [file.vectors.path.name for file in files if file.metadata is None]
    if without and len(without) < len(files):
        found = f"no metadata for {without[0]} ({len(without)} of {len(files)} files)"
        raise DatabaseError(str(folder), found, "metadata for every file, or for none")
    return files
