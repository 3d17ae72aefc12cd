"""Look into a database: what it holds nearest to texts, pictures, or rows of its own."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from rdm_batch.errors import CheckpointError, DatabaseError, ImageError
from rdm_batch.inputs.databases import Database
from rdm_batch.inputs.encoders import SHIPPED_ENCODERS, load_named_encoder, open_encoder
from rdm_batch.inputs.images import open_images
from rdm_batch.reports.search_page import Found, Query, SearchReport
from rdm_batch.retrieval.composite import CompositeRetriever
from rdm_batch.retrieval.effort import SearchEffort
from rdm_batch.retrieval.exact import check_k
from rdm_batch.retrieval.row_records import RowRecord
from rdm_batch.specs.database_search import DatabaseSearch
from rdm_batch.specs.job import EncoderSpec

_QUERY_SIDE = 192


@dataclass(frozen=True)
class _Queries:
    """Hold what is searched for: embeddings, and how each is shown."""

    embeddings: Float32[np.ndarray, "n dim"]
    labels: list[str]
    pictures: list[bytes | None]


def search_database(request: DatabaseSearch) -> SearchReport:
    """Search a database, and collect what there is to see of what was found.

    Args:
        request: What to search for.

    Raises:
        DatabaseError: There is no such database, row or number of neighbors, or another encoder
            made it.
        CheckpointError: The encoder cannot be used.
        ImageError: A picture cannot be decoded.
        SpecError: The encoder does not know a word of a text.
    """
    database = Database.open(request.uri)
    check_k(request.k, database.manifest.left, f"--k, {request.uri}")
    if request.rows is not None:
        database.check_row_ids(np.array(request.rows, dtype=np.int64), "--rows")
    database.check_stored_files()
    encoder = None if request.rows is not None else _encoder(request, database)
    pictures = [_picture(file) for file in request.image or ()]
    if encoder is not None and request.text is not None:
        open_encoder(encoder).check_texts(request.text, "--text")
    effort = SearchEffort(
        queries="texts" if request.text is not None else "pictures",
        leaves_to_search=request.leaves_to_search,
        reorder=request.reorder,
    )
    retriever = database.retriever(effort=effort)
    queries = _queries(request, encoder, pictures, retriever)
    found = retriever.search(queries.embeddings, request.k)
    ids = sorted({*found.ids.ravel().tolist(), *(request.rows or ())})
    known = retriever.records(np.array(ids, dtype=np.int64))
    records = dict(zip(ids, known, strict=True))
    thumbnails = _thumbnails(retriever, ids)
    if request.rows is not None:
        queries = _of_rows(queries, request.rows, records, thumbnails)
    return SearchReport(
        database=request.uri,
        rows=database.manifest.rows,
        encoder=database.manifest.encoder.name,
        has_thumbnails=any(shard.thumbnails for shard in database.manifest.shards),
        queries=tuple(
            Query(label, picture, tuple(_hits(ids_, scores, records, thumbnails)))
            for label, picture, ids_, scores in zip(
                queries.labels,
                queries.pictures,
                found.ids.tolist(),
                found.scores.tolist(),
                strict=True,
            )
        ),
    )


def _hits(
    ids: Iterable[int],
    scores: Iterable[float],
    records: dict[int, RowRecord],
    thumbnails: dict[int, bytes],
) -> Iterable[Found]:
    for row, score in zip(ids, scores, strict=True):
        record = records[row]
        box = record.patch_coords
        yield Found(
            row, score, record.item_id, record.caption, box, thumbnails.get(row), record.address
        )


def _encoder(request: DatabaseSearch, database: Database) -> EncoderSpec:
    """Name the encoder, and check that it is the one that made the database."""
    built_with = database.manifest.encoder.name
    name = request.encoder or built_with
    if request.encoder_weights is None and name not in SHIPPED_ENCODERS:
        raise CheckpointError(
            "--encoder-weights",
            f"is not given, and {request.uri} was built with {built_with}",
            "the weights file of that encoder",
            "name it, or search by --rows, which needs no encoder",
        )
    spec = EncoderSpec(name=name, weights=request.encoder_weights)
    open_encoder(spec).check_built(database, "--encoder")
    return spec


def _picture(location: str) -> UInt8[np.ndarray, "height width 3"]:
    source, _ = open_images(location)
    if len(source) != 1:
        raise ImageError(f"--image {location}", f"holds {len(source):,} images", "an image file")
    return source[0].image


def _queries(
    request: DatabaseSearch,
    encoder: EncoderSpec | None,
    pictures: list[UInt8[np.ndarray, "_ _ 3"]],
    retriever: CompositeRetriever,
) -> _Queries:
    if request.rows is not None:
        rows = retriever.fetch(np.array(request.rows, dtype=np.int64))
        return _Queries(rows, [f"row {row}" for row in request.rows], [None] * len(rows))
    assert encoder is not None
    loaded = load_named_encoder(encoder.name, encoder.weights)
    if request.text is not None:
        embeddings = loaded.encode_texts(request.text)
        return _Queries(embeddings, list(request.text), [None] * len(embeddings))
    names = [Path(file).name for file in request.image or ()]
    return _Queries(loaded.encode_images(pictures), names, [_small(image) for image in pictures])


def _of_rows(
    queries: _Queries,
    rows: Iterable[int],
    records: dict[int, RowRecord],
    thumbnails: dict[int, bytes],
) -> _Queries:
    """Show rows that were searched for as what they are."""
    labels = []
    for row in rows:
        record = records[row]
        labels.append(f"row {row}: {record.caption or record.item_id}")
    return _Queries(queries.embeddings, labels, [thumbnails.get(row) for row in rows])


def _thumbnails(retriever: CompositeRetriever, ids: list[int]) -> dict[int, bytes]:
    """Give the pictures of rows; none where the database stores none."""
    try:
        found = retriever.thumbnails(np.array(ids, dtype=np.int64))
    except DatabaseError:
        return {}
    return dict(zip(ids, found, strict=True))


def _small(image: UInt8[np.ndarray, "height width 3"]) -> bytes:
    picture = Image.fromarray(image)
    picture.thumbnail((_QUERY_SIDE, _QUERY_SIDE))
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()
